"""Extract the manifest and the dump of an image that restores itself from its layer, without the memory.

The layer is untrusted: only files of known names are written, as plain files of our own, up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from warmstart.dump.archive.outline import LIMIT_BYTES, MEMORY_END_BYTES
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, walk_layer
from warmstart.image.layout import Readable
from warmstart.image.selfrestore.pack import DIRECTORY

#: A dump has about ten files for each process.
_MAX_FILES = 100_000


def unpack_launched(layer: Readable, into: Path, label: str) -> bool:
    """Unpack the manifest and CRIU's images from the tar of a layer. Only the end of memory is written.

    Args:
        layer: the tar.
        into: an existing directory; it gets `manifest` and `checkpoint`.
        label: name of the layer in errors.

    Returns:
        Whether the layer holds a checkpoint.

    Raises:
        ArchiveError: it is not a tar, or its files are larger than LIMIT_BYTES.
    """
    (into / "checkpoint").mkdir()
    left_bytes, left_files = LIMIT_BYTES, _MAX_FILES
    tar = StreamedTar(layer, label)
    for member in walk_layer(tar):
        target = _find_target(member, into)
        if target is None:
            continue
        skipped = max(0, member.size_bytes - MEMORY_END_BYTES) if fnmatch(target.name, "pages-*.img") else 0
        left_bytes -= member.size_bytes - skipped
        left_files -= 1
        if left_bytes < 0 or left_files < 0:
            tar.refuse(f"checkpoint metadata exceeds {LIMIT_BYTES >> 20} MiB or {_MAX_FILES} files")
        _write(tar.read_content(member, skip_bytes=skipped), target, skipped)
    return (into / "manifest").exists() and (into / "checkpoint/inventory.img").exists()


def _find_target(member: Member, into: Path) -> Path | None:
    path = PurePosixPath(member.name)
    if member.kind is not Kind.FILE:
        return None
    if path == PurePosixPath(DIRECTORY) / "manifest":
        return into / "manifest"
    if path.parent == PurePosixPath(DIRECTORY) / "checkpoint" and path.suffix == ".img":
        return into / "checkpoint" / path.name
    return None


def _write(content: Iterable[bytes], target: Path, skipped: int) -> None:
    with target.open("wb") as file:
        file.truncate(skipped)
        file.seek(skipped)
        file.writelines(content)
