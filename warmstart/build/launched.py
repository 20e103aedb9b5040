"""Run the container of a build for a self-restoring image: the launcher starts the application, and dumps it.

The launcher needs privileges that the application does not get; launcher/README.md lists them with reasons. The
container has two mounts for its programs and its state, and the application cannot see them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from warmstart.core.errors import AppError, CheckpointError, EngineError
from warmstart.core.mountinfo import read_mountinfo
from warmstart.core.privileges import ALL, DEFAULT_CAPABILITIES, ORDINARY_CAPABILITIES
from warmstart.dump.criu.credentials import number_capabilities
from warmstart.dump.proc.container import GONE, list_children, read_namespace, read_process
from warmstart.engine.cri import CriContainer
from warmstart.engine.target import Activity, ExecResult, State, Target
from warmstart.engine.volumes import list_groups
from warmstart.image.manifest import Config
from warmstart.image.overlay_diff import Changes, find_changes
from warmstart.image.selfrestore.claim import claim_state
from warmstart.image.selfrestore.manifest_lines import BECOMING_OTHERS
from warmstart.image.selfrestore.pack import (
    BUILD_LAUNCHER,
    BUILD_ROOT,
    DIRECTORY,
    ENTRYPOINT,
    LAUNCHER,
    find_run,
    find_user,
    read_manifest,
)
from warmstart.node.launcher import LauncherPrograms
from warmstart.probe.diagnosis import suggest_by_log
from warmstart.recipe.model import Container, Mount, VolumeKind

CAPABILITIES = (
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "KILL",
    "NET_ADMIN",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_TIME",
)
START_S = 10.0
END_S = 20.0
LOG_LINES = 20


@dataclass(frozen=True)
class LauncherDirectories:
    """Directories for the launcher of a build, at the same path for the engine and this process.

    Attributes:
        programs: the launcher, criu, and mount points; read-only in the container.
        state: files of the launcher.
    """

    programs: Path
    state: Path


_Inner = TypeVar("_Inner", bound=Target)


class LaunchedTarget(Generic[_Inner]):
    """A container with the launcher as its first process; a `Target` for probes and warm-up.

    Attributes:
        container: the container.
        working_dir: working directory of its commands.
    """

    container: _Inner
    working_dir: str

    @property
    def address(self) -> str:
        """See `Target.address`."""
        return self.container.address

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """See `Target.connect`."""
        return self.container.connect(port, host, timeout_s)

    def from_inside(self) -> Target:
        """See `Target.from_inside`."""
        return self.container.from_inside()

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """See `Target.exec`; the command runs as the application's user."""
        return self.container.exec(wrap_command(command, self.working_dir), timeout_s)

    def state(self) -> State:
        """See `Target.state`."""
        return self.container.state()

    def activity(self) -> Activity:
        """See `Target.activity`."""
        return self.container.activity()

    def interrupt(self, pause_s: float = 0.0) -> None:
        """See `Target.interrupt`."""
        self.container.interrupt(pause_s)

    def close_connections(self) -> int:
        """See `Target.close_connections`."""
        return self.container.close_connections()

    def move_host(self, old: str, new: str) -> None:
        """See `Target.move_host`."""
        self.container.move_host(old, new)

    def log_tail(self, lines: int) -> list[str]:
        """See `Target.log_tail`."""
        return self.container.log_tail(lines)

    def dump(self, timeout_s: float) -> None:
        """Have the launcher dump the application, and leave it stopped.

        Raises:
            CheckpointError: CRIU failed or took too long.
        """
        try:
            result = self.container.exec([BUILD_LAUNCHER, "dump"], timeout_s)
        except TimeoutError as error:
            hint = "allow more time with --checkpoint-timeout"
            raise CheckpointError(f"the checkpoint took longer than {timeout_s:g} s", hint=hint) from error
        check_dumped(result.exit_code, result.stderr)


