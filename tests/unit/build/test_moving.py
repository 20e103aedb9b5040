"""Services move during a warm-up: the container finds them at other addresses."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart.build import moving
from warmstart.build.beside import RunningService
from warmstart.build.moving import ServiceMoves
from warmstart.dump.proc.socket_tables import Endpoint
from warmstart.engine.cri import CriContainer


class Service(CriContainer):
    """A service that notes its addresses."""

    pid = 7

    def add_address(self, address: str) -> None:
        self.engine.added.append(address)


def make_service(name: str, address: str, added: list[str], network: Path | None = Path("/node")) -> RunningService:
    engine: Any = SimpleNamespace(proc=Path("/proc"), network=network, added=added)
    return RunningService(name, Service(engine, name, address, Path("log"), 0, 0, 0, 0))


def listen(monkeypatch, *addresses: str) -> None:
    """Let each service listen on these addresses."""
    ends = {Endpoint(ip_address(address), 5432) for address in addresses}
    monkeypatch.setattr(moving, "list_listening", lambda _: ends)


def test_each_service_has_a_new_address_each_time(monkeypatch):
    listen(monkeypatch, "0.0.0.0", "::", "127.0.0.1")
    moved, added = [], []
    target: Any = SimpleNamespace(move_host=lambda *addresses: moved.append(addresses))
    move = ServiceMoves([make_service("db", "10.91.0.2", added), make_service("cache", "10.91.0.3", added)], target)
    move()
    move()
    assert moved == [
        ("10.91.0.2", "10.91.0.129"),
        ("10.91.0.3", "10.91.0.130"),
        ("10.91.0.129", "10.91.0.131"),
        ("10.91.0.130", "10.91.0.132"),
    ]
    assert added == [new for _, new in moved]


@pytest.mark.parametrize(("address", "network"), [("10.91.0.2", Path("/node")), ("0.0.0.0", None)])
def test_a_service_on_its_own_address_or_on_the_hosts_runtime_stays(monkeypatch, address, network):
    listen(monkeypatch, "0.0.0.0", address)
    added: list[str] = []
    ServiceMoves([make_service("db", "10.91.0.2", added, network)], cast(Any, None))()
    assert not added
