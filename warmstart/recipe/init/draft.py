"""A recipe in the making. The parts that a recipe cannot have are found by checking it, and become comments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import Document, KeyPath, Place, Problem, dotted, shown, summarize
from warmstart.recipe.checks import find_problems
from warmstart.recipe.init.names import SOME_REGISTRY, is_image, recipe_name, warm_name
from warmstart.recipe.init.probes import ACTIONS, PROBES, Hints, ProbePlan, plan_probes
from warmstart.recipe.init.waiting import words_of
from warmstart.recipe.load import SCHEMA_HINT
from warmstart.recipe.pods import Block, blocks_at, mapping_at
from warmstart.recipe.schema import IGNORED, schema_at
from warmstart.recipe.variables import list_references

#: The image of a recipe whose base image is to be named yet; it is never written.
UNNAMED = f"{SOME_REGISTRY}/unnamed"
_UNKNOWN_PROBE = {"tcpSocket": {"port": 1}}
_FATAL = ((), ("apiVersion",), ("name",), ("container",), ("container", "image"), ("image",), ("image", "name"))


@dataclass
class Draft:
    """A recipe in the making: its parts, and its comments.

    Attributes:
        name: of the object or the image it is made from.
        subject: the same for messages.
        kind: the error if no recipe can be made.
        container: the pod's container.
        hints: where a port was found.
        liveness: a probe to fall back on.
        volumes: the pod's volumes.
        pod_context: the pod's own security context.
        init: the init containers that run before the build.
        build: stand-ins.
        late: names of variables that differ between the build and the pod.
        about: remarks on the base image.
        to_do: reasons why the recipe cannot be built, or will not start, as it stands.
        stanzas: examples in YAML for these reasons.
        notes: parts that are left out, and other remarks.
        settles: whether the application is expected to run on; see `plan_probes`.
        terse: whether values that are defaults are left out.
    """

    name: str
    subject: str
    kind: type[InputError]
    container: Block
    hints: Hints
    liveness: Any = None
    volumes: list[Any] = field(default_factory=list)
    pod_context: Block = field(default_factory=dict)
    init: list[Block] = field(default_factory=list)
    build: Block = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)
    stanzas: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settles: bool = False
    terse: bool = False


@dataclass(frozen=True)
class CheckedDraft:
    """The parts of a draft that a recipe can have.

    Attributes:
        recipe: the recipe, complete but for its image or probe if these are unknown.
        probes: remarks on its probes.
        notes: remarks on parts that were left out.
        unnamed: whether its image is unknown.
    """

    recipe: Block
    probes: ProbePlan
    notes: tuple[str, ...]
    unnamed: bool


def check_draft(draft: Draft) -> CheckedDraft:
    """Leave out the parts of a draft that are not accepted.

    Raises:
        InputError: nothing would be left; of the draft's kind.
    """
    recipe = _assemble(draft)
    unnamed = not is_image(recipe["container"].get("image"))
    if unnamed:
        recipe["container"] = {"image": UNNAMED} | {
            key: value for key, value in recipe["container"].items() if key != "image"
        }
    found: list[tuple[str, str]] = []
    liveness, hints = draft.liveness, draft.hints
    while True:
        container = dict(recipe["container"])
        plan = plan_probes(container, _tidied(liveness, _READINESS), hints, settles=draft.settles)
        settled = {"build": {**recipe.get("build", {}), "settled": plan.settled}} if plan.settled else {}
        complete = {
            **recipe,
            **settled,
            "container": {**container, **({"readinessProbe": _UNKNOWN_PROBE} if plan.example else {})},
        }
        problems = find_problems(Document(complete, {(): Place("", 0)}))
        if not problems:
            whole = {**recipe, "container": _tidied(container, ("container",)), **settled}
            whole["image"] = whole.pop("image")
            return CheckedDraft(whole, plan, tuple(_grouped(found)), unnamed)
        culprits = _left_out(complete, problems, draft)
        found += [(_label(complete, problem.path), problem.message) for problem in problems]
        if any(culprit[:2] == _READINESS for culprit in culprits) and "readinessProbe" not in recipe["container"]:
            liveness, hints = None, hints if liveness else Hints()
        recipe = _settled(_pruned(recipe, culprits, ()), complete, found)


_READINESS: KeyPath = ("container", "readinessProbe")


def _assemble(draft: Draft) -> Block:
    image = draft.container.get("image")
    name = recipe_name(draft.name)
    build = {**draft.build, **({"init": _init_entries(draft.init)} if draft.init else {})}
    if "services" in build:
        build["services"] = _tidied(build["services"], ("build", "services"), terse=draft.terse)
    parts: Block = {
        "container": draft.container,
        "volumes": draft.volumes,
        "securityContext": draft.pod_context,
        "initContainers": draft.init,
    }
    tidied = {key: _tidied(value, (key,), terse=draft.terse) for key, value in parts.items()}
    return {
        "apiVersion": (schema_at(("apiVersion",)) or {})["const"],
        "name": name,
        **{key: value for key, value in tidied.items() if value or key == "container"},
        **({"build": build} if build else {}),
        "image": {"name": warm_name(image if isinstance(image, str) and is_image(image) else None, name)},
    }


def _init_entries(blocks: Sequence[Block]) -> list[Block]:
    return [{"container": block.get("name")} for block in blocks]


def _tidied(value: Any, path: KeyPath, *, terse: bool = False) -> Any:
    """Return the value in the order of the schema, without parts that are empty, ignored, or constant.

    If `terse`, defaults are left out too.
    """
    if isinstance(value, list):
        return [_tidied(item, (*path, index), terse=terse) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    order = [*(schema_at(path) or {}).get("properties", {})]
    if path[0] == "initContainers" and "name" in order:
        order.remove("name")
        order.insert(0, "name")
    rank = {key: order.index(key) if key in order else len(order) for key in value}
    tidied = {key: _tidied(value[key], (*path, key), terse=terse) for key in sorted(value, key=rank.__getitem__)}
    return {key: item for key, item in tidied.items() if not _says_nothing(item, (*path, key), terse=terse)}


def _says_nothing(value: Any, path: KeyPath, *, terse: bool) -> bool:
    schema = schema_at(path) or {}
    only_choice = "const" in schema and bool(value == schema["const"])
    is_default = terse and "default" in schema and bool(value == schema["default"])
    if path[0] == "initContainers" and path[2:] == ("name",):
        return False  # build.init refers to it
    empty = value in (None, {}, []) and path[-1] != "emptyDir"
    return empty or schema.get("$ref") == IGNORED or only_choice or is_default


def _left_out(recipe: Block, problems: list[Problem], draft: Draft) -> set[KeyPath]:
    """Return the paths to take out of a recipe because of its problems."""
    culprits = {problem: _culprit(recipe, problem.path) for problem in problems}
    fatal = [problem for problem, path in culprits.items() if path in _FATAL]
    if fatal:
        brief, details = summarize(draft.subject, fatal)
        raise draft.kind(brief, details=details, hint=SCHEMA_HINT)
    return set(culprits.values())


def _culprit(recipe: Any, path: KeyPath) -> KeyPath:
    """Return the part of a recipe to take out because of a problem at a path.

    An item of a list goes as a whole: a variable without its value would be another variable. Init containers and
    services are looked into, unless they lack their image, and a probe goes with its action. If a field is missing, its
    parent goes.
    """
    depth = _holder_depth(path)
    inner = path[depth or 1 :]
    if inner[1:2] and inner[0] in PROBES and inner[1] in ACTIONS:
        # A probe without its action is none.
        return path[: (depth or 1) + 1]
    value = recipe
    found: KeyPath = ()
    for position, key in enumerate(path):
        if isinstance(value, dict) and key not in value:
            break
        value = value[key]
        found = (*found, key)
        if isinstance(key, int) and position >= depth:
            break
    if depth and (len(found) <= depth or found[depth:] == ("image",)):
        return found[: 2 if path[0] == "initContainers" else 3]
    return found


def _holder_depth(path: KeyPath) -> int:
    """Return the number of keys that lead to an init container or to the container of a service; 0 elsewhere."""
    if path[:1] == ("initContainers",) and len(path) > 1:
        return 2
    return 4 if path[:2] == ("build", "services") and path[3:4] == ("container",) else 0


def _pruned(value: Any, culprits: set[KeyPath], path: KeyPath) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if (*path, key) not in culprits}
        return {key: _pruned(item, culprits, (*path, key)) for key, item in kept.items()}
    if isinstance(value, list):
        kept_items = [(index, item) for index, item in enumerate(value) if (*path, index) not in culprits]
        return [_pruned(item, culprits, (*path, index)) for index, item in kept_items]
    return value


def _label(recipe: Block, path: KeyPath) -> str:
    """Return the name of a part for people: variables, mounts and volumes by name, all else by path."""
    value: Any = recipe
    for key in path[:3]:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) else None
        else:
            value = mapping_at(value).get(key)
    if len(path) > 2 and isinstance(value, dict) and path[0] == "container":
        if path[1] == "env" and isinstance(value.get("name"), str):
            return f"the variable {shown(value['name'])}"
        if path[1] == "volumeMounts" and isinstance(value.get("mountPath"), str):
            return f"the mount {shown(value['mountPath'])}"
    if path[:1] == ("volumes",) and len(path) > 1 and isinstance(path[1], int):
        return _label_volume(recipe, recipe["volumes"][path[1]])
    if path[:1] == ("initContainers",) and len(path) > 1 and isinstance(path[1], int):
        name = mapping_at(recipe["initContainers"][path[1]]).get("name")
        return ": ".join(part for part in (f"the init container {shown(str(name))}", dotted(path[2:])) if part)
    return dotted(path)


def _label_volume(recipe: Block, volume: Any) -> str:
    name = mapping_at(volume).get("name")
    mounts = blocks_at(recipe, "container", "volumeMounts")
    places = [shown(str(mount.get("mountPath"))) for mount in mounts if mount.get("name") == name]
    return f"the volume {shown(str(name))}" + (f", mounted at {', '.join(places)}" if places else "")


def _grouped(found: Sequence[tuple[str, str]]) -> list[str]:
    """Return one note for each message, with all parts that it is about."""
    by_message: dict[str, dict[str, None]] = {}
    for label, message in found:
        by_message.setdefault(message, {})[label] = None
    return [": ".join(part for part in ("; ".join(labels), message) if part) for message, labels in by_message.items()]


def _settled(recipe: Block, before: Block, found: list[tuple[str, str]]) -> Block:
    """Take out the parts that depend on others which are gone, with remarks."""
    recipe = {key: value for key, value in recipe.items() if value not in ({}, [])}
    recipe = _without_mounts(recipe)
    recipe = _without_references(recipe, before, found)
    recipe = _writable(recipe, before, found)
    if "build" in recipe:
        names = [block.get("name") for block in blocks_at(recipe, "initContainers")]
        kept = [entry for entry in blocks_at(recipe, "build", "init") if entry.get("container") in names]
        build = {**recipe["build"], "init": kept}
        build = {key: value for key, value in build.items() if value not in ({}, [])}
        recipe = {key: value for key, value in {**recipe, "build": build}.items() if value not in ({}, [])}
    return recipe


def _without_mounts(recipe: Block) -> Block:
    """Take out mounts of volumes that are gone."""
    names = [volume.get("name") for volume in blocks_at(recipe, "volumes")]

    def keep(block: Block) -> Block:
        mounts = block.get("volumeMounts")
        if not isinstance(mounts, list):
            return block
        left = [mount for mount in mounts if not isinstance(mount, dict) or mount.get("name") in names]
        return {key: value for key, value in {**block, "volumeMounts": left}.items() if value or key != "volumeMounts"}

    inits = [keep(block) if isinstance(block, dict) else block for block in recipe.get("initContainers", [])]
    recipe = {**recipe, "container": keep(recipe["container"])}
    return {**recipe, "initContainers": inits} if inits else recipe


def _without_references(recipe: Block, before: Block, found: list[tuple[str, str]]) -> Block:
    """Take out variables that refer to others that are gone."""
    env = recipe["container"].get("env", [])
    known = {str(item.get("name")) for item in blocks_at(before, "container", "env")}
    while True:
        gone = known - {str(item.get("name")) for item in env if isinstance(item, dict)}
        lost = {
            str(item.get("name")): sorted(names)
            for item in env
            if isinstance(item, dict) and (names := set(list_references(str(item.get("value", "")))) & gone)
        }
        if not lost:
            break
        for name, referred in lost.items():
            found.append(
                (f"the variable {shown(name)}", f"it refers to {', '.join(map(shown, referred))}, which is left out")
            )
        env = [item for item in env if str(item.get("name")) not in lost]
    lost_words = sorted(set(list_references(" ".join(words_of(recipe["container"])))) & gone)
    found += [
        ("the command", f"it refers to {shown(name)}, which is left out, and gets $({shown(name)}) as it is")
        for name in lost_words
    ]
    container = {**recipe["container"], "env": env}
    return {**recipe, "container": {key: value for key, value in container.items() if value or key != "env"}}


def _writable(recipe: Block, before: Block, found: list[tuple[str, str]]) -> Block:
    """Make the root file system writable if a mount that could be written to is gone."""
    context = mapping_at(recipe, "container", "securityContext")
    left = {str(mount.get("mountPath")) for mount in blocks_at(recipe, "container", "volumeMounts")}
    gone = [
        shown(str(mount.get("mountPath")))
        for mount in blocks_at(before, "container", "volumeMounts")
        if str(mount.get("mountPath")) not in left and not mount.get("readOnly")
    ]
    if not gone or not context.get("readOnlyRootFilesystem"):
        return recipe
    found.append(
        (
            "container.securityContext.readOnlyRootFilesystem",
            f"left out, because the application could write to {', '.join(gone)}, which is not mounted in the build",
        )
    )
    context = {key: value for key, value in context.items() if key != "readOnlyRootFilesystem"}
    container = {**recipe["container"], "securityContext": context}
    return {**recipe, "container": {key: value for key, value in container.items() if value != {}}}
