"""The container of a build whose image restores itself: the launcher runs the application, and dumps it from inside.

The launcher needs privileges for that, which the application does not get; its README says which, and why.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import AppError, CheckpointError, EngineError
from warmstart.dump.proc import GONE, list_children, read_process
from warmstart.engine.base import ExecResult, State
from warmstart.engine.cri import CriContainer
from warmstart.image.manifest import Config
from warmstart.image.selfrestore import DIRECTORY, ENTRYPOINT, LAUNCHER, find_run, read_manifest
from warmstart.node.launcher import LauncherPrograms
from warmstart.recipe.model import Container

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
    "SYS_PTRACE",
    "SYS_TIME",
)
START_S = 10.0
LOG_LINES = 20


@dataclass(frozen=True)
class LaunchedContainer:
    """A container whose first process is the launcher; a `Target` for probes and warm-up.

    Attributes:
        container: the container.
        directory: what it has as /.warmstart.
        pid: the application, as numbered in the engine's `proc`.
        inner_pid: the same, as numbered in the container.
    """

    container: CriContainer
    directory: Path
    pid: int
    inner_pid: int

    @property
    def address(self) -> str:
        """See `Target.address`."""
        return self.container.address

    @property
    def started(self) -> float:
        """See `CriContainer.started`."""
        return self.container.started

    @property
    def running(self) -> float:
        """See `CriContainer.running`."""
        return self.container.running

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """See `Target.connect`."""
        return self.container.connect(port, host, timeout_s)

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """See `Target.exec`; the command runs as the application's user."""
        return self.container.exec([LAUNCHER, "exec", "--", *command], timeout_s)

    def state(self) -> State:
        """See `Target.state`."""
        return self.container.state()

    def log_tail(self, lines: int) -> list[str]:
        """See `Target.log_tail`."""
        return self.container.log_tail(lines)

    def dump(self, timeout_s: float) -> None:
        """Have the launcher dump the application, which stays stopped.

        Raises:
            CheckpointError: CRIU failed, or took too long.
        """
        try:
            result = self.container.exec([LAUNCHER, "dump"], timeout_s)
        except TimeoutError as error:
            hint = "give it longer with --checkpoint-timeout"
            raise CheckpointError(f"the checkpoint took longer than {timeout_s:g} s", hint=hint) from error
        if result.exit_code:
            lines = [line.removeprefix("warmstart: ") for line in result.stderr.splitlines()]
            first = lines[0] if lines else f"exit status {result.exit_code}"
            raise CheckpointError(f"the launcher could not dump the application: {first}", details=lines[1:])


def make_directory(directory: Path, programs: LauncherPrograms) -> None:
    """Make what the container of a build has as /.warmstart."""
    directory.mkdir(mode=0o755)
    for program in (programs.launcher, programs.criu):
        shutil.copy(program, directory)


def wrap_container(container: Container, config: Config, directory: Path) -> Container:
    """The recipe's container, run by the launcher.

    Args:
        container: as the recipe has it.
        config: of the base image.
        directory: made by `make_directory`, as the engine sees it.
    """
    run, context = find_run(container, config), container.security_context
    options = ["--user", run.user] if run.user else []
    if context.supplemental_groups:
        options += ["--groups", ",".join(map(str, context.supplemental_groups))]
    return replace(
        container,
        command=(LAUNCHER, "build", *options, "--", *run.entrypoint[len(ENTRYPOINT) :], *run.cmd),
        args=(),
        mounts=((f"/{DIRECTORY}", directory),),
        security_context=replace(
            context,
            run_as_user=0,
            run_as_group=0,
            supplemental_groups=(),
            capabilities_add=CAPABILITIES,
            capabilities_drop=("ALL",),
            allow_privilege_escalation=True,
            unconfined=True,
        ),
    )


def await_application(container: CriContainer, directory: Path) -> LaunchedContainer:
    """Wait until the launcher has started the application.

    Raises:
        AppError: it could not.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            inner_pid = read_manifest(directory).pid
            pid = find_child(container, inner_pid)
            return LaunchedContainer(container, directory, pid, inner_pid)
        except (CheckpointError, LookupError, EngineError, *GONE):
            if container.state().exited:
                break
        time.sleep(0.02)
    raise AppError("the launcher could not start the application", details=container.log_tail(LOG_LINES))


def find_child(container: CriContainer, inner_pid: int) -> int:
    """The child of a container's first process that the container knows by that number.

    Raises:
        LookupError: there is none.
    """
    proc = container.engine.proc
    for pid in list_children(proc, container.pid):
        if read_process(proc, pid).pids[-1] == inner_pid:
            return pid
    raise LookupError(inner_pid)
