"""Read the file of a key."""

from __future__ import annotations

from pathlib import Path

from warmstart.core.errors import InputError

_LIMIT_BYTES = 1 << 16


def read_key_file(path: Path, label: str = "") -> bytes:
    """Return the content of a file with a key or a certificate.

    Args:
        path: the file.
        label: how an error begins; by default, with the path.

    Raises:
        InputError: the file cannot be read, or is too long for one.
    """
    label = label or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{label}: cannot read the key: {error.strerror}") from error
    if len(data) > _LIMIT_BYTES:
        raise InputError(f"{label}: not a key, because it is longer than {_LIMIT_BYTES} bytes")
    return data
