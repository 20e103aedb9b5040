"""Refuse a target that names a missing file, before a registry is asked for it."""

from __future__ import annotations

from pathlib import Path

from warmstart.core.errors import InputError

_FILE_ENDINGS = (".yaml", ".yml", ".json", ".tar")
_PATH_STARTS = ("/", "./", "../")


def require_present(target: str) -> str:
    """Return a target RECIPE|IMAGE|ARCHIVE as it is, unless it names a file that does not exist.

    Raises:
        InputError: it ends or starts as a path does, and there is no such file.
    """
    # A colon separates a transport from its path, or a name from its tag: `oci-archive:app.tar` is an image.
    is_path = target.startswith(_PATH_STARTS) or (":" not in target and target.endswith(_FILE_ENDINGS))
    if is_path and not Path(target).exists():
        raise InputError(f"{target}: no such file")
    return target
