"""Overlay file systems, as a runtime mounts them for containers."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_overlay() -> Iterator[Path]:
    """Make a directory where `lower` is to be filled, and then `mount_overlay` makes `merged`."""
    # Not pytest's: the upper directory of an overlay may not be on one.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        for each in ("lower", "upper", "work", "merged"):
            (place / each).mkdir()
        yield place
        subprocess.run(["umount", place / "merged"], check=False, capture_output=True)


def mount_overlay(place: Path) -> Path:
    """Mount the overlay, and return where."""
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, place / "merged"], check=True)
    return place / "merged"
