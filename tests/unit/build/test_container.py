"""The container of a build: its user, its readiness, the preflight before its checkpoint."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart.build import container as build
from warmstart.build.beside import Beside
from warmstart.build.container import (
    SelfRefusedError,
    await_ready,
    check_before_dump,
    check_user,
    has_directory,
    run_warmup,
)
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.launched import LauncherContainer
from warmstart.core.errors import AppError, PreflightError
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.preflight.finding import Finding, Severity
from warmstart.engine.target import ExecResult
from warmstart.probe.readiness import Readiness
from warmstart.recipe.model import Container, Exec, Prepare, Probe, Recipe, Restorer, SecurityContext, Step, TcpSocket


def make_recipe(**fields: object) -> Recipe:
    return Recipe("app", Container(image="base:1", **fields), "registry.example.com/app:1-warm")


@pytest.mark.parametrize(
    ("target", "expected"),
    [("var/tmp", True), ("/var/tmp", True), ("/only/here", False), ("/proc/self/cwd", False), ("/var/file", False)],
)
def test_a_link_leads_where_it_leads_in_the_container(tmp_path, target, expected):
    (tmp_path / "only/here").mkdir(parents=True)
    root = tmp_path / "1/root"
    (root / "var/tmp").mkdir(parents=True)
    (root / "var/file").touch()
    (root / "tmp").symlink_to(f"{tmp_path}{target}" if target == "/only/here" else target)
    assert has_directory(tmp_path, 1, "/tmp") == expected


def test_a_directory_is_one_and_what_is_missing_is_none(tmp_path):
    (tmp_path / "1/root/tmp").mkdir(parents=True)
    assert has_directory(tmp_path, 1, "/tmp")
    assert not has_directory(tmp_path, 1, "/run")


def make_running(**fields: object) -> Any:
    return SimpleNamespace(pid=1, address="10.88.0.2", **fields)


def make_engine(proc: Path) -> Any:
    return SimpleNamespace(proc=proc)


@pytest.mark.parametrize(("must_not", "uid", "refused"), [(True, 0, True), (True, 1000, False), (False, 0, False)])
def test_root_is_refused_where_the_recipe_says_so(tmp_path, must_not, uid, refused):
    if os.geteuid() != 0:
        pytest.skip("needs root to make files of others")
    (tmp_path / "1").mkdir()
    os.chown(tmp_path / "1", uid, uid)
    container = make_recipe(security_context=SecurityContext(run_as_non_root=must_not)).container
    if not refused:
        check_user(make_engine(tmp_path), make_running(), container)
        return
    with pytest.raises(AppError, match="the image's user is root"):
        check_user(make_engine(tmp_path), make_running(), container)


def test_a_container_that_has_ended_is_left_to_the_wait_for_its_readiness(tmp_path):
    container = make_recipe(security_context=SecurityContext(run_as_non_root=True)).container
    check_user(make_engine(tmp_path), make_running(), container)


def test_a_container_is_awaited_as_long_as_the_kubelet_would(monkeypatch):
    startup = Probe(TcpSocket(80), initial_delay_s=5, period_s=2, failure_threshold=30)
    readiness = Probe(TcpSocket(80), period_s=10, failure_threshold=3)
    awaited: list[tuple[object, ...]] = []

    def wait_first_success(_: object, probe: object, limit_s: float, announced: object) -> Readiness:
        awaited.append((probe, limit_s))
        return Readiness(1.0, 1, at=time.monotonic())

    monkeypatch.setattr(build, "wait_first_success", wait_first_success)
    monkeypatch.setattr(build, "wait_ready", lambda _, *probes, started: awaited.append((*probes, started)))
    container = make_recipe(readiness_probe=readiness, startup_probe=startup).container
    assert await_ready(make_running(requested_at=0.0, started_at=1.0), container) > 0
    assert awaited == [(readiness, 95), (startup, readiness, 1.0)]


# Preflight


class Recorder(SilentListener):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def finding(code: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(severity, code, 1, "app", "It holds something.", "Let it go.")


def check(monkeypatch: pytest.MonkeyPatch, *rounds: list[Finding], force: bool = False) -> tuple[Recorder, int]:
    """Check with what is found round by round, the last of them for ever; what was said, and how many it took."""
    asked: list[bool] = []

    def check_processes(*_: object, close_tcp: bool, **__: object) -> list[Finding]:
        asked.append(close_tcp)
        return rounds[min(len(asked), len(rounds)) - 1]

    monkeypatch.setattr(build, "check_processes", check_processes)
    recorder = Recorder()
    options = BuildOptions(Path("cache"), force=force)
    context = BuildContext(make_recipe(), options, Progress(recorder), cast(Any, None))
    check_before_dump(context, make_engine(Path("/proc")), make_running())
    return recorder, len(asked)


def test_nothing_to_say(monkeypatch):
    recorder, rounds = check(monkeypatch, [])
    assert (recorder.warnings, rounds) == ([], 1)


def test_warnings_are_told_and_do_not_stop_it(monkeypatch):
    recorder, rounds = check(monkeypatch, [finding("udp-bound", Severity.WARNING)])
    assert ([warning.rpartition("[")[2] for warning in recorder.warnings], rounds) == (["udp-bound]"], 1)


def test_connections_are_given_time_to_close(monkeypatch):
    recorder, rounds = check(monkeypatch, [finding("tcp-established")], [finding("tcp-closing")], [])
    assert (recorder.warnings, rounds) == ([], 3)


def test_connections_are_not_given_for_ever(monkeypatch):
    monkeypatch.setattr(build, "CLOSING_S", 0.15)
    with pytest.raises(PreflightError):
        check(monkeypatch, [finding("tcp-established")])


def test_what_does_not_close_by_itself_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(build, "CLOSING_S", 1000.0)
    with pytest.raises(PreflightError):
        check(monkeypatch, [finding("tcp-established"), finding("io-uring")])


@pytest.mark.parametrize(
    ("default", "own", "refused", "kind", "by_runtime"),
    [
        (True, [], ["another-user"], SelfRefusedError, False),
        (False, [], ["another-user"], PreflightError, True),
        (True, ["io-uring"], ["another-user"], PreflightError, False),
    ],
)
def test_a_restorer_is_refused_alone_if_the_recipe_names_none(monkeypatch, default, own, refused, kind, by_runtime):
    asked: list[object] = []

    def check_processes(*_: object, by_runtime: bool, launched: bool, **__: object) -> list[Finding]:
        asked.append((by_runtime, launched))
        return [finding(code) for code in own]

    monkeypatch.setattr(build, "check_processes", check_processes)
    monkeypatch.setattr(build, "check_launched", lambda *_, **__: tuple(finding(code) for code in refused))
    recipe = replace(make_recipe(), restore=(Restorer.RUNTIME, Restorer.SELF), restore_is_default=default)
    context = BuildContext(recipe, BuildOptions(Path("cache")), Progress(SilentListener()), cast(Any, None))
    launched = LauncherContainer(make_running(), cast(Any, None), "/", 1, 1)
    with pytest.raises(PreflightError) as caught:
        check_before_dump(context, make_engine(Path("/proc")), launched)
    assert type(caught.value) is kind
    assert asked == [(by_runtime, True)]


def test_a_recipe_that_needs_self_does_not_go_on_without(monkeypatch):
    recipe = replace(make_recipe(), restore=(Restorer.RUNTIME, Restorer.SELF), restore_is_default=True)
    for needs_self, kind in ((False, SelfRefusedError), (True, PreflightError)):
        with pytest.raises(PreflightError) as caught, build.refusing_self(replace(recipe, needs_self=needs_self)):
            raise PreflightError("refused")
        assert type(caught.value) is kind


def test_errors_are_warnings_for_who_goes_on_all_the_same(monkeypatch):
    recorder, _ = check(monkeypatch, [finding("io-uring"), finding("udp-bound", Severity.WARNING)], force=True)
    assert len(recorder.warnings) == 2


@pytest.mark.parametrize(
    ("prepare", "steady_limit_s", "expected"),
    [
        (Prepare.NONE, 60, ["warmup", "beforeCheckpoint"]),
        (Prepare.JAVA, None, ["rehearse 7", "warmup", "beforeCheckpoint", "prepare 7"]),
        (Prepare.JAVA, 60, ["warmup", "rehearse 7", "rest 45", "beforeCheckpoint", "prepare 7"]),
    ],
)
def test_what_prepares_the_jvm_is_not_new_to_it_after_the_warmup(monkeypatch, prepare, steady_limit_s, expected):
    done: list[str] = []

    def run_steps(*_, field="warmup", between=lambda: 0.0, **__):
        done.append(field)
        turns = 50 if steady_limit_s and field == "warmup" else 0
        assert sum(between() for _ in range(turns)) == (45.0 if turns and prepare is Prepare.JAVA else 0.0)
        return ()

    monkeypatch.setattr(build, "run_steps", run_steps)
    monkeypatch.setattr(build, "rehearse_java", lambda _, pid: done.append(f"rehearse {pid}"))
    monkeypatch.setattr(build.time, "sleep", lambda seconds: done.append(f"rest {seconds:.0f}"))
    monkeypatch.setattr(build, "prepare_java", lambda _, pid: done.append(f"prepare {pid}"))
    step = Step(Exec(("true",)), steady_limit_s=steady_limit_s)
    recipe = replace(make_recipe(readiness_probe=Probe(step.action)), prepare=prepare, warmup=(step,))
    context = SimpleNamespace(recipe=recipe, progress=Progress(SilentListener()), beside=Beside())
    running = make_running(interrupt=lambda _: None, close_connections=lambda: 0, exec=lambda *_: ExecResult(0, "", ""))
    running.from_inside = lambda: running
    run_warmup(cast(Any, context), running, 7)
    assert done == expected
