"""Prepare a recipe before it is checked: services from their manifests, the init containers that run, mounted volumes.

A pasted pod has more than a build uses. Init containers and volumes that it does not use are left out first, so that
only the others are checked. Every value keeps the line of the file that it is from.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import Document, KeyPath, Problem, shown, walk
from warmstart.recipe.objects import FoundContainer, Objects, ServiceObject, find_path, read_file
from warmstart.recipe.patience import make_patient
from warmstart.recipe.pods import (
    Block,
    PodContainer,
    SeveralContainersError,
    choose_container,
    list_at,
    list_claims,
    mapping_at,
    merge_contexts,
)
from warmstart.recipe.schema import IGNORED, REFUSED, schema_at
from warmstart.recipe.sources import list_names

_BEHIND = 1 << 24
_SERVICES = ("build", "services")
#: The schema refuses more.
MOST_SERVICES = 64
_CONTAINER: KeyPath = (*_SERVICES, 0, "container")
# Of no use beside a build, where a service is not restarted, and nothing is attached to it.
_USELESS = frozenset({"lifecycle", "stdin", "stdinOnce", "tty", "terminationMessagePath", "livenessProbe", "name"})
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_NAMESPACE = "default"
# Of the pod's security context.
_OF_CONTAINERS = ("runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups", "seccompProfile", "appArmorProfile")
# A service runs under the runtime's own.
_PROFILES = frozenset({"seccompProfile", "appArmorProfile"})
# Types of a hostPath.
_DIRECTORIES = (None, "", "Directory", "DirectoryOrCreate")


def arrange(document: Document, objects: Objects, directory: Path | None) -> list[str]:
    """Put services from manifests into a recipe, and leave out the parts of its pod that the build does not use.

    Mistakes become problems of the document.

    Args:
        document: the recipe, unchecked.
        objects: those of the recipe, whose Services name its services.
        directory: where relative paths start; None to refuse all paths.

    Returns:
        warnings for the user.
    """
    if not isinstance(document.value, dict):
        return []
    warnings = _put_services(document, objects, directory)
    _choose_init(document)
    _spread_contexts(document)
    _tidy_volumes(document, ("volumes",), _list_mounted(document.value))
    for index, service in enumerate(list_at(document.value, *_SERVICES)[:MOST_SERVICES]):
        if isinstance(service, dict) and "volumes" in service:
            names = _list_names_of_mounts(service.get("container"))
            _tidy_volumes(document, (*_SERVICES, index, "volumes"), names)
    return warnings


def _list_mounted(recipe: Block) -> set[str]:
    blocks = [recipe.get("container"), *list_at(recipe, "initContainers")]
    return {name for block in blocks for name in _list_names_of_mounts(block)}


def _list_names_of_mounts(block: Any) -> set[str]:
    mounts = block.get("volumeMounts") if isinstance(block, dict) else None
    names = [mount.get("name") for mount in mounts if isinstance(mount, dict)] if isinstance(mounts, list) else []
    return {name for name in names if isinstance(name, str)}


def _choose_init(document: Document) -> None:
    """Keep the init containers that `build.init` names, in the order of the pod."""
    blocks = list_at(document.value, "initContainers")
    known = {
        name: index for index, block in enumerate(blocks) if isinstance(name := mapping_at(block).get("name"), str)
    }
    wanted: set[str] = set()
    for index, item in enumerate(list_at(document.value, "build", "init")):
        name = item.get("container") if isinstance(item, dict) else None
        path: KeyPath = ("build", "init", index, "container")
        if not isinstance(name, str):
            continue
        if name not in known:
            _report(
                document, path, f"there is no init container {shown(name)}; initContainers has: {list_names(known)}"
            )
        elif blocks[known[name]].get("restartPolicy") == "Always":
            _report(document, path, f"{shown(name)} does not end by itself: make it one of build.services")
        wanted.add(name)
    _keep(document, ("initContainers",), sorted(known[name] for name in wanted if name in known))


def _spread_contexts(document: Document) -> None:
    """Move the users and groups of pods into their containers, whose own come first, as in a pod."""
    inits = list_at(document.value, "initContainers")
    _spread_context(document, (), [("container",), *(("initContainers", index) for index in range(len(inits)))])
    for index in range(len(list_at(document.value, *_SERVICES))):
        _spread_context(document, (*_SERVICES, index), [(*_SERVICES, index, "container")])


def _spread_context(document: Document, pod: KeyPath, containers: Sequence[KeyPath]) -> None:
    holder = _at(document.value, pod)
    context = holder.get("securityContext") if isinstance(holder, dict) else None
    if not isinstance(context, dict):
        return
    for key in [key for key in _OF_CONTAINERS if key in context]:
        value, place = context.pop(key), document.place((*pod, "securityContext", key))
        for path in containers:
            block = _at(document.value, path[:-1])
            block = block.get(path[-1]) if isinstance(block, dict) else block[path[-1]]
            own = block.setdefault("securityContext", {}) if isinstance(block, dict) else None
            if isinstance(own, dict) and key not in own:
                own[key] = copy.deepcopy(value)
                document.places[(*path, "securityContext", key)] = place
    if not context:
        del holder["securityContext"]


def _tidy_volumes(document: Document, path: KeyPath, mounted: set[str]) -> None:
    """Keep the volumes that are mounted, and those whose names cannot be told. One without a kind is an emptyDir."""
    holder = _at(document.value, path[:-1])
    blocks = holder.get(path[-1]) if isinstance(holder, dict) else None
    if not isinstance(blocks, list):
        return
    for index, block in enumerate(blocks):
        if isinstance(block, dict) and isinstance(block.get("name"), str):
            kinds = {key: value for key, value in block.items() if value is not None}
            blocks[index] = kinds if len(kinds) > 1 else {**kinds, "emptyDir": {}}
    names = [block.get("name") if isinstance(block, dict) else None for block in blocks]
    _keep(document, path, [i for i, name in enumerate(names) if not isinstance(name, str) or name in mounted])


def _at(value: Any, path: KeyPath) -> Any:
    for key in path:
        value = value[key]
    return value


def _keep(document: Document, path: KeyPath, kept: Sequence[int]) -> None:
    """Keep these items of a list, each with its place."""
    holder = _at(document.value, path[:-1])
    items, depth = holder.get(path[-1]), len(path)
    if not isinstance(items, list) or len(kept) == len(items):
        return
    holder[path[-1]] = [items[index] for index in kept]
    ranks = {old: new for new, old in enumerate(kept)}
    places = {}
    for old, place in document.places.items():
        if old[:depth] != path or len(old) == depth:
            places[old] = place
        elif old[depth] in ranks:
            places[(*path, ranks[int(old[depth])], *old[depth + 1 :])] = place
    document.places = places


def _report(document: Document, path: KeyPath, message: str) -> None:
    document.problems.append(Problem(document.place(path), path, message))


def _put_services(document: Document, objects: Objects, directory: Path | None) -> list[str]:
    warnings: list[str] = []
    for index, service in enumerate(list_at(document.value, *_SERVICES)[:MOST_SERVICES]):
        path: KeyPath = (*_SERVICES, index)
        if not isinstance(service, dict) or not isinstance(service.get("from"), str):
            if isinstance(service, dict) and isinstance(service.get("container"), str):
                _report(document, (*path, "container"), "expected a mapping, because `from` is absent")
            continue
        wanted = service.get("container")
        if wanted is not None and not isinstance(wanted, str):
            _report(document, (*path, "container"), "expected the name of a container, because `from` is given")
            continue
        try:
            file = find_path(service["from"], directory, "from")
            found, own = _find_container(file, wanted)
        except InputError as error:
            _report(document, (*path, "from"), _in_one_line(error))
            continue
        warnings += _put_service(document, index, found, [*own, *objects.services])
    return warnings


def _in_one_line(error: InputError) -> str:
    text = error.brief
    if error.details:
        text += f"{' ' if text.endswith(':') else '; '}{', '.join(error.details)}"
    return f"{text}; name one of them in `container`" if isinstance(error, SeveralContainersError) else text


def _find_container(file: Path, wanted: str | None) -> tuple[FoundContainer, list[ServiceObject]]:
    objects = Objects()
    for document in read_file(file):
        objects.add(document)
    chosen = choose_container([one.container for one in objects.containers], wanted, str(file))
    return next(one for one in objects.containers if one.container is chosen), objects.services


def _put_service(
    document: Document, index: int, found: FoundContainer, services: Sequence[ServiceObject]
) -> Iterable[str]:
    """Replace `from` by the container of the manifest; return warnings."""
    path: KeyPath = (*_SERVICES, index)
    block, one = _at(document.value, path), found.container
    # The manifest may be one of build.objects too.
    selecting = [
        service
        for position, service in enumerate(services)
        if service not in services[:position] and one.is_selected_by(service.selector)
    ]
    made = make_service(block, one, selecting)
    _at(document.value, path[:-1])[index] = made
    _move_places(document, (*path, "container"), found)
    return _warn(str(block.get("name")), one, selecting)


def make_service(block: Block, one: PodContainer, selecting: Sequence[ServiceObject]) -> Block:
    """Return an item of `build.services` with a container of a manifest and its volumes.

    Args:
        block: the item, whose name, aliases and other keys are kept.
        one: the container.
        selecting: the Services that select it.
    """
    own = block.get("aliases", [])
    aliases: Any = own
    if isinstance(own, list) and all(isinstance(alias, str) for alias in own):
        known = dict.fromkeys([*own, *_list_aliases(one, selecting)])
        aliases = [alias for alias in known if alias != block.get("name")]
    kept = {key: value for key, value in block.items() if key not in ("from", "container", "volumes", "aliases")}
    made = {**kept, **({"aliases": aliases} if aliases != [] else {}), "container": _make_container(one, selecting)}
    if volumes := _list_volumes(one):
        made["volumes"] = volumes
    group = mapping_at(one.pod, "securityContext").get("fsGroup")
    if group is not None:
        made["securityContext"] = {"fsGroup": group}
    return made


def _move_places(document: Document, path: KeyPath, found: FoundContainer) -> None:
    depth = len(path)
    document.places = {old: place for old, place in document.places.items() if old[:depth] != path}
    source = next((at for at, value in walk(found.document.value) if value is found.container.block), ())
    for old, place in found.document.places.items():
        if old[: len(source)] == source:
            document.places[(*path, *old[len(source) :])] = replace(place, order=place.order + _BEHIND)


def _make_container(one: PodContainer, services: Sequence[ServiceObject]) -> Block:
    """Return the container as a service has it: with a patient probe, and without that which a build cannot give it."""
    known = (schema_at(_CONTAINER) or {})["properties"]
    container = {
        key: value for key, value in one.block.items() if key in known and key not in _USELESS and value is not None
    }
    container = {key: value for key, value in container.items() if known[key].get("$ref") not in (IGNORED, REFUSED)}
    if context := _find_context(one):
        container["securityContext"] = context
    else:
        container.pop("securityContext", None)
    probes = {key: container[key] for key in ("startupProbe", "readinessProbe") if key in container}
    if not probes:
        probe = one.block.get("livenessProbe") or _guess_probe(one, services)
        probes = {"readinessProbe": probe} if probe else {}
    return container | {key: make_patient(probe) if isinstance(probe, dict) else probe for key, probe in probes.items()}


def _find_context(one: PodContainer) -> Block:
    """The part of a container's security context that a service has."""
    known = (schema_at((*_CONTAINER, "securityContext")) or {})["properties"]
    return {
        key: value
        for key, value in merge_contexts(one.pod, one.block).items()
        if value is not None
        and key in known
        and key not in _PROFILES
        and known[key].get("$ref") not in (IGNORED, REFUSED)
    }


