"""Takes from the layer of an image that restores itself what says what is in its checkpoint, but not its memory.

The layer is somebody else's: of it, only files of known names are written, as plain files of our own, and not more than
a limit.
"""

from __future__ import annotations

import os
import tarfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from warmstart.core.errors import ArchiveError
from warmstart.dump.outline import LIMIT_BYTES, MEMORY_END_BYTES
from warmstart.image.layout import Readable
from warmstart.image.selfrestore import DIRECTORY

_CHUNK_BYTES = 1 << 20


def unpack_launched(layer: Readable, into: Path, label: str) -> bool:
    """Unpack the manifest and CRIU's images of the tar of a layer; of memory only the end, the rest are holes.

    Args:
        layer: the tar.
        into: a directory that is there; it gets `manifest` and `checkpoint`.
        label: names the layer in errors.

    Returns:
        Whether there is such a checkpoint.

    Raises:
        ArchiveError: it is no tar, or its files are larger than LIMIT_BYTES.
    """
    (into / "checkpoint").mkdir()
    left_bytes = LIMIT_BYTES
    try:
        with tarfile.open(fileobj=cast(BinaryIO, layer), mode="r|", bufsize=_CHUNK_BYTES) as tar:
            for member in tar:
                target = _find_target(member, into)
                if target is None:
                    continue
                skipped = max(0, member.size - MEMORY_END_BYTES) if fnmatch(target.name, "pages-*.img") else 0
                left_bytes -= member.size - skipped
                if left_bytes < 0:
                    raise ArchiveError(f"{label}: what is in the checkpoint is larger than {LIMIT_BYTES} bytes")
                content = tar.extractfile(member)
                assert content is not None
                _write(content, target, skipped)
    except tarfile.TarError as error:
        raise ArchiveError(f"{label}: is no tar: {error}") from error
    return (into / "manifest").exists() and (into / "checkpoint/inventory.img").exists()


def _find_target(member: tarfile.TarInfo, into: Path) -> Path | None:
    path = PurePosixPath(member.name)
    if member.isreg() and path == PurePosixPath(DIRECTORY) / "manifest":
        return into / "manifest"
    if member.isreg() and path.parent == PurePosixPath(DIRECTORY) / "checkpoint" and path.suffix == ".img":
        return into / "checkpoint" / path.name
    return None


def _write(content: IO[bytes], target: Path, skipped: int) -> None:
    with target.open("wb") as file:
        while left := min(skipped - file.tell(), _CHUNK_BYTES):  # a stream does not seek
            file.seek(len(content.read(left)), os.SEEK_CUR)
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)
