"""Find the services that a container needs when it starts, and the containers that provide them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from warmstart.core.yaml_document import Document, Place, shown
from warmstart.recipe.beside import make_service
from warmstart.recipe.init.hosts import HostUse, Text, expand, find_hosts
from warmstart.recipe.init.inputs import InputObject, Inputs
from warmstart.recipe.init.kinds import ServiceKind, is_kind, kind_of_container, kind_of_use, parted
from warmstart.recipe.init.needs import Use, list_uses, relative, secret_keys
from warmstart.recipe.init.probes import is_selected
from warmstart.recipe.init.variables import list_variables
from warmstart.recipe.init.waiting import only_waits, words_of
from warmstart.recipe.objects import Objects
from warmstart.recipe.pods import Block, PodContainer, blocks_at, mapping_at

_SUFFIX = re.compile(r"(?P<name>[^.]+(?:\.[^.]+)?)\.(?P<namespace>[^.]+)\.svc(?:\.cluster\.local)?")
_API_SERVER = re.compile(r"kubernetes\.default(?:\.svc(?:\.cluster\.local)?)?|kubernetes")

_LOCATION = re.compile(r"(?:host(?:-?name)?|port|ur[il]|addr(?:ess)?|servers?|brokers?|endpoint)$")


@dataclass(frozen=True)
class FoundService:
    """A service that the input has: its Service, the container that provides it, and the names it is used by."""

    service: InputObject
    provider: PodContainer
    owner: InputObject
    uses: tuple[HostUse, ...] = ()


@dataclass
class Needed:
    """The services of a container.

    Attributes:
        found: those to run in the build, in the order to start them.
        missing: those that a start needs and the input does not have, by host.
        others: hosts of further services, of the input or not, that no build runs.
        outside: hosts outside of the cluster.
    """

    found: list[FoundService] = field(default_factory=list)
    missing: dict[str, list[HostUse]] = field(default_factory=dict)
    others: dict[str, list[HostUse]] = field(default_factory=dict)
    outside: dict[str, list[HostUse]] = field(default_factory=dict)


def find_needed(
    container: PodContainer, inits: Sequence[Block], inputs: Inputs, *, seen: set[str] | None = None
) -> Needed:
    """Find the services that a container refers to; their own services come first.

    Args:
        container: the container.
        inits: init containers of its pod.
        inputs: the objects to look into.
        seen: names of Services that were looked at, or are; their own services are found elsewhere.
    """
    needed = Needed()
    seen = set() if seen is None else seen
    uses: dict[str, list[HostUse]] = {}
    for text in _texts(container, inits, inputs):
        for use in find_hosts(text):
            uses.setdefault(use.host, []).append(use)
    by_service: dict[str, list[HostUse]] = {}
    for host, group in uses.items():
        service = _find_service(host, container, inputs)
        if service is None:
            _sort_out(host, group, needed)
        elif is_selected(container, service.value):
            continue
        else:
            by_service.setdefault(service.name, []).extend(group)
    for name in (*_sharing(container, inputs), *_meant(container, inputs)):
        by_service.setdefault(name, [])
    for name, group in by_service.items():
        _add(name, group, inputs, needed, seen)
    return needed


def _add(name: str, uses: list[HostUse], inputs: Inputs, needed: Needed, seen: set[str]) -> None:
    service = inputs.find("Service", name)
    assert service is not None
    provider = _provider(service, inputs)
    if provider is None:
        _sort_out(name, uses, needed)
        return
    if not _is_needed(provider, uses):
        needed.others.setdefault(name, []).extend(uses)
        return
    for index, one in enumerate(needed.found):
        if one.service.name == name:
            needed.found[index] = replace(one, uses=(*one.uses, *uses))
    if name in seen:
        return
    seen.add(name)
    needed.found += find_needed(provider, (), inputs, seen=seen).found
    needed.found.append(FoundService(service, provider, inputs.owner_of(provider), tuple(uses)))


def _is_needed(provider: PodContainer, uses: list[HostUse]) -> bool:
    return kind_of_container(provider.block) is not None or any(
        use.waited or (use.scheme and not use.scheme.startswith("http") and kind_of(use)) for use in uses
    )


def kind_of(use: HostUse) -> ServiceKind | None:
    """Return the kind of service that a use is about; None if it is none that a start needs."""
    return kind_of_use(use.scheme, use.port, use.host.partition(".")[0], use.variable)


def _sort_out(host: str, uses: list[HostUse], needed: Needed) -> None:
    if _API_SERVER.fullmatch(host):
        needed.others.setdefault(host, []).extend(uses)
    elif "." in host and not _SUFFIX.fullmatch(host) and not host.endswith((".svc", ".local", ".internal")):
        # Addresses in files are often no more than names, such as those of XML schemas.
        needed.outside.setdefault(host, []).extend(use for use in uses if use.variable)
    elif any(use.waited or kind_of(use) for use in uses):
        needed.missing.setdefault(host, []).extend(uses)
    elif any(use.variable for use in uses):
        needed.others.setdefault(host, []).extend(uses)


def _find_service(host: str, container: PodContainer, inputs: Inputs) -> InputObject | None:
    """Return the Service that a host name means: NAME, NAME.NAMESPACE, or a pod of a StatefulSet below these."""
    match = _SUFFIX.fullmatch(host)
    plain = match["name"] if match else host
    own = mapping_at(container.manifest, "metadata").get("namespace")
    for name in (plain, plain.rpartition(".")[2], plain.partition(".")[0]):
        found = inputs.find("Service", name)
        if found is None:
            continue
        rest = [part for part in host.split(".") if part != name]
        spaces = {found.namespace, str(own or ""), "svc", "cluster", "local", ""}
        pods = re.compile(r"[a-z0-9-]+-[0-9]+")
        if match or "." not in host or all(part in spaces or pods.fullmatch(part) for part in rest) or len(rest) == 1:
            return found
    return None


def _provider(service: InputObject, inputs: Inputs) -> PodContainer | None:
    """Return the container that a Service leads to; of several, the one with its port, or of a well-known image."""
    if mapping_at(service.value, "spec").get("type") == "ExternalName":
        return None
    found = [one for each in inputs.objects for one in each.containers if is_selected(one, service.value)]
    if len(found) > 1:
        known = [one for one in found if kind_of_container(one.block)]
        ports = [port.get("targetPort", port.get("port")) for port in blocks_at(service.value, "spec", "ports")]
        listening = [
            one
            for one in found
            for port in blocks_at(one.block, "ports")
            if port.get("containerPort") in ports or port.get("name") in ports
        ]  # fmt: skip
        found = known or listening or found
    return found[0] if found else None


def _sharing(container: PodContainer, inputs: Inputs) -> Iterator[str]:
    """Services of well-known images whose Secret the container reads too, as a projected binding of a database is."""
    own = {use.name for use in uses_of(container) if use.kind == "Secret"}
    for service in inputs.of_kind("Service") if own else ():
        provider = _provider(service, inputs)
        if provider is None or provider.manifest is container.manifest:
            continue
        if kind_of_container(provider.block) and own & {use.name for use in uses_of(provider) if use.kind == "Secret"}:
            yield service.name


def _meant(container: PodContainer, inputs: Inputs) -> Iterator[str]:
    """Services of the kinds that variables from Secrets are about, such as DB_HOST or REDIS_URL.

    Of several services of a kind, the only one in the container's directory counts, or none.
    """
    names = [name for name in _names_from_secrets(container, inputs) if _LOCATION.search(parted(name))]
    own = inputs.owner_of(container).file
    for kind in dict.fromkeys(kind for name in names if (kind := kind_of_use("", None, "", name))):
        fitting: dict[int, InputObject] = {}
        near: dict[int, InputObject] = {}
        for service in inputs.of_kind("Service"):
            provider = _provider(service, inputs)
            if provider is None or not is_kind(kind_of_container(provider.block), kind):
                continue
            fitting.setdefault(id(provider.block), service)
            if own and service.file and own.parent == service.file.parent:
                near.setdefault(id(provider.block), service)
        if len(found := near or fitting) == 1:
            yield from (service.name for service in found.values())


def _names_from_secrets(container: PodContainer, inputs: Inputs) -> Iterator[str]:
    for item in blocks_at(container.block, "env"):
        if mapping_at(item, "valueFrom", "secretKeyRef"):
            yield str(item.get("name"))
    for item in blocks_at(container.block, "envFrom"):
        yield from secret_keys(str(mapping_at(item, "secretRef").get("name")), inputs) or []


def uses_of(container: PodContainer) -> Iterator[Use]:
    """Yield the references of a container of a pod."""
    return list_uses(container.block, blocks_at(container.pod, "volumes"))


def _texts(container: PodContainer, inits: Sequence[Block], inputs: Inputs) -> Iterator[Text]:
    variables = dict(list_variables(container.block, inputs))
    for name, value in variables.items():
        yield Text("variable", expand(value, variables), shown(name), name)
    yield Text("command", expand("\n".join(words_of(container.block)), variables), "the command")
    for use in uses_of(container):
        found = inputs.find("ConfigMap", use.name) if use.kind == "ConfigMap" and use.as_file else None
        for key, value in mapping_at(found.value, "data").items() if found else ():
            if isinstance(value, str) and use.key in (None, key):
                yield Text("file", expand(value, variables), f"{shown(key)} of ConfigMap/{shown(use.name)}")
    for block in inits:
        waited = only_waits(block)
        own = {**variables, **dict(list_variables(block, inputs))}
        place = f"the init container {shown(str(block.get('name')))}"
        script = " ".join(words_of(block)) + "\n" + "\n".join(words_of(block))
        yield Text("command", expand(script, own), place, waited=waited)
        for name, value in list_variables(block, inputs):
            yield Text("variable", expand(value, own), place, name, waited=waited)


def entry_of(found: FoundService, inputs: Inputs, directory: Path) -> Block:
    """Return the item of `build.services` for a service whose workload is in a file."""
    assert found.owner.file is not None
    entry: Block = {"name": found.service.name}
    if aliases := list_aliases(found):
        entry["aliases"] = aliases
    entry["from"] = relative(found.owner.file, directory)
    beside = [one for each in inputs.objects if each.file == found.owner.file for one in each.containers]
    if len(beside) > 1:
        entry["container"] = f"{found.provider.owner}/{found.provider.name}"
    return entry


def list_aliases(found: FoundService) -> list[str]:
    """Return the names of a service, besides its own: those that it is used by, and its full name."""
    used = dict.fromkeys(use.host for use in found.uses)
    space = found.service.namespace or str(mapping_at(found.provider.manifest, "metadata").get("namespace") or "")
    name = found.service.name
    full = [f"{name}.{space}.svc.cluster.local"] if space else []
    return [alias for alias in dict.fromkeys([*used, *full]) if alias != name]


def inline_of(found: FoundService, inputs: Inputs) -> Block:
    """Return the item of `build.services` for a service whose workload is in no file."""
    objects = Objects()
    for service in inputs.of_kind("Service"):
        if is_selected(found.provider, service.value):
            objects.add(Document(service.value, {(): Place("", 0)}))
    entry: Block = {"name": found.service.name, "aliases": list_aliases(found)}
    return make_service(entry, found.provider, objects.services)
