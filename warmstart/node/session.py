"""Namespaces of our own around a tree of tools, for the length of a `with` block.

What runs inside sees the tree as its root, the workspace at its usual path, its own processes, network, cgroups and
host name, and nothing else of the host. When the block ends, or this process does, all of it is gone (see
`warmstart.node.keeper`).
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
# Accepts a Release file of Debian's archive that is past its date; see `warmstart.node.cache`.
EXPIRED = "WARMSTART_DEBIAN_EXPIRED"
# What a tool needs of our environment to reach the network as we do.
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "GOPROXY", EXPIRED)
END_S = 30.0


@dataclass(frozen=True)
class Session:
    """A place made by `enter`.

    Attributes:
        init_pid: its first process, in our own PID namespace.
        workspace: the directory it shares with us.
        environment: what its programs are given.
        name_servers: whom its containers ask for names; whom this machine asks when empty.
    """

    init_pid: int
    workspace: Path
    environment: Mapping[str, str] = field(repr=False)
    name_servers: tuple[str, ...] = ()

    @property
    def proc(self) -> Path:
        """Its /proc, seen from here; the process numbers in it are its own."""
        return Path(f"/proc/{self.init_pid}/root/proc")

    @property
    def root(self) -> Path:
        """Its root directory, seen from here; what is written there is gone at the end."""
        return Path(f"/proc/{self.init_pid}/root")

    @property
    def network(self) -> Path:
        """Its network namespace."""
        return Path(f"/proc/{self.init_pid}/ns/net")

    def argv(self, command: Sequence[str | Path], *, host_network: bool = False, cwd: str = "/") -> list[str]:
        """The command as one that we can start, and that runs inside."""
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
        """Run a program inside to its end; errors as `warmstart.core.process.run`."""
        argv = self.argv(command, host_network=host_network, cwd=cwd)
        return process.run(argv, timeout_s=timeout_s, check=check, env=self.environment, stdin=stdin)

    def stream(
        self,
        command: Sequence[str | Path],
        *,
        on_line: Callable[[str], object],
        timeout_s: float,
        host_network: bool = False,
    ) -> None:
        """Run a program inside, and tell of each line that it writes; errors as `warmstart.core.process.stream`."""
        argv = self.argv(command, host_network=host_network)
        process.stream(argv, on_line=on_line, timeout_s=timeout_s, env=self.environment)

    @contextlib.contextmanager
    def background(
        self, command: Sequence[str | Path], *, log_file: Path, host_network: bool = False
    ) -> Iterator[process.Running]:
        """Run a program inside for the length of a `with` block; what it writes goes to `log_file`."""
        argv = self.argv(command, host_network=host_network)
        with process.background(argv, log_file=log_file, env=self.environment) as running:
            yield running


@contextlib.contextmanager
def enter(
    root: Path, workspace: Path, *, binds: Sequence[Bind] = (), leftovers: Sequence[str] = ()
) -> Iterator[Session]:
    """Make namespaces around the tree at `root`.

    `workspace` must exist and be ours alone: when this process is killed, the keeper removes it, and with it what is
    found by the patterns (see `glob`) in `leftovers`.

    Raises:
        HostError: not root, something that is to be bound is not there or in the way, or the kernel refused.
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
    """Raise HostError unless this process is root's."""
    if os.geteuid() != 0:
        raise HostError("the embedded node needs root", hint="run the command with sudo")


def _await_ready(keeper: subprocess.Popen[str]) -> int:
    """The number of the node's first process."""
    assert keeper.stdout is not None
    word, _, rest = keeper.stdout.readline().strip().partition(" ")
    if word == "ready":
        return int(rest)
    failure = Failure.from_json(rest) if word == "failed" else Failure("its keeper died")
    raise failure.to_error()


def _end(keeper: subprocess.Popen[str], name: str) -> None:
    """Have the keeper take the node down, or do it in its place."""
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
    # The node's own /tmp is in memory: images do not fit into it.
    temporary = workspace / "tmp"
    temporary.mkdir(exist_ok=True)
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"PATH": PATH, "HOME": SESSION_HOME, "LANG": "C.UTF-8", "TMPDIR": str(temporary), **passed_on}