def _guess_probe(one: PodContainer, services: Sequence[ServiceObject]) -> Block | None:
    """Return a probe of the first TCP port that the container or its Service names; None if there is none."""
    ports = one.block.get("ports")
    numbers = [
        port.get("containerPort")
        for port in (ports if isinstance(ports, list) else [])
        if isinstance(port, dict) and port.get("protocol", "TCP") == "TCP"
    ]
    numbers += [target for service in services for _, target in service.ports]
    found = next((number for number in numbers if isinstance(number, int)), None)
    return None if found is None else {"tcpSocket": {"port": found}}


def _list_volumes(one: PodContainer) -> list[Any]:
    """The pod's volumes, and those that a StatefulSet makes for each pod."""
    claims = list_claims(one.manifest)
    made = [claim["name"] for claim in claims]
    own = [
        block for block in list_at(one.pod, "volumes") if not (isinstance(block, dict) and block.get("name") in made)
    ]
    return [*claims, *map(_without_host, own)]


def _is_host_directory(volume: Any) -> bool:
    """Tell whether a volume is a directory of the node, where a service keeps its data."""
    host = mapping_at(volume, "hostPath")
    return bool(host) and host.get("type") in _DIRECTORIES


def _without_host(volume: Any) -> Any:
    """Return a volume, an empty one in place of a directory of the node: a service begins without data."""
    if _is_host_directory(volume):
        return {"name": volume.get("name"), "emptyDir": {}}
    return dict(volume) if isinstance(volume, dict) else volume


