"""Unpack archives that the tests created themselves."""

from __future__ import annotations

import tarfile
from pathlib import Path


def extract(tar: tarfile.TarFile, directory: Path, *, trusted: bool = False) -> None:
    """Unpack with the filter "data", or without a filter if trusted."""
    # Debian 12 has Python 3.11.2. tarfile has filters since 3.11.4.
    if hasattr(tarfile, "data_filter"):
        tar.extractall(directory, filter="fully_trusted" if trusted else "data")
    else:
        tar.extractall(directory)
