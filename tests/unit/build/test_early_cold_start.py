"""When the cold start of an image that restores itself is observed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart.build import cold_start, early_cold_start
from warmstart.build.beside import ALONE
from warmstart.build.cold_start import COLD, ColdStart
from warmstart.build.early_cold_start import EarlyColdStart
from warmstart.core.errors import AppError, VerifyError
from warmstart.core.progress import Progress, SilentListener
from warmstart.image.compose import Layer, Run
from warmstart.image.manifest import Descriptor
from warmstart.node.network import Network
from warmstart.probe.readiness import Target
from warmstart.recipe.model import Container, Probe, Restorer, TcpSocket

OFF = "warmstart: cold start: WARMSTART is off (0 ms)"
CONTAINER = Container(image="base", readiness_probe=Probe(TcpSocket(8080)))
RUN = Run(("/app",), (), "")


def make_layer(name: str) -> Layer:
    return Layer(Descriptor("", name, 1), name, name)


@dataclass
class FakeEngine:
    """An engine that starts images as they are, and remembers them."""

    shared: bool = False
    imported: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)

    @property
    def cri(self) -> Any:
        return self

    def import_image(self, layout: Path, name: str) -> None:
        self.imported.append(layout.name)

    def open_volumes(self) -> Any:
        raise NotImplementedError

    def kill_container(self, container_id: str) -> None:
        self.killed.append(container_id)

    @contextmanager
    def start(self, container: Container, image: str, name: str, **_: object) -> Iterator[object]:
        assert COLD in container.env
        yield SimpleNamespace(log_tail=lambda _: [OFF], engine=self, container_id=self.imported[-1])


@pytest.fixture
def make(monkeypatch, tmp_path) -> Iterator[Callable[..., EarlyColdStart]]:
    """Make one for a build on an engine; `wait` is how the application becomes ready."""
    layers: dict[str, list[str]] = {}
    monkeypatch.setattr(early_cold_start, "link_layers", lambda added, source, target: None)
    monkeypatch.setattr(
        early_cold_start,
        "add_layers",
        lambda base, layout, added, *_: layers.update({layout.name: [layer.diff_id for layer in added]}),
    )
    monkeypatch.setattr(early_cold_start, "open_plain_engine", open_same)

    with ExitStack() as undo:

        def run(
            engine: FakeEngine,
            *,
            network: Network = Network.NONE,
            beside: object = ALONE,
            wait: Callable[[Target], object] = lambda _: None,
        ) -> EarlyColdStart:
            monkeypatch.setattr(cold_start, "wait_first_success", lambda running, *_, **__: wait(running))
            context = SimpleNamespace(
                recipe=SimpleNamespace(container=CONTAINER, restore=(Restorer.SELF,), labels={}, cold_removed=()),
                options=SimpleNamespace(network=network),
                beside=beside,
                hooks=None,
                workspace=tmp_path,
                progress=Progress(SilentListener()),
            )
            base = SimpleNamespace(layout=tmp_path)
            early = EarlyColdStart(
                cast(Any, context), cast(Any, engine), cast(Any, base), tmp_path, make_layer("programs"), RUN, undo
            )
            early.layers = layers  # type: ignore[attr-defined]
            return early

        yield run


@contextmanager
def open_same(engine: FakeEngine, restorers: object) -> Iterator[FakeEngine]:
    yield engine


def launched(*, untouched: bool) -> Any:
    return SimpleNamespace(changes=make_layer("changes"), untouched=untouched, warm=SimpleNamespace(hooks=()))


def wait(cold: ColdStart | None) -> None:
    assert cold is not None
    cold.wait()


def test_it_begins_during_the_warm_up_and_holds_if_no_file_was_changed(make):
    engine = FakeEngine()
    early = make(engine)
    early.begin()
    wait(early.settle(launched(untouched=True)))
    assert engine.imported == ["cold"]
    assert early.layers == {"cold": ["programs"]}


def test_it_begins_again_with_the_files_that_were_changed(make):
    engine = FakeEngine()
    early = make(engine)
    early.begin()
    wait(early.settle(launched(untouched=False)))
    assert engine.imported == ["cold", "cold-changed"]
    assert early.layers["cold-changed"] == ["programs", "changes"]


def test_the_first_is_ended_and_its_failure_forgotten_if_it_begins_again(make):
    engine, waits, killed = FakeEngine(), threading.Event(), threading.Event()

    def never_ready_without_the_changes(running: Any) -> None:
        if running.container_id == "cold":
            waits.set()
            killed.wait(60)
            raise AppError("the application ended")

    engine.kill_container = lambda container_id: (engine.killed.append(container_id), killed.set())  # type: ignore
    early = make(engine, wait=never_ready_without_the_changes)
    early.begin()
    waits.wait(60)
    wait(early.settle(launched(untouched=False)))
    assert engine.killed == ["cold"]


def test_a_failure_of_the_image_that_is_published_is_reported(make):
    def fail(_: object) -> None:
        raise AppError("the application ended")

    early = make(FakeEngine(), wait=fail)
    early.begin()
    cold = early.settle(launched(untouched=True))
    with pytest.raises(VerifyError, match="did not start cold: the application ended"):
        wait(cold)


def test_a_copy_that_could_meet_the_dumped_one_outside_begins_after_the_dump(make):
    engine = FakeEngine()
    early = make(engine, network=Network.OUTSIDE)
    early.begin()
    assert not engine.imported
    wait(early.settle(launched(untouched=True)))
    assert engine.imported == ["cold-changed"]


@pytest.mark.parametrize(("engine", "beside"), [(FakeEngine(shared=True), ALONE), (FakeEngine(), "services")])
def test_with_services_or_on_the_users_engine_it_begins_with_the_verification(make, engine, beside):
    early = make(engine, beside=beside)
    early.begin()
    assert early.settle(launched(untouched=True)) is None
    assert not engine.imported
