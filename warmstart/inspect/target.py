"""The one rule that tells recipes, checkpoint archives and images apart on the command line."""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from warmstart.core.errors import InputError
from warmstart.core.reference import Source, Transport, parse_source
from warmstart.dump.archive.archive import is_tar
from warmstart.image.open import is_oci_archive
from warmstart.recipe.load import STDIN

_TEXT_ENDINGS = (".yaml", ".yml", ".json")
_FILE_ENDINGS = (*_TEXT_ENDINGS, ".tar")
_PATH_STARTS = ("/", "./", "../")


class Kind(StrEnum):
    """The kinds of a target; the values are for messages."""

    RECIPE = "a recipe file"
    STDIN = "standard input"
    CHECKPOINT = "a checkpoint archive"
    IMAGE = "an image"


@dataclass(frozen=True)
class Target:
    """An argument RECIPE, IMAGE or ARCHIVE of a command.

    Attributes:
        text: the argument.
        kind: the kind of what it names.
        path: the recipe (`-` for standard input) or the checkpoint archive; None for an image.
        source: the location of an image, which may be a layout or an oci-archive; None for the others.
    """

    text: str
    kind: Kind
    path: Path | None = None
    source: Source | None = None

    @property
    def recipe(self) -> Path | None:
        """The recipe's file, or `-`; None for the other kinds."""
        return self.path if self.kind in (Kind.RECIPE, Kind.STDIN) else None

    def mismatch(self, expected: str) -> InputError:
        """Return the error for a target of a kind that the command does not take."""
        found: str = self.kind
        if self.kind is Kind.RECIPE and not self.text.endswith(_TEXT_ENDINGS):
            found = "a file that is not a tar"
        return InputError(f"{self.text}: expected {expected}, found {found}")


def read_target(text: str) -> Target:
    """Tell what an argument names.

    `-` is standard input. A name that starts or ends as a path does must exist. A tar is an oci-archive or a checkpoint
    archive, and any other file is a recipe. A directory is a layout if it has the file `oci-layout`, or if the name
    starts as a path does. Anything else is an image as `parse_source` reads it.

    Raises:
        InputError: there is no such file.
        ImageReferenceError: it is neither a path nor the name of an image.
        ArchiveError: the file is named `.tar`, and is broken or no tar.
    """
    if text == str(STDIN):
        return Target(text, Kind.STDIN, STDIN)
    path, mode = Path(text), 0
    # The name of an image may be longer than that of a file.
    with contextlib.suppress(OSError, ValueError):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        if text.startswith(_PATH_STARTS) or (path / "oci-layout").exists():
            return Target(text, Kind.IMAGE, source=Source(Transport.OCI, path=path))
    elif mode:
        return _read_file(text, path)
    # A colon separates a transport from its path, or a name from its tag: `oci-archive:app.tar` is an image.
    if text.startswith(_PATH_STARTS) or (":" not in text and text.endswith(_FILE_ENDINGS)):
        raise InputError(f"{text}: no such file")
    return Target(text, Kind.IMAGE, source=parse_source(text))


def read_image_target(text: str) -> Source:
    """Return the location of an image, for a command that takes nothing else.

    Raises:
        InputError: there is no such file, or it is a recipe or a checkpoint archive.
        ImageReferenceError: it is neither a path nor the name of an image.
        ArchiveError: as for `read_target`.
    """
    target = read_target(text)
    if target.source is None:
        raise target.mismatch("an image")
    return target.source


def _read_file(text: str, path: Path) -> Target:
    # A pipe, such as that of `<(...)` in a shell, cannot be searched as an archive is.
    if not text.endswith(".tar") and not (path.is_file() and is_tar(path)):
        return Target(text, Kind.RECIPE, path)
    if is_oci_archive(path):
        return Target(text, Kind.IMAGE, source=Source(Transport.OCI_ARCHIVE, path=path))
    return Target(text, Kind.CHECKPOINT, path)
