"""Remove directory trees of any depth."""

from __future__ import annotations

from pathlib import Path

from warmstart.core import process

REMOVE_S = 600.0


def remove_directory(directory: Path) -> bool:
    """Remove a directory as far as possible, and tell whether nothing is left of it.

    rm(1) does it: `shutil.rmtree` recurses, and a container can nest directories deeper than Python's limit.
    """
    process.run(["rm", "-rf", "--", str(directory)], timeout_s=REMOVE_S, check=False)
    return not directory.exists()
