"""Run the components of Kubernetes in a session, and wait until they are ready."""

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
    """A running program and its log file."""

    name: str
    running: Running
    log_file: Path

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until the program is ready.

        Raises:
            HostError: it ended, or it was not ready in time. The details are the end of its log.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            if self.running.poll() is not None:
                raise HostError(f"{self.name} ended with status {self.running.returncode}", details=self.read_log())
            if time.monotonic() > deadline:
                raise HostError(f"{self.name} was not ready in time", details=self.read_log())
            time.sleep(0.1)

    def read_log(self) -> list[str]:
        """Return the last lines of the log."""
        return self.log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]


@contextlib.contextmanager
def run_part(
    session: Session, name: str, command: list[str], directory: Path, *, host_network: bool = False
) -> Iterator[Part]:
    """Run a program during the block, with its log in `directory`.

    Its environment is nearly empty: a proxy in ours is for registries on the internet only.
    """
    log_file = directory / f"{name}.log"
    words = ["env", "-i", f"PATH={PATH}", "HOME=/root", *command]
    with session.background(words, log_file=log_file, host_network=host_network) as running:
        yield Part(name, running, log_file)
