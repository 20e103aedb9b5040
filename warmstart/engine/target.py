"""The interface to a running container, common to all engines."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class ExecResult:
    """The exit code and the output of a command in the container."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class State:
    """The state of a container.

    Attributes:
        exit_code: exit code; None while it runs.
        reason: the runtime's reason for the end, such as `Completed`, `Error` or `OOMKilled`.
    """

    exit_code: int | None = None
    reason: str = ""

    @property
    def exited(self) -> bool:
        """Tell whether the container has ended."""
        return self.exit_code is not None


@dataclass(frozen=True)
class Activity:
    """The activity of a container since its start.

    Attributes:
        cpu_s: processor time of all its processes, in seconds, including those that have ended.
        ports: TCP ports that it listens on, on all interfaces or the pod's own.
        inner_ports: TCP ports that it listens on at a loopback interface only.
        compilers_s: processor time of each thread that compiles code just in time, by its process and its own number.
    """

    cpu_s: float
    ports: frozenset[int] = frozenset()
    inner_ports: frozenset[int] = frozenset()
    compilers_s: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def compiled_since(self, before: Activity) -> float:
        """Return the seconds that compilers have used since `before`, without those of threads that have ended."""
        return sum(seconds - before.compilers_s.get(key, 0.0) for key, seconds in self.compilers_s.items())


class Target(Protocol):
    """A started container for probes and warm-up steps; thread-safe."""

    @property
    def address(self) -> str:
        """The pod's IP address, v4 or v6."""
        ...

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """Open a TCP connection, which the caller closes.

        All connections go through this method, because the pod may be in another network namespace.

        Args:
            port: TCP port.
            host: name or address to connect to; the pod's own address if None.
            timeout_s: limit for the connection attempt.

        Raises:
            TimeoutError: no answer in time.
            OSError: the connection was refused or failed.
        """
        ...

    def from_inside(self) -> Target:
        """Return the container as programs in its pod reach it: at `localhost`, on the pod's own network."""
        ...

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command in the container, without standard input, and wait for it.

        Raises:
            TimeoutError: it did not end in time.
            EngineError: the runtime could not run it.
        """
        ...

    def state(self) -> State:
        """Return the container's state; cheap enough for several calls a second."""
        ...

    def activity(self) -> Activity:
        """Return the container's activity; cheap enough for several calls a second.

        Raises:
            EngineError: it cannot be read; also if the container has ended.
        """
        ...

    def interrupt(self, pause_s: float = 0.0) -> None:
        """Interrupt the waits of all threads, as a checkpoint does; without effect if the engine cannot.

        Args:
            pause_s: seconds for which nothing runs; waits that would end meanwhile have ended then.

        Raises:
            EngineError: the container has ended.
        """
        ...

    def close_connections(self) -> int:
        """Close its TCP connections, as a restore does, and return their number; 0 if the engine cannot.

        Raises:
            EngineError: the container has ended.
        """
        ...

    def move_host(self, old: str, new: str) -> None:
        """Let it find a host at another address by its name; without effect if the engine cannot.

        Args:
            old: the host's address in /etc/hosts.
            new: its new address there.
        """
        ...

    def log_tail(self, lines: int) -> list[str]:
        """Return the container's last lines of output, oldest first, without line ends."""
        ...
