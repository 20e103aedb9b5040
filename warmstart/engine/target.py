"""What warmstart needs of a running container, whichever engine runs it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ExecResult:
    """A command that has ended in the container: its exit code and what it wrote, as text."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class State:
    """Where a container is in its life.

    Attributes:
        exit_code: None until it has ended.
        reason: the runtime's word for an end, such as `Completed`, `Error` or `OOMKilled`.
    """

    exit_code: int | None = None
    reason: str = ""

    @property
    def exited(self) -> bool:
        """Whether the container has ended."""
        return self.exit_code is not None


class Target(Protocol):
    """A started container, as probes and warm-up steps reach it; any thread may call it."""

    @property
    def address(self) -> str:
        """The pod's IP address, v4 or v6."""
        ...

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """Open a TCP connection, which the caller closes.

        The pod may live in a network namespace that this process is not in, so every connection is made here.

        Args:
            port: the TCP port.
            host: a name or an address to connect to instead of the pod's own address.
            timeout_s: how long to wait for the connection.

        Raises:
            TimeoutError: there was no answer in time.
            OSError: the connection was refused, or could not be made.
        """
        ...

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """Run a command in the container to its end, with nothing on its standard input.

        Raises:
            TimeoutError: it had not ended in time.
            EngineError: the runtime could not run it.
        """
        ...

    def state(self) -> State:
        """Ask the runtime for the container's state; cheap enough to be asked several times a second."""
        ...

    def log_tail(self, lines: int) -> list[str]:
        """The last `lines` lines that the container wrote, oldest first, without line ends."""
        ...