@dataclass(frozen=True)
class LauncherContainer(LaunchedTarget[CriContainer]):
    """See `LaunchedTarget`; on an engine of this machine.

    Attributes:
        container: the container.
        directories: the launcher's directories.
        working_dir: working directory of its commands.
        pid: PID of the application in the engine's `proc`.
        inner_pid: PID of the application in the container.
        starts_as_root: whether the launcher has started it as root.
    """

    container: CriContainer
    directories: LauncherDirectories
    working_dir: str
    pid: int
    inner_pid: int
    starts_as_root: bool = False

    def becomes_others(self, container: Container) -> bool:
        """Whether the application may become other users, and so may a restore: it starts as root."""
        return self.starts_as_root and find_capabilities(container) >= BECOMING_OTHERS

    @property
    def requested_at(self) -> float:
        """See `CriContainer.requested_at`."""
        return self.container.requested_at

    @property
    def started_at(self) -> float:
        """See `CriContainer.started_at`."""
        return self.container.started_at

    def take_out(self, into: Path) -> Changes | None:
        """End the container, and only then take over the launcher's files.

        Args:
            into: new directory for them; see `claim_state`.

        Returns:
            The location of the changes to its root filesystem, valid until the container is removed.

        Raises:
            EngineError: the container cannot be ended.
            CheckpointError: the launcher's files are not as expected.
            ImageError: the root filesystem is not an overlay.
        """
        proc, first_pid = self.container.engine.proc, self.container.pid
        changes = find_changes(read_mountinfo(proc / str(first_pid) / "mountinfo"), BUILD_ROOT)
        end_container(self.container, first_pid)
        claim_state(self.directories.state, into)
        return changes


def wrap_command(command: Sequence[str], working_dir: str) -> list[str]:
    """Return a command that the launcher runs as the application's user."""
    return [BUILD_LAUNCHER, "exec", "--directory", working_dir, "--", *command]


def check_dumped(exit_code: int, stderr: str, task: str = "dump the application") -> None:
    """Check the end of the launcher's `dump`.

    Args:
        exit_code: its exit code.
        stderr: its standard error.
        task: the launcher's task, for the message.

    Raises:
        CheckpointError: it failed.
    """
    if exit_code:
        lines = read_messages(stderr)
        first = lines[0] if lines else f"exit status {exit_code}"
        raise CheckpointError(f"the launcher could not {task}: {first}", details=lines[1:])


def read_messages(stderr: str) -> list[str]:
    """Return the lines that the launcher has written to its standard error, without its name."""
    return [line.removeprefix("warmstart: ") for line in stderr.splitlines()]


def end_container(container: CriContainer, first_pid: int) -> None:
    """Kill a container, and wait until all of its processes have ended.

    Raises:
        EngineError: some still run after END_S.
    """
    proc = container.engine.proc
    namespace, cgroup = read_namespace(proc, first_pid, "pid"), _read_cgroup(proc, first_pid)
    container.engine.kill_container(container.container_id)
    deadline = time.monotonic() + END_S
    while remaining := list(_find_members(proc, namespace, cgroup)):
        if time.monotonic() > deadline:
            names = ", ".join(map(str, remaining[:5]))
            raise EngineError(f"processes of the container still run {END_S:g} s after they were killed: {names}")
        time.sleep(0.02)


def _find_members(proc: Path, namespace: str, cgroup: str) -> Iterator[int]:
    """Yield the processes of a PID namespace or a cgroup, including zombies."""
    for name in os.listdir(proc):  # noqa: PTH208  (names only)
        if name.isdigit():
            with contextlib.suppress(*GONE):
                if _is_in(proc, int(name), namespace) or _read_cgroup(proc, int(name)) == cgroup:
                    yield int(name)


def _is_in(proc: Path, pid: int, namespace: str) -> bool:
    try:
        return read_namespace(proc, pid, "pid") == namespace
    except PermissionError:  # it has more privileges than this process, so it is not in a container
        return False


def _read_cgroup(proc: Path, pid: int) -> str:
    # A privileged container can give cgroups any name.
    return (proc / str(pid) / "cgroup").read_text(errors="replace")


