"""Read a file that the user names, or standard input; find files in a directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import LARGEST_BYTES

STDIN = Path("-")
#: Names of files with objects of Kubernetes end so.
MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
#: The `apiVersion` of a recipe begins so.
RECIPE_API = "warmstart/"


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
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error


def list_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a directory that end so, by name; the path alone if it is no directory.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if not path.is_dir():
            return [path]
        return sorted(file for file in path.iterdir() if file.suffix in suffixes and file.is_file())
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error


def is_recipe(value: Any) -> bool:
    """Tell whether the value of a document is a recipe, perhaps a wrong one."""
    return isinstance(value, dict) and str(value.get("apiVersion", "")).startswith(RECIPE_API)


def _cannot_read(path: Path, error: OSError | ValueError) -> InputError:
    # ValueError: a NUL in the path
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"cannot read {str(path)!r}: {reason}")