def _list_aliases(one: PodContainer, services: Sequence[ServiceObject]) -> Iterator[str]:
    """Yield the names that a pod of the container is found by in a cluster."""
    space = mapping_at(one.manifest, "metadata").get("namespace")
    for service in services:
        namespace = service.namespace or (space if isinstance(space, str) else _NAMESPACE)
        names = [service.name]
        if one.kind == "StatefulSet" and mapping_at(one.manifest, "spec").get("serviceName") == service.name:
            names.append(f"{one.owner}-0.{service.name}")
        for name in names:
            for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"):
                if _HOST_NAME.fullmatch(name + suffix):
                    yield name + suffix


def _warn(name: str, one: PodContainer, services: Sequence[ServiceObject]) -> Iterator[str]:
    ports = {
        label: port.get("containerPort")
        for port in list_at(one.block, "ports")
        if isinstance(port, dict) and isinstance(label := port.get("name"), str)
    }
    for service in services:
        for number, target in service.ports:
            found = ports.get(str(target), target)
            if isinstance(found, int) and found != number:
                yield (
                    f"the Service {shown(service.name)} maps port {number} to {found}, and a build does not: "
                    f"connect to port {found} of {shown(name)}"
                )
    mounted = _list_names_of_mounts(one.block)
    for volume in list_at(one.pod, "volumes"):
        if _is_host_directory(volume) and str(volume.get("name")) in mounted:
            path = shown(str(volume["hostPath"].get("path")))
            yield f"the service {shown(name)} gets an empty directory in place of the node's {path}"
    inits = [str(mapping_at(block).get("name")) for block in list_at(one.pod, "initContainers")]
    if inits:
        yield f"the init containers of the service {shown(name)} do not run: {shown(', '.join(inits), 200)}"
