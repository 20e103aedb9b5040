"""The wait for the ports of a service, in a pod whose ports are forwarded; the others are in build/test_services.py."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from warmstart.probe import ports
from warmstart.recipe.model import Container, Port

CONTAINER = Container("db:1", ports=(Port(5432), Port(53, protocol="UDP")))


class FakePod:
    """A pod whose forwarded port is closed at first."""

    def __init__(self, closed: int) -> None:
        self.closed = closed
        self.tries: list[int] = []
        self.ours: list[socket.socket] = []

    def connect(self, port: int, _host: str | None, timeout_s: float) -> socket.socket:
        self.tries.append(port)
        near, far = socket.socketpair()
        near.settimeout(timeout_s)
        if len(self.tries) <= self.closed:
            far.close()
        else:
            self.ours.append(far)
        return near


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(ports, "ATTEMPT_S", 0.02)


def test_a_port_that_is_open_late_is_waited_for():
    pod = FakePod(closed=2)
    ports.await_ports(cast(Any, pod), CONTAINER, forwarded=True)
    assert pod.tries == [5432, 5432, 5432]
    pod.ours[0].close()


def test_a_port_that_never_opens_is_given_up(monkeypatch):
    monkeypatch.setattr(ports, "PORTS_S", 0.1)
    pod = FakePod(closed=1000)
    ports.await_ports(cast(Any, pod), CONTAINER, forwarded=True)
    assert len(pod.tries) > 1
