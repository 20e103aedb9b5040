"""The services of a recipe: their names, their readiness, their init containers, and their images."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart.build import services as module
from warmstart.build.beside import ALONE
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.services import await_service, find_sharing, list_names, open_companions
from warmstart.core.errors import AppError, ImageError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_reference
from warmstart.engine.target import State
from warmstart.probe import ports
from warmstart.recipe.model import (
    Container,
    InitContainer,
    Port,
    Probe,
    Recipe,
    Service,
    TcpSocket,
    Volume,
    VolumeKind,
    VolumeMount,
)

PROBE = Probe(TcpSocket(5432))
POSTGRES = Service("postgres", Container("oci-archive:postgres.tar", readiness_probe=PROBE))


def make_recipe(**fields: Any) -> Recipe:
    container = Container("base:1", readiness_probe=PROBE, volume_mounts=fields.pop("volume_mounts", ()))
    return Recipe("app", container, parse_reference("registry.example.com/app:1-warm"), **fields)


# Names


@pytest.mark.parametrize(
    ("aliases", "names"),
    [
        ((), ["postgres"]),
        (("db", "postgres"), ["postgres", "db"]),
        (
            ("postgres.shop.svc.cluster.local",),
            ["postgres", "postgres.shop", "postgres.shop.svc", "postgres.shop.svc.cluster.local"],
        ),
        (("postgres.shop.svc",), ["postgres", "postgres.shop", "postgres.shop.svc"]),
        (("db.example.com",), ["postgres", "db.example.com"]),
    ],
)
def test_a_service_is_found_by_all_forms_of_its_name(aliases, names):
    assert list(list_names(Service("postgres", POSTGRES.container, aliases))) == names


# Init containers


def make_init(name: str, *volumes: str, kind: VolumeKind = VolumeKind.EMPTY_DIR) -> InitContainer:
    return InitContainer(name, Container("tool", volume_mounts=mount(*volumes, kind=kind)))


def mount(*volumes: str, kind: VolumeKind = VolumeKind.EMPTY_DIR) -> tuple[VolumeMount, ...]:
    return tuple(VolumeMount(Volume(name, kind), f"/{name}") for name in volumes)


def test_init_containers_that_share_a_volume_with_the_container_are_found():
    inits = (make_init("migrate"), make_init("a", "x", "y"), make_init("b", "y", "z"), make_init("c", "other"))
    found = find_sharing(make_recipe(init=inits, volume_mounts=mount("z")))
    assert {init.name for init in found} == {"a", "b"}


def test_files_that_nobody_writes_to_are_not_shared():
    init = make_init("migrate", "conf", kind=VolumeKind.FILES)
    recipe = make_recipe(init=(init,), volume_mounts=mount("conf", kind=VolumeKind.FILES))
    assert find_sharing(recipe) == []


# Readiness


class FakeService:
    """A service whose port opens after some attempts."""

    address = "127.0.0.1"

    def __init__(self, refusals: int, states: tuple[State, ...] = (State(),)) -> None:
        self.refusals = refusals
        self.states = list(states)
        self.attempts = 0

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise ConnectionRefusedError
        return socket.socket()

    def state(self) -> State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def log_tail(self, lines: int) -> list[str]:
        return ["its log"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "ATTEMPT_S", 0.01)
    monkeypatch.setattr(ports, "ATTEMPT_S", 0.01)
    monkeypatch.setattr(ports, "PORTS_S", 0.3)
    monkeypatch.setattr(module, "READY_S", 0.3)


def test_a_service_is_ready_when_its_probe_and_its_ports_say_so():
    service = FakeService(3)
    container = Container("x", readiness_probe=PROBE, ports=(Port(5432), Port(53, protocol="UDP")))
    await_service(cast(Any, service), container)
    assert service.attempts == 5


def test_a_port_that_is_only_declared_is_not_awaited_for_ever():
    exec_like = Container("x", readiness_probe=Probe(TcpSocket(1)), ports=(Port(2),))
    service = FakeService(1000)
    service.refusals = 0
    connect = service.connect
    service.connect = lambda port, host, s: connect(port, host, s) if port == 1 else refuse()  # type: ignore[method-assign]
    await_service(cast(Any, service), exec_like)


def refuse() -> socket.socket:
    raise ConnectionRefusedError


def test_a_service_that_never_gets_ready():
    probe = Probe(TcpSocket(5432), period_s=0, failure_threshold=0)
    with pytest.raises(AppError, match=r"was not ready within 0\.3 s: connection refused") as caught:
        await_service(cast(Any, FakeService(10**6)), Container("x", readiness_probe=probe))
    assert "  its log" in caught.value.details


def test_a_service_that_ends_right_after_it_was_ready():
    service = FakeService(0, (State(1, "Error"),))
    with pytest.raises(AppError, match="it ended after it was ready: exit code 1"):
        await_service(cast(Any, service), POSTGRES.container)


# Images


def make_context(tmp_path: Path, recipe: Recipe) -> BuildContext:
    session = SimpleNamespace(workspace=tmp_path)
    return BuildContext(recipe, BuildOptions(tmp_path), Progress(SilentListener()), cast(Any, session))


def test_without_services_nothing_is_fetched_or_run(tmp_path):
    with open_companions(make_context(tmp_path, make_recipe())) as companions, companions.run() as beside:
        assert beside == ALONE


def test_an_image_is_fetched_once(tmp_path, monkeypatch):
    fetched: list[tuple[str, str, str]] = []

    def fetch(context: object, source: object, layout: Path, step: str) -> object:
        fetched.append((str(source), layout.name, step))
        return SimpleNamespace(layout=layout)

    monkeypatch.setattr(module, "fetch_image", fetch)
    tool = Container("example.com/tool:1", readiness_probe=PROBE)
    recipe = make_recipe(services=(Service("a", tool), Service("b", tool)), init=(InitContainer("c", tool),))
    with open_companions(make_context(tmp_path, recipe)):
        pass
    assert fetched == [("docker://example.com/tool:1", "companion-0", "pull a")]


def test_an_image_that_is_missing_names_its_service(tmp_path):
    with (
        pytest.raises(ImageError, match=r"^cannot fetch the image of postgres: oci-archive:.*there is no such file"),
        open_companions(make_context(tmp_path, make_recipe(services=(POSTGRES,)))),
    ):
        pytest.fail("it was found")
