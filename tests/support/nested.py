"""Directories below each other, too deep for a path and for Python's recursion."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DEEP = sys.getrecursionlimit() + 1000


def nest(top: Path, levels: int = DEEP) -> None:
    """Make directories below each other, each with another directory and a file beside it."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        for name in ("a", "b"):
            os.mkdir(name, dir_fd=descriptor)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        below = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
