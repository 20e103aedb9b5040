"""Probes that find a restored container at once. Pure.

A manifest for a cold start waits before it asks. The kubelet asks again only after `periodSeconds`
(pkg/kubelet/prober/worker.go of kubernetes/kubernetes).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from warmstart.kube.settings import Setting
from warmstart.recipe.pods import Block, blocks_at, mapping_at

_DELAY = "a restored container is ready at once, and waits for nothing else"
_COLD = "a cold start has the same time as before, now without the delay"
_PERIOD_S, _FAILURES = 10, 3


def list_delay_changes(container: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield changes that take the delay out of the probes that make a container ready."""
    for key in ("startupProbe", "readinessProbe"):
        probe = mapping_at(dict(container), key)
        if not (delay := _read_number(probe, "initialDelaySeconds", 0)):
            continue
        yield Setting((key, "initialDelaySeconds"), 0, _DELAY)
        if key == "startupProbe":
            # A container that fails it is ended, so that a cold start needs the time.
            more = -(-delay // _read_number(probe, "periodSeconds", _PERIOD_S))
            failures = _read_number(probe, "failureThreshold", _FAILURES) + more
            yield Setting((key, "failureThreshold"), failures, _COLD)


def without_delays(container: Block) -> Block:
    """Return a copy of a container with the changes of `list_delay_changes`."""
    changed = copy.deepcopy(container)
    for change in list_delay_changes(container):
        probe, key = change.keys
        changed[probe] = {**changed[probe], key: change.value}
    return changed


def list_probe_warnings(container: Mapping[str, Any]) -> Iterator[str]:
    """Describe a probe that asks so seldom that a restored container may wait for it."""
    asked = "startupProbe" if mapping_at(dict(container), "startupProbe") else "readinessProbe"
    probe = mapping_at(dict(container), asked)
    period = _read_number(probe, "periodSeconds", _PERIOD_S)
    if probe and period >= _PERIOD_S:
        instead = "periodSeconds: 1" if asked == "startupProbe" else "a startupProbe with periodSeconds: 1"
        yield f"{asked}.periodSeconds: a container asked too early is asked again after {period} s; better {instead}"


def with_known_ports(probe: Block, ports: Any, own: Any) -> Block:
    """Return a probe with the numbers of those named ports that a container does not have.

    Args:
        probe: the recipe's probe.
        ports: the recipe's ports.
        own: the container's ports.
    """
    numbers = {port.get("name"): port.get("containerPort") for port in blocks_at(ports)}
    names = {port.get("name") for port in blocks_at(own)}
    probe = copy.deepcopy(probe)
    for handler in ("httpGet", "tcpSocket"):
        port = mapping_at(probe, handler).get("port")
        if isinstance(port, str) and port not in names and port in numbers:
            probe[handler]["port"] = numbers[port]
    return probe


def _read_number(probe: Block, key: str, default: int) -> int:
    """Return a number above zero; the API server refuses all else, and gives zero the meaning of the default."""
    value = probe.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
