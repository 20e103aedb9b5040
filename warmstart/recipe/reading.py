"""Read a file that the user names, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import LARGEST_BYTES

STDIN = Path("-")


def read_input(path: Path) -> bytes:
    """The content of a file, or of standard input when the path is `-`: at most a byte more than is allowed.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(LARGEST_BYTES + 1)
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory", hint="Name a file.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {str(path)!r}: {reason}") from error
