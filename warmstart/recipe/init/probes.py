"""The probe that tells when a container is ready for its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from warmstart.core.yaml_document import plain_value, shown
from warmstart.recipe.init.inputs import Inputs
from warmstart.recipe.init.ports import find_named_ports
from warmstart.recipe.patience import PATIENCE_S, make_patient
from warmstart.recipe.pods import Block, PodContainer, blocks_at, mapping_at

PROBES = ("readinessProbe", "startupProbe")
ACTIONS = ("httpGet", "tcpSocket", "grpc", "exec")
_OFTEN = (
    f"A build asks every second and waits {PATIENCE_S} s or more: periodSeconds is 1, failureThreshold at least "
    f"{PATIENCE_S}, and initialDelaySeconds is left out."
)
_OPEN_PORT = (
    "TODO: an open port does not prove that the application is ready; use httpGet, grpc or exec instead of tcpSocket."
)
_UNKNOWN = (
    "TODO: no probe, and no port to guess one from: neither {places} names one. Say how a build sees that the "
    "application is ready:"
)
_SETTLES = (
    "No probe, and no port to guess one from: neither {places} names one. So the build takes the application as ready "
    "once it has settled (build.settled): it has used next to no processor time for {quiet_s} s, and still runs. If it "
    "only waits then, give a readinessProbe, such as exec: {{command: [test, -f, /tmp/ready]}}, in place of it."
)
_SETTLED = {"quietSeconds": 5}
_EXAMPLE = (
    "readinessProbe:",
    "  httpGet: {path: /, port: PORT}      # or tcpSocket: {port: PORT}; a worker without a port: a command that",
    "                                      # succeeds once it is ready, as exec: {command: [test, -f, /tmp/ready]}",
    "  periodSeconds: 1",
    f"  failureThreshold: {PATIENCE_S}",
)

#: Look up the ports that an image exposes; None if it cannot be inspected.
ExposedPorts = Callable[[str], Iterable[str] | None]


@dataclass(frozen=True)
class ProbePlan:
    """How a container gets its probes.

    Attributes:
        notes: comments on the probes.
        example: lines of YAML to complete if there is no probe; they become a comment.
        settled: value of `build.settled`, which takes the place of a probe; None if there is one.
    """

    notes: tuple[str, ...]
    example: tuple[str, ...] = ()
    settled: Block | None = None


@dataclass(frozen=True)
class Hints:
    """Where to look for a port: its text for people, and the port; in the order of trust."""

    found: tuple[tuple[str, int], ...] = ()
    places: tuple[str, ...] = ("the container", "the image")

    @property
    def best(self) -> tuple[str, int] | None:
        """Return the first port that was found."""
        return self.found[0] if self.found else None


def find_hints(chosen: PodContainer, inputs: Inputs, exposed: ExposedPorts | None) -> Hints:
    """Look for a TCP port of a container: in its ports, in the Services of its pod, and in its image."""
    places = ["its containerPorts", "a Service", "a variable", "its command"]
    found = [("containerPorts", port["containerPort"]) for port in blocks_at(chosen.block, "ports") if is_tcp(port)]
    found += [(f"targetPort of Service/{shown(name)}", port) for name, port in _service_ports(chosen, inputs)]
    found += find_named_ports(chosen, inputs)
    image = chosen.block.get("image")
    if not found and exposed is not None and isinstance(image, str):
        ports = exposed(image)
        places += ["the image's ExposedPorts"] if ports is not None else []
        found += [("ExposedPorts of the image", number) for number in _exposed(ports or ())]
    return Hints(tuple(found), tuple(places))


def exposed_hints(ports: Iterable[str]) -> Hints:
    """The hints that an image's own configuration gives."""
    return Hints(
        tuple(("ExposedPorts of the image", number) for number in _exposed(ports)), ("the image's ExposedPorts",)
    )


def plan_probes(container: Block, liveness: Any, hints: Hints, *, settles: bool = False) -> ProbePlan:
    """Make a container's probes fit for a build, or give it one. Changes `container`.

    `settles`: whether a container without a port is expected to run on, so that it can be awaited until it rests.
    """
    notes: list[str] = []
    if not any(key in container for key in PROBES) and isinstance(liveness, dict):
        container["readinessProbe"] = liveness
        notes.append("It has no readiness probe; its liveness probe is used instead.")
    given = [key for key in PROBES if isinstance(container.get(key), dict)]
    for key in given:
        container[key] = make_patient(container[key])
    if given:
        return ProbePlan((*notes, _OFTEN))
    if (best := hints.best) is None:
        places = ", nor ".join(hints.places)
        if settles:
            note = _SETTLES.format(places=places, quiet_s=_SETTLED["quietSeconds"])
            return ProbePlan((note,), settled=dict(_SETTLED))
        return ProbePlan((_UNKNOWN.format(places=places),), _EXAMPLE)
    where, port = best
    container["readinessProbe"] = make_patient({"tcpSocket": {"port": port}})
    return ProbePlan((f"No probe: port {port} is a guess from {where}.", _OPEN_PORT, _OFTEN))


def is_tcp(port: Block) -> bool:
    """Tell whether it is a TCP port with a valid number."""
    number = port.get("containerPort")
    return isinstance(number, int) and 0 < number < 65536 and port.get("protocol", "TCP") == "TCP"


def is_selected(container: PodContainer, service: Block) -> bool:
    """Tell whether a Service selects the pod of a container."""
    return container.is_selected_by(mapping_at(service, "spec", "selector"))


def target_port(port: Block, container: Block) -> int | None:
    """Return the number of a Service's port in the container; None if it has no such port."""
    target = port.get("targetPort", port.get("port"))
    if isinstance(target, str) and not target.isdigit():
        named = [each for each in blocks_at(container, "ports") if each.get("name") == target]
        target = named[0].get("containerPort") if named else None
    target = plain_value(target) if isinstance(target, str) else target
    return target if isinstance(target, int) and 0 < target < 65536 else None


def service_ports(service: Block) -> list[Block]:
    """Return the TCP ports of a Service."""
    return [port for port in blocks_at(service, "spec", "ports") if port.get("protocol", "TCP") == "TCP"]


def list_target_ports(service: Block, container: Block) -> Iterator[int]:
    """Yield the numbers of a Service's TCP ports in the container."""
    for port in service_ports(service):
        if (number := target_port(port, container)) is not None:
            yield number


def _service_ports(chosen: PodContainer, inputs: Inputs) -> Iterator[tuple[str, int]]:
    for service in inputs.of_kind("Service"):
        if is_selected(chosen, service.value):
            for number in list_target_ports(service.value, chosen.block):
                yield service.name, number


def _exposed(ports: Iterable[str]) -> Iterator[int]:
    """The TCP ports of an image, written as `8080/tcp` or `8080`."""
    for text in ports:
        if re.fullmatch(r"[0-9]{1,5}(?:/tcp)?", text) and 0 < (number := int(text.partition("/")[0])) < 65536:
            yield number
