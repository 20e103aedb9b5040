"""The company of a container: services, init containers, and the errors of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from warmstart.build import beside as module
from warmstart.build.beside import ALONE, Beside, FetchedInit, RunningService, ServiceError, naming
from warmstart.core.errors import AppError, EngineError
from warmstart.engine.cri_messages import Host
from warmstart.engine.target import State
from warmstart.recipe.model import Container, InitContainer

CONTAINER = Container("base")
HOSTS = (Host("10.91.0.2", ("postgres", "db")),)
MIGRATE = FetchedInit(InitContainer("migrate", Container("tool")), "local/tool")


@dataclass(frozen=True)
class FakeRunning:
    """A container in the states that a test sets, the last of them for ever."""

    states: list[State] = field(default_factory=lambda: [State()])
    log: tuple[str, ...] = ("its last words",)
    watch: Any = None

    def state(self) -> State:
        if self.watch:
            self.watch()
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def log_tail(self, lines: int) -> list[str]:
        return list(self.log[-lines:])


class FakeEngine:
    """Its own runtime, which remembers what it is asked for."""

    shared = False

    def __init__(self, **running: FakeRunning) -> None:
        self.cri = self
        self.running = running
        self.events: list[str] = []
        self.started: dict[str, Any] = {}
        self.refusal: Exception | None = None

    @contextmanager
    def open_volumes(self) -> Iterator[str]:
        self.events.append("volumes")
        yield "the volumes"
        self.events.append("no volumes")

    @contextmanager
    def start(self, container: Container, image: str, name: str, **options: object) -> Iterator[FakeRunning]:
        options.pop("on_created", None)
        if self.refusal:
            raise self.refusal
        self.events.append(name)
        self.started[name] = (container, image, options)
        try:
            yield self.running.get(name, FakeRunning())
        finally:
            self.events.append(f"end of {name}")


def start(beside: Beside, engine: FakeEngine, error: Exception | None = None, look: bool = False) -> None:
    with beside.start(cast(Any, engine), CONTAINER, "image", "app") as running:
        if look:
            running.state()
        if error:
            raise error


def make_services(*states: State, log: Sequence[str] = ("ready", "FATAL: no such role")) -> tuple[RunningService, ...]:
    return (RunningService("postgres", cast(Any, FakeRunning([*states] or [State()], tuple(log)))),)


def test_a_container_that_is_alone_is_just_started():
    engine = FakeEngine()
    start(ALONE, engine)
    assert engine.events == ["app", "end of app"]
    assert engine.started["app"] == (CONTAINER, "image", {"hosts": (), "volumes": None})


def test_services_have_names():
    engine = FakeEngine()
    start(Beside(cast(Any, engine), HOSTS, make_services()), engine, look=True)
    assert engine.started["app"][2]["hosts"] == HOSTS


def test_a_service_that_ends_is_found_out_at_once():
    engine = FakeEngine()
    beside = Beside(cast(Any, engine), HOSTS, make_services(State(), State(1, "Error")))
    beside.check()
    with pytest.raises(ServiceError, match=r"^the service postgres has ended: exit code 1$") as caught:
        start(beside, engine, look=True)
    assert caught.value.details == ("the end of its log:", "  ready", "  FATAL: no such role")
    assert engine.events[-1] == "end of app"


def test_an_error_of_the_application_is_explained_by_a_service_that_ended():
    beside = Beside(cast(Any, None), HOSTS, make_services(State(137, "OOMKilled")))
    with pytest.raises(ServiceError, match=r"the service postgres has ended: exit code 137 \(OOMKilled\)") as caught:
        start(beside, FakeEngine(), AppError("the container was not ready"))
    assert isinstance(caught.value.__context__, AppError)


def test_an_error_of_the_application_has_the_logs_of_its_services():
    beside = Beside(cast(Any, None), HOSTS, make_services())
    with pytest.raises(AppError, match=r"^not ready$") as caught:
        start(beside, FakeEngine(), AppError("not ready", details=["own"]))
    assert caught.value.details == (
        "own",
        "the end of the log of the service postgres:",
        "  ready",
        "  FATAL: no such role",
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("the runtime does not answer")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        start(Beside(cast(Any, None), HOSTS, make_services(State(1))), FakeEngine(), error)
    assert caught.value is error


# Init containers


def test_an_init_container_runs_to_its_end_before_with_the_same_volumes():
    engine = FakeEngine(migrate=FakeRunning([State(), State(), State(0, "Completed")]))
    start(Beside(cast(Any, engine), HOSTS, init=(MIGRATE,)), engine)
    assert engine.events == ["volumes", "migrate", "end of migrate", "app", "end of app", "no volumes"]
    options = {"hosts": HOSTS, "volumes": "the volumes"}
    assert engine.started["migrate"] == (MIGRATE.init.container, "local/tool", options)
    assert engine.started["app"][2] == options


def test_an_init_container_that_fails_ends_the_build_with_its_log():
    engine = FakeEngine(migrate=FakeRunning([State(3, "Error")], ("no such table",)))
    with pytest.raises(ServiceError, match=r"^the init container migrate failed with exit code 3$") as caught:
        start(Beside(cast(Any, engine), init=(MIGRATE,)), engine)
    assert caught.value.details == ("the end of its log:", "  no such table")
    assert "build.init" in caught.value.hint
    assert engine.events == ["volumes", "migrate", "end of migrate"]


def test_an_init_container_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(module, "INIT_S", 0.2)
    engine = FakeEngine()
    with pytest.raises(ServiceError, match=r"^the init container migrate still runs after 0\.2 s$"):
        start(Beside(cast(Any, engine), init=(MIGRATE,)), engine)


def test_an_init_container_ends_when_nobody_waits_any_more():
    engine = FakeEngine()
    with pytest.raises(ServiceError, match="the init container migrate was ended"):
        start(Beside(cast(Any, engine), init=(MIGRATE,), cancelled=lambda: True), engine)


def test_a_service_that_ends_while_an_init_container_waits_for_it():
    engine = FakeEngine()
    beside = Beside(cast(Any, engine), HOSTS, make_services(State(), State(1)), (MIGRATE,))
    with pytest.raises(ServiceError, match="the service postgres has ended"):
        start(beside, engine)


def test_a_name_before_an_error_has_one_colon():
    error = EngineError("could not create the container: no such file")
    refused = pytest.raises(EngineError, match=r"^the service db did not start: could not create")
    with refused, naming("the service db did not start:"):
        raise error


def test_an_init_container_that_does_not_start():
    engine = FakeEngine()
    engine.refusal = EngineError("could not start the container: no such file", details=["migrate.sh"])
    with pytest.raises(EngineError, match=r"^the init container migrate: could not start the container") as caught:
        start(Beside(cast(Any, engine), init=(MIGRATE,)), engine)
    assert caught.value.details == ("migrate.sh",)
