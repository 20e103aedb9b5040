"""A Python program that runs until it has been looked at."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def running_python(*words: str) -> Iterator[int]:
    """Run Python with these words until the end of the block, and yield its pid when it has printed `ready`."""
    command = [sys.executable, "-S", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()
