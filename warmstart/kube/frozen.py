"""Frozen values: variables and the command line, which a restored container has from the build, whatever its pod says.

An image that restores itself compares the variables with the pod's and says what differs. A runtime compares nothing,
so a manifest is refused here unless the user accepts the build's values. Messages have names, never values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import Document, KeyPath, shown
from warmstart.kube.environment import (
    CONFIG_MAP,
    SECRET,
    Objects,
    Variable,
    expand_known,
    read_environment,
    read_fields,
    read_stand_ins,
)
from warmstart.kube.manifests import list_blanked
from warmstart.kube.settings import BuildInfo, Setting
from warmstart.recipe.complete import BLANKED
from warmstart.recipe.model import EVERY, OnDifference, is_late, is_own
from warmstart.recipe.pods import Block, PodContainer, blocks_at, find_containers, mapping_at
from warmstart.recipe.secret_names import secret_reason

_COMMAND_LINE = ("command", "args")
_MOST_NAMES = 400
_COMPARED = "the build had it, and an image that restores itself compares the variables of its pod"


@dataclass(frozen=True)
class Difference:
    """A frozen value that is not the build's.

    Attributes:
        name: the variable, `command`, `args`, or an object in `envFrom` whose keys are not known.
        why: the difference, without the value.
        path: where the pod's value stands in the container.
        config_map: the ConfigMap that both values come from, if it is not known whether they differ.
        new: whether it is a variable that the recipe does not have.
    """

    name: str
    why: str
    path: KeyPath
    config_map: str = ""
    new: bool = False


@dataclass(frozen=True)
class Frozen:
    """The frozen values of a build and of a pod.

    Attributes:
        differences: values that differ, or may differ.
        missing: names of variables of the build that the pod does not have.
        unread: whether the pod has objects in `envFrom` whose keys are not known.
        late: names of late variables that the pod has.
    """

    differences: tuple[Difference, ...]
    missing: tuple[str, ...]
    unread: bool
    late: tuple[str, ...]


def compare_frozen(build: BuildInfo, one: PodContainer, manifests: Sequence[Any]) -> Frozen:
    """Compare the variables and the command line of a pod with those of the build.

    Args:
        build: the image.
        one: the container to restore.
        manifests: all documents of its file, for the ConfigMaps in it.
    """
    stand_ins = read_stand_ins(build.stand_ins)
    had = _leave_own(read_environment(build.container, stand_ins)[0])
    objects = Objects(fields=read_fields(one.manifest, one.pod_path))
    objects.add(manifests)
    # What is not in the file is assumed to be as in the build, and said.
    assumed = stand_ins.data.keys() - objects.data.keys()
    objects.data |= {key: stand_ins.data[key] for key in assumed}
    has, unknown = read_environment(_with_limits(build, one.block), objects)
    has = _leave_own(has)
    found = [
        Difference(source.origin.name, f"{source.origin}, whose keys the recipe does not have", source.path, new=True)
        for source in unknown
    ]
    for name, variable in has.items():
        if not is_late(name, build.late) and (difference := _compare(name, variable, had.get(name))):
            found.append(difference)
        elif not is_late(name, build.late) and (variable.origin.kind, variable.origin.name) in assumed:
            why = f"{variable.origin}, which is not in this file"
            found.append(Difference(name, why, variable.path, config_map=variable.origin.name))
    found += _compare_commands(build, one.block, had, has)
    return Frozen(
        tuple(found),
        tuple(name for name in had if name not in has and not is_late(name, build.late)),
        bool(unknown),
        tuple(name for name in has if is_late(name, build.late)),
    )


def _leave_own(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """Leave out variables for warmstart."""
    return {name: variable for name, variable in variables.items() if not is_own(name)}


def _with_limits(build: BuildInfo, container: Block) -> Block:
    """Return the container with the limits of the build, which a changed manifest has."""
    resources = mapping_at(container, "resources")
    limits = {**mapping_at(resources, "limits"), **mapping_at(dict(build.container), "resources", "limits")}
    return {**container, "resources": {**resources, "limits": limits}}


def _compare(name: str, has: Variable, had: Variable | None) -> Difference | None:
    origin = has.origin
    if had is None:
        return Difference(name, f"the recipe does not have it ({origin})", has.path, new=True)
    if has.value is not None and had.value is not None:
        return None if has.value == had.value else Difference(name, f"the build had another value ({origin})", has.path)
    if has.value is None and origin.kind == CONFIG_MAP and origin == had.origin:
        # Optional, and neither the build nor the file has it.
        return Difference(name, f"{origin}, which is not in this file", has.path, config_map=origin.name)
    if origin.kind == SECRET or had.origin.kind == SECRET:
        return Difference(name, f"{origin}, and the build had a stand-in for a Secret", has.path)
    return Difference(name, f"{origin}, and the build had another value", has.path)


def _compare_commands(
    build: BuildInfo, container: Block, had: dict[str, Variable], has: dict[str, Variable]
) -> Iterator[Difference]:
    for key in _COMMAND_LINE:
        words = container.get(key)
        if not isinstance(words, list) or not words:
            continue
        if words != build.container.get(key):
            yield Difference(key, "the build was started with another one", (key,))
            continue
        for word in map(str, words):
            now, origin = expand_known(word, has)
            if now is None or now != expand_known(word, had)[0]:
                why = f"{origin}, whose value differs" if now is None else "it refers to a variable that differs"
                yield Difference(key, why, (key,))
                break


def list_variable_changes(build: BuildInfo, frozen: Frozen) -> Iterator[Setting]:
    """Yield variables of the recipe that an image that restores itself compares, and that the pod lacks.

    Values that are probably secrets are left out, and so are references to objects.
    """
    if not build.by_itself or frozen.unread:
        return
    last = {str(block.get("name")): block for block in blocks_at(build.container.get("env"))}
    for name in frozen.missing:
        value = last.get(name, {}).get("value")
        if isinstance(value, str) and value != BLANKED and not secret_reason(name, value):
            yield Setting(("env",), {"name": name, "value": value}, _COMPARED, item="name")


def refuse_frozen(
    build: BuildInfo, frozen: Frozen, accepted: Collection[str], document: Document, path: KeyPath, name: str
) -> None:
    """Refuse a manifest with frozen values that a runtime would silently replace with the build's.

    Args:
        build: the image.
        frozen: as compared.
        accepted: names of the values that the user accepts as they were in the build.
        document: the document with the container.
        path: of the container in the document.
        name: name of the file in messages.

    Raises:
        ManifestError: a frozen value differs, and is not accepted.
    """
    if not build.by_runtime or EVERY in accepted:
        return
    refused = [one for one in frozen.differences if not one.config_map and one.name not in accepted]
    if not refused:
        return
    values = "a frozen value differs" if len(refused) == 1 else f"{len(refused)} frozen values differ"
    options = " ".join(dict.fromkeys(f"--accept-frozen {shown(one.name)}" for one in refused))
    hint = f"to go on with the build's values, add {options}"
    if any(one.name not in _COMMAND_LINE for one in refused):
        late = "; name variables that the application reads again under `late` in the recipe" if build.by_itself else ""
        hint = f"mount what must differ as files{late}; {hint}"
    raise ManifestError(
        f"{name}: {values} from the build's, and a container that the runtime restores keeps the build's",
        details=[
            f"{document.place((*path, *one.path)).label}: {shown(one.name)}: {shown(one.why, 200)}" for one in refused
        ],
        hint=hint,
    )


def list_frozen_warnings(build: BuildInfo, frozen: Frozen, accepted: Collection[str]) -> Iterator[str]:
    """Describe what a restored container makes of frozen and late variables, a sentence each."""
    by_map: dict[str, list[str]] = {}
    for one in frozen.differences:
        by_map.setdefault(one.config_map, []).append(one.name)
    variables = [one.name for one in frozen.differences if not one.config_map and one.path[0] not in _COMMAND_LINE]
    for key in (one for one in frozen.differences if one.path[0] in _COMMAND_LINE):
        yield f"{key.name}: {key.why}; {_say_command_line(build, key.name)}"
    if variables and build.by_runtime:
        yield f"env: a container that the runtime restores keeps the values of the build: {_join(variables)}"
    new = [one.name for one in frozen.differences if one.new]
    if build.by_itself and (changed := [name for name in variables if name not in new]):
        yield f"env: not as in the build: {_join(changed)}; {_ANSWERS[build.on_difference]}"
    if build.by_itself and new:
        yield f"env: the recipe does not have {_join(new)}, and a restored application does not see it"
    for config_map in filter(None, by_map):
        yield (
            f"env: a restored container has the values that the ConfigMap {shown(config_map)} had for the build: "
            f"{_join(by_map[config_map])}"
        )
    added = {change.value["name"] for change in list_variable_changes(build, frozen)}
    if missing := [name for name in frozen.missing if name not in added]:
        by_itself = f"; {_ANSWERS[build.on_difference]}" if build.by_itself else ""
        yield f"env: a restored container has variables that this pod lacks: {_join(missing)}{by_itself}"
    if frozen.late and build.by_runtime:
        yield (
            f"late: {_join(frozen.late)}: after a restore by the runtime, /.warmstart/env is empty; "
            "the application must find these values elsewhere, such as in a mounted Secret"
        )
    names = {one.name for one in frozen.differences}
    if idle := [name for name in accepted if name != EVERY and name not in names]:
        yield f"--accept-frozen {_join(idle)}: no frozen value of that name differs"


def _say_command_line(build: BuildInfo, key: str) -> str:
    if build.by_itself and key == "args":
        return "an image that restores itself starts cold with other ones"
    return "a restored container goes on with that of the build"


def list_new_warnings(build: BuildInfo, manifests: Sequence[Block]) -> Iterator[str]:
    """Describe what manifests that were made of a build cannot give a restored container, a sentence each."""
    if blanked := list_blanked(build):
        yield f"env: left out, because their values are secrets: {_join(blanked)}; use valueFrom in the recipe"
    for one in (found for manifest in manifests for found in find_containers(manifest)):
        frozen = compare_frozen(build, one, manifests)
        yield from list_frozen_warnings(build, replace(frozen, missing=()), ())


_ANSWERS = {
    OnDifference.COLD: "an image that restores itself then starts cold (onDifference: cold)",
    OnDifference.WARN: "an image that restores itself keeps the build's and warns in its log (onDifference: warn)",
}


def _join(names: Collection[str]) -> str:
    return shown(", ".join(names), _MOST_NAMES)
