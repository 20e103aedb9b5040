"""Make costly inputs of tests once for all test processes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MakeOnce:
    """A directory of things that the test processes of one run share.

    Nobody may change a thing that was made: other processes use it.
    """

    directory: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the path of the thing, and make it if no other process has done so.

        Args:
            name: name of the thing, unique in the run.
            make: function that makes a file or directory at the path it is given.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path, done = self.directory / name, self.directory / f"{name}.done"
        with (self.directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                _remove(path)  # of an attempt that failed
                make(path)
                done.touch()
        return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
