"""The container of a build whose image is to restore itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warmstart.build import launched
from warmstart.build.launched import (
    CAPABILITIES,
    LauncherContainer,
    LauncherDirectories,
    await_application,
    end_container,
    find_capabilities,
    make_directories,
    wrap_container,
)
from warmstart.core.errors import AppError, CheckpointError, EngineError
from warmstart.core.privileges import DEFAULT_CAPABILITIES, ORDINARY_CAPABILITIES
from warmstart.dump.proc.container import list_children
from warmstart.engine.target import ExecResult, State
from warmstart.image.manifest import Config, Platform
from warmstart.node.launcher import LauncherPrograms
from warmstart.recipe.model import Container, Mount, SecurityContext, Volume, VolumeKind, VolumeMount

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


DIRECTORIES = LauncherDirectories(Path("/programs"), Path("/state"))


def make(container: FakeContainer) -> LauncherContainer:
    return LauncherContainer(cast(Any, container), DIRECTORIES, "/work", 4711, 100)


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
    wrapped = wrap_container(container, BASE, DIRECTORIES)
    command = "/.warmstart/launcher build --directory / --user 7:8 --groups 4,5 --capabilities 0 -- /app a b"
    assert wrapped.command == tuple(command.split())
    assert wrapped.args == ()
    assert wrapped.mounts == (
        Mount("/.warmstart", Path("/programs"), read_only=True),
        Mount("/.warmstart/state", Path("/state")),
    )
    assert wrapped.working_dir == "/"
    assert wrapped.env == container.env
    privileges = wrapped.security_context
    assert (privileges.run_as_user, privileges.run_as_group, privileges.supplemental_groups) == (0, 0, ())
    assert privileges.unconfined
    assert privileges.allow_privilege_escalation
    assert privileges.read_only_root_filesystem
    assert not privileges.privileged


@pytest.mark.parametrize(
    ("added", "dropped", "expected"),
    [
        ((), (), DEFAULT_CAPABILITIES),
        ((), ("ALL",), set()),
        (("SETUID", "SETGID"), ("ALL",), {"SETUID", "SETGID"}),
        (("SYS_PTRACE", "SYS_ADMIN", "MKNOD"), (), {*DEFAULT_CAPABILITIES, "MKNOD"}),
        (("ALL",), (), ORDINARY_CAPABILITIES),
    ],
)
def test_the_application_gets_the_capabilities_of_its_pod_but_no_dangerous_ones(added, dropped, expected):
    context = SecurityContext(capabilities_add=added, capabilities_drop=dropped)
    container = Container("base", security_context=context)
    assert find_capabilities(container) == expected
    wrapped = wrap_container(container, BASE, DIRECTORIES).security_context
    assert {*wrapped.capabilities_add} == {*CAPABILITIES, *expected}
    assert wrapped.capabilities_drop == ("ALL",)


def test_the_launcher_keeps_files_of_volumes_that_are_new_in_each_pod():
    volumes = [Volume(kind, kind) for kind in VolumeKind]
    mounts = tuple(VolumeMount(volume, f"/{volume.name}") for volume in volumes)
    fixed = VolumeMount(volumes[0], "/fixed", read_only=True)
    given = Mount("/given", Path("/somewhere"))
    container = Container("base", args=("a",), volume_mounts=(*mounts, fixed), mounts=(given,))
    wrapped = wrap_container(container, BASE, DIRECTORIES)
    assert " --volume /emptyDir -- " in " ".join(wrapped.command)
    assert wrapped.command.count("--volume") == 1
    assert wrapped.volume_mounts == container.volume_mounts
    assert given in wrapped.mounts


def test_without_a_user_there_is_none_to_tell():
    wrapped = wrap_container(Container("base"), replace(BASE, user=""), DIRECTORIES)
    assert wrapped.command == (
        "/.warmstart/launcher",
        "build",
        "--directory",
        "/",
        "--capabilities",
        "1531",
        "--",
        "/app",
        "serve",
    )


@pytest.mark.parametrize(("own", "images", "directory"), [("", "", "/"), ("", "/of/it", "/of/it"), ("/a", "/b", "/a")])
def test_the_working_directory_is_the_recipes_before_the_images(own, images, directory):
    wrapped = wrap_container(Container("base", working_dir=own), replace(BASE, working_dir=images), DIRECTORIES)
    assert wrapped.command[2:4] == ("--directory", directory)


def test_commands_run_as_the_applications_user():
    container = FakeContainer()
    make(container).exec(["jattach", "100"], 5)
    assert container.commands == [["/launcher", "exec", "--directory", "/work", "--", "jattach", "100"]]


def test_a_dump_that_fails_is_told_with_criu_s_reasons():
    stderr = "warmstart: Error (criu/files.c:1): Unknown shit\nwarmstart: CRIU could not dump\n"
    with pytest.raises(CheckpointError, match="could not dump the application: Error") as caught:
        make(FakeContainer(ExecResult(70, "", stderr))).dump(5)
    assert caught.value.details == ("CRIU could not dump",)


def test_a_dump_that_takes_too_long():
    with pytest.raises(CheckpointError, match="took longer than 5 s") as caught:
        make(FakeContainer(TimeoutError())).dump(5)
    assert "--checkpoint-timeout" in caught.value.hint


def test_a_launcher_that_ends_says_why():
    with pytest.raises(AppError, match="could not start the application") as caught:
        await_application(cast(Any, FakeContainer(ended=True)), DIRECTORIES, "/")
    assert caught.value.details == ("warmstart: the image has no user app",)


def test_a_launcher_that_starts_nothing_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(launched, "START_S", 0.1)
    with pytest.raises(AppError):
        await_application(cast(Any, FakeContainer()), DIRECTORIES, "/")


def test_the_directories_have_what_the_launcher_needs(tmp_path):
    (tmp_path / "launcher").touch(mode=0o755)
    (tmp_path / "criu").touch(mode=0o755)
    place = LauncherDirectories(tmp_path / "programs", tmp_path / "state")
    make_directories(place, LauncherPrograms(tmp_path))
    assert sorted(path.name for path in place.programs.iterdir()) == ["container", "criu", "launcher", "proc", "state"]
    assert (place.programs / "criu").stat().st_mode & 0o777 == 0o755
    assert place.state.stat().st_mode & 0o777 == 0o700
    assert list(place.state.iterdir()) == []


class Ending:
    """A container of one process, which is killed when it is to be, or not."""

    def __init__(self, *, obeys: bool) -> None:
        self.process = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "60"])
        self.obeys, self.killed, self.container_id = obeys, False, "it"
        self.engine = SimpleNamespace(proc=Path("/proc"), kill_container=self.kill)

    def find_pid(self) -> int:
        while not (children := list_children(Path("/proc"), self.process.pid)):
            time.sleep(0.01)
        return children[0]

    def kill(self, container_id: str) -> None:
        assert container_id == "it"
        self.killed = True
        if self.obeys:
            # Its parent reaps it, in a moment.
            os.kill(self.find_pid(), signal.SIGKILL)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
@pytest.mark.parametrize("obeys", [True, False])
def test_nothing_is_left_of_a_container_that_was_ended(monkeypatch, obeys):
    monkeypatch.setattr(launched, "END_S", 60.0 if obeys else 0.2)
    # This process shares the cgroup of what it starts, which a container's own is not.
    monkeypatch.setattr(launched, "_read_cgroup", lambda proc, pid: f"0::/{pid}")
    container = Ending(obeys=obeys)
    pid = container.find_pid()
    try:
        if obeys:
            end_container(cast(Any, container), pid)
            assert not Path(f"/proc/{pid}").exists()
        else:
            with pytest.raises(EngineError, match=rf"still run 0\.2 s after they were killed: .*\b{pid}\b"):
                end_container(cast(Any, container), pid)
        assert container.killed
    finally:
        container.clean_up()


def test_a_privileged_container_can_give_its_cgroup_any_name(tmp_path):
    (tmp_path / "7/ns").mkdir(parents=True)
    (tmp_path / "7/ns/pid").symlink_to("pid:[2]")
    (tmp_path / "7/cgroup").write_bytes(b"0::/pod/\xff\n")
    assert list(launched._find_members(tmp_path, "pid:[1]", "0::/pod\n")) == []
    assert list(launched._find_members(tmp_path, "pid:[2]", "0::/pod\n")) == [7]
