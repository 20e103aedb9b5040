"""Open namespaces around the tools directory for the length of a `with` block.

Programs inside see the tools directory as their root, the workspace at its usual path, and their own processes,
network, cgroups and host name. They see nothing else of the host. Everything is gone when the block or this process
ends (see `warmstart.node.keeper`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.core import process
from warmstart.core.errors import HostError
from warmstart.node.cgroup import find_cgroup
from warmstart.node.host_files import SESSION_HOME, list_host_binds, list_host_files
from warmstart.node.keeper import ENTER, Bind, Failure, Plan

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Accept an expired Release file of Debian's archive; see `warmstart.node.cache`.
EXPIRED = "WARMSTART_DEBIAN_EXPIRED"
# Variables that let the tools reach the network as this process does.
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "GOPROXY", EXPIRED)
END_S = 30.0


@dataclass(frozen=True)
class Session:
    """Namespaces opened by `enter`.

    Attributes:
        init_pid: PID of its first process, in the namespace of this process.
        workspace: the directory that it shares with the host, at the same path.
        environment: environment of its programs.
        name_servers: DNS servers of its containers; those of this machine if empty.
    """

    init_pid: int
    workspace: Path
    environment: Mapping[str, str] = field(repr=False)
    name_servers: tuple[str, ...] = ()

    @property
    def proc(self) -> Path:
        """Its /proc, as a path of the host, with its own process numbers."""
        return Path(f"/proc/{self.init_pid}/root/proc")

    @property
    def root(self) -> Path:
        """Its root directory, as a path of the host; changes are gone at the end.

        Absolute links below it lead to the host. Its files are those of the tools, which containers do not see.
        """
        return Path(f"/proc/{self.init_pid}/root")

    @property
    def network(self) -> Path:
        """Path of its network namespace."""
        return Path(f"/proc/{self.init_pid}/ns/net")

    def argv(self, command: Sequence[str | Path], *, host_network: bool = False, cwd: str = "/") -> list[str]:
        """Return a command for the host that runs `command` inside."""
        namespaces = ["--mount", "--uts", "--ipc", "--pid"]
        if not host_network:
            namespaces.append("--net")
        return ["nsenter", "--target", str(self.init_pid), *namespaces, "--", ENTER, cwd, *map(str, command)]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout_s: float,
        host_network: bool = False,
        check: bool = True,
        cwd: str = "/",
        stdin: str | None = None,
    ) -> process.Finished:
        """Run a program inside and wait for it; errors as for `warmstart.core.process.run`."""
        argv = self.argv(command, host_network=host_network, cwd=cwd)
        return process.run(argv, timeout_s=timeout_s, check=check, env=self.environment, stdin=stdin, is_proxy=True)

    def stream(
        self,
        command: Sequence[str | Path],
        *,
        on_line: Callable[[str], object],
        timeout_s: float,
        host_network: bool = False,
    ) -> None:
        """Run a program inside, and call `on_line` with each line of output; errors as for `process.stream`."""
        argv = self.argv(command, host_network=host_network)
        process.stream(argv, on_line=on_line, timeout_s=timeout_s, env=self.environment, is_proxy=True)

    @contextlib.contextmanager
    def background(
        self, command: Sequence[str | Path], *, log_file: Path, host_network: bool = False
    ) -> Iterator[process.Running]:
        """Run a program inside for the length of a `with` block; its output goes to `log_file`."""
        argv = self.argv(command, host_network=host_network)
        with process.background(argv, log_file=log_file, env=self.environment, is_proxy=True) as running:
            yield running


@contextlib.contextmanager
def enter(
    root: Path, workspace: Path, *, binds: Sequence[Bind] = (), leftovers: Sequence[str] = ()
) -> Iterator[Session]:
    """Open namespaces around the tools directory at `root`.

    `workspace` must exist, and nothing else may use it. If this process is killed, the keeper removes it, and all files
    that match the glob patterns in `leftovers`.

    Raises:
        HostError: not root, a path to bind is missing or hides the tools, or the kernel refused.
    """
    require_root()
    for bind in binds:
        if Path(ENTER).is_relative_to(bind.path):
            raise HostError(
                f"cannot bind {bind.path}: it would hide the tools", hint="run the command in another directory"
            )
    plan = Plan(
        name=workspace.name,
        root=str(root),
        workspace=str(workspace),
        files=tuple(list_host_files()),
        binds=(*list_host_binds(), *binds),
        leftovers=tuple(leftovers),
    )
    keeper = subprocess.Popen(
        [sys.executable, "-m", "warmstart.node.keeper", plan.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        text=True,
    )
    try:
        yield Session(_await_ready(keeper), workspace, _environment(workspace))
    finally:
        _end(keeper, plan.name)


def require_root() -> None:
    """Raise HostError unless this process runs as root."""
    if os.geteuid() != 0:
        raise HostError("the embedded node needs root", hint="run the command with sudo")


def _await_ready(keeper: subprocess.Popen[str]) -> int:
    """Return the PID of the node's first process."""
    assert keeper.stdout is not None
    word, _, rest = keeper.stdout.readline().strip().partition(" ")
    if word == "ready":
        return int(rest)
    failure = Failure.from_json(rest) if word == "failed" else Failure("its keeper died")
    raise failure.to_error()


def _end(keeper: subprocess.Popen[str], name: str) -> None:
    """Have the keeper take the node down; do it here if the keeper fails."""
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        keeper.stdin.write("done\n")
        keeper.stdin.close()
    keeper.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(timeout=END_S)
    if keeper.returncode != 0:
        keeper.kill()
        keeper.wait()
        cgroup = find_cgroup(name)
        cgroup.thaw()
        cgroup.remove()


def _environment(workspace: Path) -> dict[str, str]:
    # The node's own /tmp is in memory, too small for images.
    temporary = workspace / "tmp"
    temporary.mkdir(exist_ok=True)
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"PATH": PATH, "HOME": SESSION_HOME, "LANG": "C.UTF-8", "TMPDIR": str(temporary), **passed_on}
