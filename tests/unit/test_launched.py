"""The container of a build whose image is to restore itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart import launched
from warmstart.core.errors import AppError, CheckpointError
from warmstart.engine.base import ExecResult, State
from warmstart.image.manifest import Config, Platform
from warmstart.launched import LaunchedContainer, await_application, make_directory, wrap_container
from warmstart.node.launcher import LauncherPrograms
from warmstart.recipe.model import Container, SecurityContext

BASE = Config(Platform("linux", "amd64"), entrypoint=("/app",), cmd=("serve",), user="app")


@dataclass
class FakeContainer:
    """Answers commands with what it was told to."""

    answer: ExecResult | Exception = field(default_factory=lambda: ExecResult(0, "", ""))
    ended: bool = False
    commands: list[list[str]] = field(default_factory=list)
    pid: int = 1

    def exec(self, command: list[str], timeout_s: float) -> ExecResult:
        self.commands.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def state(self) -> State:
        return State(70) if self.ended else State()

    def log_tail(self, lines: int) -> list[str]:
        return ["warmstart: the image has no user app"]

    @property
    def engine(self) -> Any:
        return SimpleNamespace(proc=Path("/nonexistent"))


def make(container: FakeContainer) -> LaunchedContainer:
    return LaunchedContainer(cast(Any, container), Path("/x"), 4711, 100)


def test_the_launcher_is_told_whom_to_run_and_what():
    context = SecurityContext(
        run_as_user=7,
        run_as_group=8,
        supplemental_groups=(4, 5),
        capabilities_drop=("ALL",),
        read_only_root_filesystem=True,
        run_as_non_root=True,
        allow_privilege_escalation=False,
    )
    container = Container("base", args=("a", "b"), security_context=context, env=(("A", "b"),))
    wrapped = wrap_container(container, BASE, Path("/place"))
    command = "/.warmstart/launcher build --user 7:8 --groups 4,5 -- /app a b"
    assert wrapped.command == tuple(command.split())
    assert wrapped.args == ()
    assert wrapped.mounts == (("/.warmstart", Path("/place")),)
    assert wrapped.env == container.env
    privileges = wrapped.security_context
    assert (privileges.run_as_user, privileges.run_as_group, privileges.supplemental_groups) == (0, 0, ())
    assert privileges.unconfined
    assert privileges.allow_privilege_escalation
    assert privileges.read_only_root_filesystem
    assert not privileges.privileged


def test_without_a_user_there_is_none_to_tell():
    wrapped = wrap_container(Container("base"), replace(BASE, user=""), Path("/place"))
    assert wrapped.command == ("/.warmstart/launcher", "build", "--", "/app", "serve")


def test_commands_run_as_the_applications_user():
    container = FakeContainer()
    make(container).exec(["jattach", "100"], 5)
    assert container.commands == [["/.warmstart/launcher", "exec", "--", "jattach", "100"]]


def test_a_dump_that_fails_is_told_with_criu_s_reasons():
    stderr = "warmstart: Error (criu/files.c:1): Unknown shit\nwarmstart: CRIU could not dump\n"
    with pytest.raises(CheckpointError, match="could not dump the application: Error") as caught:
        make(FakeContainer(ExecResult(70, "", stderr))).dump(5)
    assert caught.value.details == ("CRIU could not dump",)


def test_a_dump_that_takes_too_long():
    with pytest.raises(CheckpointError, match="took longer than 5 s") as caught:
        make(FakeContainer(TimeoutError())).dump(5)
    assert "--checkpoint-timeout" in caught.value.hint


def test_a_launcher_that_ends_says_why(tmp_path):
    with pytest.raises(AppError, match="could not start the application") as caught:
        await_application(cast(Any, FakeContainer(ended=True)), tmp_path)
    assert caught.value.details == ("warmstart: the image has no user app",)


def test_a_launcher_that_starts_nothing_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(launched, "START_S", 0.1)
    with pytest.raises(AppError):
        await_application(cast(Any, FakeContainer()), tmp_path)


def test_the_directory_has_what_the_launcher_needs(tmp_path):
    (tmp_path / "launcher").touch(mode=0o755)
    (tmp_path / "criu").touch(mode=0o755)
    make_directory(tmp_path / "place", LauncherPrograms(tmp_path))
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["criu", "launcher"]
    assert (tmp_path / "place/criu").stat().st_mode & 0o777 == 0o755