def make_directories(directories: LauncherDirectories, programs: LauncherPrograms) -> None:
    """Make the directories for the launcher of a build."""
    directories.state.mkdir(mode=0o700)
    directories.programs.mkdir(mode=0o755)
    for name in ("state", "proc", BUILD_ROOT.strip("/")):
        (directories.programs / name).mkdir(mode=0o755)
    for program in (programs.launcher, programs.criu):
        shutil.copy(program, directories.programs)


def find_working_dir(container: Container, config: Config) -> str:
    """Return the working directory of a recipe's container, on a base image with this config."""
    return container.working_dir or config.working_dir or "/"


def find_empty_directories(container: Container) -> list[str]:
    """Return the paths of the volumes that are new in each pod, and that the application can write to."""
    mounts = container.volume_mounts
    return [one.path for one in mounts if one.volume.kind is VolumeKind.EMPTY_DIR and not one.read_only]


def wrap_container(container: Container, config: Config, directories: LauncherDirectories) -> Container:
    """Return the recipe's container with the launcher as its command.

    The runtime starts commands in the launcher's mount namespace, where `/` is the only possible working directory.

    Args:
        container: the recipe's container.
        config: config of the base image.
        directories: the launcher's directories; see `make_directories`.
    """
    run, context, options = find_run(container, config), container.security_context, list_options(container, config)
    return replace(
        container,
        command=(LAUNCHER, "build", *options, "--", *run.entrypoint[len(ENTRYPOINT) :], *run.cmd),
        args=(),
        working_dir="/",
        mounts=(
            *container.mounts,
            Mount(f"/{DIRECTORY}", directories.programs, read_only=True),
            Mount(f"/{DIRECTORY}/state", directories.state),
        ),
        security_context=replace(
            context,
            run_as_user=0,
            run_as_group=0,
            supplemental_groups=(),
            capabilities_add=list_capabilities(container),
            capabilities_drop=("ALL",),
            allow_privilege_escalation=True,
            unconfined=True,
        ),
    )


def find_capabilities(container: Container) -> frozenset[str]:
    """Return the capabilities that the application gets below the launcher: those of its pod, without dangerous ones.

    An application with others could reach the launcher, or a restore could not give them to it.
    """
    context = container.security_context
    dropped, added = set(context.capabilities_drop), set(context.capabilities_add)
    kept = frozenset() if ALL in dropped else DEFAULT_CAPABILITIES - dropped
    return kept | (ORDINARY_CAPABILITIES if ALL in added else ORDINARY_CAPABILITIES & added)


def list_capabilities(container: Container) -> tuple[str, ...]:
    """Return the capabilities of the launcher of a build: its own, and those of its application."""
    return tuple(sorted({*CAPABILITIES, *find_capabilities(container)}))


def list_options(container: Container, config: Config) -> list[str]:
    """Return the options of the launcher's `build` for a recipe's container on a base image with this config."""
    user, groups = find_user(container, config), list_groups(container)
    options = ["--directory", find_working_dir(container, config)]
    options += ["--user", user] if user else []
    options += ["--groups", ",".join(map(str, groups))] if groups else []
    options += ["--capabilities", str(number_capabilities(find_capabilities(container)))]
    for path in find_empty_directories(container):
        options += ["--volume", path]
    return options


def await_application(container: CriContainer, directories: LauncherDirectories, working_dir: str) -> LauncherContainer:
    """Wait until the launcher has started the application.

    Raises:
        AppError: the launcher could not start it.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            identity = read_manifest(directories.state)
            pid = find_child(container, identity.pid)
            return LauncherContainer(container, directories, working_dir, pid, identity.pid, identity.user == 0)
        except (CheckpointError, LookupError, EngineError, *GONE):
            if container.state().exited:
                break
        time.sleep(0.02)
    log = container.log_tail(LOG_LINES)
    raise AppError("the launcher could not start the application", details=log, hint=suggest_by_log(log))


def find_child(container: CriContainer, inner_pid: int) -> int:
    """Return the child of a container's first process with this PID in the container.

    Raises:
        LookupError: there is no such process.
    """
    proc = container.engine.proc
    for pid in list_children(proc, container.pid):
        if read_process(proc, pid).pids[-1] == inner_pid:
            return pid
    raise LookupError(inner_pid)
