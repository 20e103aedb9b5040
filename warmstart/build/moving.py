"""Let a container find its services at other addresses during its warm-up, as a restored one does.

A client that connects to a new address does more than one that connects again: it makes meters with the address, for
example, by code that each request runs too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from warmstart.build.beside import SUBNET, RunningService
from warmstart.dump.proc.socket_tables import list_listening
from warmstart.engine.cri import CriContainer
from warmstart.engine.target import Target

#: The upper half of the services' network. Pods have the first addresses.
_OTHERS = [str(address) for address in ip_network(SUBNET).hosts()][128:]


@dataclass
class _Movable:
    """A service, its address in the container's /etc/hosts, and the next ones."""

    running: CriContainer
    address: str
    others: Iterator[str]


class ServiceMoves:
    """Moves all services that listen on each address of their pods. Their old addresses remain.

    On the host's own runtime, none moves: addresses there are not ours.

    Args:
        services: services.
        target: the container that knows them by name.
    """

    def __init__(self, services: Sequence[RunningService], target: Target) -> None:
        self._target = target
        running = [service.running for service in services]
        movable = [each for each in running if isinstance(each, CriContainer) and _can_move(each)]
        self._movable = [
            _Movable(each, each.address, itertools.cycle(_OTHERS[index :: len(movable)]))
            for index, each in enumerate(movable)
        ]

    def __call__(self) -> None:
        """Give each service one more address, under which the container finds it by name from now on.

        Raises:
            EngineError: a service has ended.
        """
        for service in self._movable:
            before, service.address = service.address, next(service.others)
            service.running.add_address(service.address)
            self._target.move_host(before, service.address)


def _can_move(service: CriContainer) -> bool:
    if service.engine.network is None:
        return False
    ends = list_listening(service.engine.proc / str(service.pid))
    return all(end.address.is_unspecified or end.address.is_loopback for end in ends)
