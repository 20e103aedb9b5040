"""The parts of Kubernetes as programs that run in a session, and waiting for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.process import Running
from warmstart.node.session import PATH, Session

START_S = 120.0
LOG_LINES = 15


@dataclass(frozen=True)
class Part:
    """A program that runs, and what it writes to."""

    name: str
    running: Running
    log_file: Path

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for it to be ready.

        Raises:
            HostError: it ended, or takes too long; details are the end of its log.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            if self.running.poll() is not None:
                raise HostError(f"{self.name} ended with status {self.running.returncode}", details=self.read_log())
            if time.monotonic() > deadline:
                raise HostError(f"{self.name} was not ready in time", details=self.read_log())
            time.sleep(0.1)

    def read_log(self) -> list[str]:
        """The end of its log."""
        return self.log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]


@contextlib.contextmanager
def run_part(
    session: Session, name: str, command: list[str], directory: Path, *, host_network: bool = False
) -> Iterator[Part]:
    """Run a program for the length of a `with` block; its log goes to `directory`.

    Its environment is nearly empty: the proxy that there may be is for registries on the internet.
    """
    log_file = directory / f"{name}.log"
    words = ["env", "-i", f"PATH={PATH}", "HOME=/root", *command]
    with session.background(words, log_file=log_file, host_network=host_network) as running:
        yield Part(name, running, log_file)
