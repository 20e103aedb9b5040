"""The services of a first recipe: entries for those of the input, and examples for the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core.yaml_document import shown
from warmstart.core.yaml_writing import write_yaml
from warmstart.recipe.init.bindings import bind, find_wanted
from warmstart.recipe.init.hosts import HostUse
from warmstart.recipe.init.inputs import Inputs
from warmstart.recipe.init.kinds import ServiceKind, kind_of_container, kind_of_use
from warmstart.recipe.init.needs import Use, list_uses, relative
from warmstart.recipe.init.probes import PROBES, is_tcp, list_target_ports, service_ports, target_port
from warmstart.recipe.init.services import FoundService, Needed, entry_of, inline_of, kind_of, uses_of
from warmstart.recipe.patience import PATIENCE_S
from warmstart.recipe.pods import Block, blocks_at, mapping_at

# Variables of an application that hold the parts of its account at a database.
_ACCOUNT = {
    "PASSWORD": re.compile(r"pass(?:word|wd)?$|pwd$|passphrase$", re.IGNORECASE),
    "USER": re.compile(r"user(?:name)?$", re.IGNORECASE),
    "DATABASE": re.compile(r"(?:^|_|db)(?:database|dbname|db|db_?name|database_?name|name)$", re.IGNORECASE),
}
_URL = re.compile(
    r"://(?:(?P<user>[^\s:/@]{1,100})(?::(?P<password>[^\s/@]{1,100}))?@)?(?P<host>[\w.-]+)(?::[0-9]+)?"
    r"(?:/(?P<database>[\w-]+))?"
)
_HOST_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
_LOCAL_NAME = re.compile(r"[a-z0-9]+(?:-+[a-z0-9]+)*")


@dataclass
class ServicePlan:
    """The services of a build.

    Attributes:
        entries: items of `build.services`.
        objects: files with their Services, as far as a build needs these.
        uses: the references of their containers to ConfigMaps and Secrets.
        missing: services that the input does not have, with their kinds.
        bindings: values of Secrets that describe a service, by the Secret's name and key.
        has_proposed: whether some of the entries are proposed, because the input does not have them.
        to_do: reasons why the application will not start without more services.
        notes: other remarks.
    """

    entries: list[Block] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    missing: list[tuple[str, list[HostUse], ServiceKind | None]] = field(default_factory=list)
    bindings: dict[str, dict[str, str]] = field(default_factory=dict)
    has_proposed: bool = False
    to_do: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def stanzas_for(self, container: Block) -> list[str]:
        """Return an example in YAML for each missing service, with the account that a container uses."""
        return [_stanza(host, uses, kind, container) for host, uses, kind in self.missing]


def plan_services(needed: Needed, own: Sequence[Use], inputs: Inputs, directory: Path, container: Block) -> ServicePlan:
    """Write the entries for the services of the input, and propose those that are missing.

    `own` are the references of the pod's containers that run in the build, `container` is the one to checkpoint.
    """
    plan, kinds = ServicePlan(), dict[str, ServiceKind]()
    for found in needed.found:
        is_inline = found.owner.file is None
        if not is_inline and (file := _file_of_port(found)) is not None:
            plan.objects.append(relative(file, directory))
        plan.entries.append(inline_of(found, inputs) if is_inline else entry_of(found, inputs, directory))
        for is_used, remark in _mapped_ports(found):
            (plan.to_do if is_used else plan.notes).append(remark)
        uses_of_it = list(uses_of(found.provider))
        plan.uses += uses_of_it
        for name in {use.name for use in uses_of_it if use.kind == "Secret"}:
            plan.bindings.setdefault(name, _bind(found))
    for name, values in bind(own, needed.found, inputs).items():
        plan.bindings[name] = {**plan.bindings.get(name, {}), **values}
    for wanted in find_wanted(own, needed.found, inputs):
        if not any(kind is wanted.kind for kind in map(_kind_of_all, needed.missing.values())):
            needed.missing[wanted.host] = [HostUse(wanted.host, None, "", place) for place in wanted.places]
            kinds[wanted.host] = wanted.kind
            for name, values in wanted.values.items():
                plan.bindings[name] = {**plan.bindings.get(name, {}), **values}
    _plan_missing(needed, kinds, plan, inputs, container)
    return plan


def _plan_missing(
    needed: Needed, kinds: dict[str, ServiceKind], plan: ServicePlan, inputs: Inputs, container: Block
) -> None:
    """Propose a service for each missing host whose kind and account are known; the others are to do."""
    for host, uses in needed.missing.items():
        kind = kinds.get(host) or _kind_of_all(uses)
        proposed = _propose(host, uses, kind, container)
        if (
            kind
            and "TODO" not in str(proposed)
            and _is_plain(host, uses, kind, container)
            and not _is_taken(proposed, plan)
        ):
            plan.entries.append(proposed)
            plan.has_proposed = True
            plan.uses += list_uses(proposed["container"], ())
            plan.notes.append(
                f"proposed, since {inputs.name} has no workload for it: the service {shown(host)} ({kind.name}), in "
                f"{_places(uses)}, as {proposed['container']['image']} with the account in build.services; change it "
                "if yours is another"
            )
            continue
        plan.missing.append((host, uses, kind))
        about = f" ({kind.name})" if kind else ""
        plan.to_do.append(
            f"it refers to the service {shown(host)}{about} in {_places(uses)}, and {inputs.name} has no workload for "
            "it. Without it the application probably does not start. Add it to build.services, as below"
        )


def _kind_of_all(uses: Sequence[HostUse]) -> ServiceKind | None:
    return next((kind for use in uses if (kind := kind_of(use))), None)


def _file_of_port(found: FoundService) -> Path | None:
    """Return the file of a Service that alone names the port of a container without a probe; None if there is none."""
    block = found.provider.block
    is_known = any(key in block for key in (*PROBES, "livenessProbe")) or any(map(is_tcp, blocks_at(block, "ports")))
    return None if is_known or found.service.file == found.owner.file else found.service.file


def _bind(found: FoundService) -> dict[str, str]:
    """Return the values that a binding to a service has for its well-known keys; none of them is secret.

    https://servicebinding.io/spec/core/1.1.0/ ("Well-known Secret Entries")
    """
    kind = kind_of_container(found.provider.block)
    ports = list_target_ports(found.service.value, found.provider.block)
    values = {"host": found.service.name, "port": str(next(ports, "")) or None}
    if kind is not None and kind.schemes:
        values |= {"type": kind.schemes[0], "provider": kind.schemes[0]}
    return {key: value for key, value in values.items() if value}


def _places(uses: list[HostUse]) -> str:
    return ", ".join(dict.fromkeys(use.place for use in uses)) or "its Secret"


def _mapped_ports(found: FoundService) -> Iterator[tuple[bool, str]]:
    """Yield a remark on each port that the pods of a service do not have, and whether that port is used."""
    for port in service_ports(found.service.value):
        number, target = port.get("port"), target_port(port, found.provider.block)
        if target is not None and target != number:
            yield (
                any(use.port == number for use in found.uses),
                f"Service/{shown(found.service.name)} maps port {number} to {target}, and a build does not: let the "
                f"service listen on {number} in the build, or the application connect to {target}",
            )


def note_services(needed: Needed) -> Iterator[str]:
    """Yield notes on hosts that no build runs."""
    others = {host: uses for host, uses in needed.others.items() if any(use.variable for use in uses)}
    if others:
        names = ", ".join(f"{shown(host)} ({_places(uses)})" for host, uses in others.items())
        yield (
            f"services that do not run in the build: {names}. If the application needs one to start, add it to "
            "build.services"
        )
    outside = {host: uses for host, uses in needed.outside.items() if uses}
    if outside:
        names = ", ".join(f"{shown(host)} ({_places(uses)})" for host, uses in outside.items())
        yield (
            f"hosts outside of the cluster: {names}. If the application needs one to start, build with "
            "--network outside"
        )


def _is_plain(host: str, uses: list[HostUse], kind: ServiceKind, container: Block) -> bool:
    """Tell whether the image of a kind serves these uses: at its own port, without TLS, and with its account."""
    if not kind.env and _has_account(host, kind, container):
        return False
    ports = {use.port for use in uses if use.port}
    encrypted = {use.scheme for use in uses} & {"rediss", "amqps", "ldaps"}
    return ports <= {kind.port} and not encrypted and bool(_HOST_NAME.fullmatch(host))


def _has_account(host: str, kind: ServiceKind, container: Block) -> bool:
    """Tell whether the application has a password for a service whose image makes no account from variables."""
    if _account_in_urls(host, container).get("PASSWORD", "guest") != "guest":
        return True
    names = [str(item.get("name")) for item in blocks_at(container, "env")]
    return any(_ACCOUNT["PASSWORD"].search(name) and kind_of_use("", None, "", name) is kind for name in names)


def _is_taken(proposed: Block, plan: ServicePlan) -> bool:
    return any(entry["name"] == proposed["name"] for entry in plan.entries)


def _stanza(host: str, uses: list[HostUse], kind: ServiceKind | None, container: Block) -> str:
    """Return an item of `build.services` to complete, indented as below that key."""
    lines = write_yaml({"services": [_propose(host, uses, kind, container)]}).splitlines()[1:]
    return "".join(f"  {line}\n" for line in lines)


def _propose(host: str, uses: list[HostUse], kind: ServiceKind | None, container: Block) -> Block:
    """Return an item of `build.services`; parts that nothing tells are TODO."""
    name = host.partition(".")[0]
    port = next((use.port for use in uses if use.port), kind.port if kind else 0)
    service: Block = {"name": name if _LOCAL_NAME.fullmatch(name) else "service"}
    if host != service["name"]:
        service["aliases"] = [host]
    block: Block = {"image": kind.image if kind and kind.image else "TODO"}
    if kind and kind.env:
        block["env"] = [_variable(variable, part, host, container) for variable, part in kind.env]
        user = _variable(kind.login[0], "USER", host, container) if kind.login else {}
        if user and "TODO" not in str(user) and user.get("value") != "root":
            block["env"] += [user, _variable(kind.login[1], "PASSWORD", host, container)]
    if kind and kind.fixed:
        block["env"] = [{"name": name, "value": value.format(host=host)} for name, value in kind.fixed]
    check: Block = (
        {"exec": {"command": list(kind.check)}} if kind and kind.check else {"tcpSocket": {"port": port or "TODO"}}
    )
    block["readinessProbe"] = {**check, "periodSeconds": 1, "failureThreshold": PATIENCE_S}
    return {**service, "container": block}


def _variable(name: str, part: str, host: str, container: Block) -> Block:
    """Return a variable of a service with the same value as the application's variable for this part."""
    for item in blocks_at(container, "env"):
        if not _ACCOUNT[part].search(str(item.get("name"))):
            continue
        source: Any = mapping_at(item, "valueFrom", "secretKeyRef")
        if source:
            return {"name": name, "valueFrom": {"secretKeyRef": {"name": source.get("name"), "key": source.get("key")}}}
        if isinstance(item.get("value"), str):
            return {"name": name, "value": item["value"]}
    known = _account_in_urls(host, container).get(part)
    return {"name": name, "value": known if known and "$" not in known else f"TODO the application's {part.lower()}"}


def _account_in_urls(host: str, container: Block) -> dict[str, str]:
    """Return the parts of an account that the application's variables have in an URL of a host."""
    for item in blocks_at(container, "env"):
        for match in _URL.finditer(str(item.get("value", ""))):
            if match["host"].lower() == host:
                parts = {"USER": match["user"], "PASSWORD": match["password"], "DATABASE": match["database"]}
                return {part: value for part, value in parts.items() if value}
    return {}
