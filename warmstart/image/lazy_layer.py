"""Write layers that a snapshotter can read file by file, before all of it is there: see `chunk_format`.

Each chunk of a file is compressed by itself. The table of contents has its offset, and an annotation of the layer the
digest of the table. Files that are needed at once come first, and `.prefetch.landmark` follows them: a snapshotter
fetches everything before it when it mounts the layer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.dump.archive.tarball import Kind, Member, Span, quoted, walk_layer
from warmstart.image.chunk_format import TOC, ChunkFormat
from warmstart.image.layer_parts import divide_members, find_link_target
from warmstart.image.manifest import Descriptor

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
#: Stargz Store, the additional layer store of CRI-O and Podman, reports this size to them.
UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
LANDMARK = ".prefetch.landmark"
NO_LANDMARK = ".no.prefetch.landmark"
# If a chunk is missing, the stargz snapshotter fetches 2 MiB of the blob, from the chunk on (`fileReader.ReadAt` of its
# estargz module). It caches each chunk in a file of its own.
CHUNK_BYTES = 1 << 20
# Of files that are fetched whole, it looks up those 2 MiB anew for each chunk.
FIRST_CHUNK_BYTES = 4 << 20
# A restored JVM touches most 2 MiB of its libraries (24 MiB), and a tenth of its classes (128 MiB).
MAPPED_LIMIT_BYTES = 32 << 20
# A container starts only when what comes first has been fetched, and no restore reads all of a large memory.
FIRST_LIMIT_BYTES = 256 << 20
NOT_DIVIDED = sys.maxsize
_OURS = {TOC, LANDMARK, NO_LANDMARK}
_LANDMARK_CONTENT = b"\x0f"
_XATTR = "SCHILY.xattr."
_TYPES = {
    Kind.FILE: "reg",
    Kind.DIRECTORY: "dir",
    Kind.SYMLINK: "symlink",
    Kind.HARDLINK: "hardlink",
    Kind.FIFO: "fifo",
    Kind.CHARACTER_DEVICE: "char",
    Kind.BLOCK_DEVICE: "block",
}


@dataclass(frozen=True)
class LazyLayer:
    """A layer: its blob, which has the annotations that snapshotters need, and the digest of its tar."""

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True)
class Entry:
    """A member of a layer: how it is read, how its header is read, the bytes of its headers, and the tar it is in."""

    member: Member
    info: tarfile.TarInfo
    header: bytes
    tar: BinaryIO | None


def write_lazy_layers(
    entries: Mapping[str, Entry],
    layout: Path,
    first: Sequence[str],
    mapped: Sequence[str],
    chunk_format: ChunkFormat,
    part_bytes: int = NOT_DIVIDED,
) -> list[LazyLayer]:
    """Write the members of a layer anew, in chunks; as several layers, lowest first, if there is much content.

    Args:
        entries: the members, by name.
        layout: where the blobs go.
        first: paths of files to fetch at once, in this order; a directory stands for everything in it. Those that the
            layer does not have, or that have more than FIRST_LIMIT_BYTES, are ignored.
        mapped: paths of files to fetch at once after them, if they have at most MAPPED_LIMIT_BYTES.
        chunk_format: format of the layers.
        part_bytes: see `divide_members`.

    Raises:
        ImageError: a file ends too early.
    """
    parts = divide_members({name: entry.member for name, entry in entries.items()}, part_bytes)
    divided = ({name: entries[name] for name in part} for part in parts)
    return [_write_layer(part, layout, first, mapped, chunk_format) for part in divided]


def _write_layer(
    entries: Mapping[str, Entry],
    layout: Path,
    first: Sequence[str],
    mapped: Sequence[str],
    chunk_format: ChunkFormat,
) -> LazyLayer:
    needed = _find_small(entries, _find_below(entries, first), FIRST_LIMIT_BYTES)
    order = _sort(entries, [*needed, *_find_small(entries, mapped, MAPPED_LIMIT_BYTES)])
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    partial = blobs / f".layer-{os.urandom(4).hex()}"
    try:
        with partial.open("xb") as out, _Writer(out, chunk_format) as writer:
            chunk_bytes = FIRST_CHUNK_BYTES
            for entry in order:
                if entry.member.name in (LANDMARK, NO_LANDMARK):
                    chunk_bytes = CHUNK_BYTES
                writer.add(entry, chunk_bytes)
            layer = writer.finish()
        partial.rename(blobs / layer.blob.digest.partition(":")[2])
    finally:
        partial.unlink(missing_ok=True)
    return layer


def read_entries(tar: BinaryIO) -> dict[str, Entry]:
    """Read all headers, and check that two readers agree about them; of several members of a name, the last counts.

    Args:
        tar: the uncompressed layer, a file on the disk that stays open.

    Raises:
        ImageError: the layer has a member that the formats cannot express, or is not a tar.
    """
    size_bytes = tar.seek(0, os.SEEK_END)
    tar.seek(0)
    entries: dict[str, Entry] = {}
    try:
        members = walk_layer(Span(tar.fileno(), 0, size_bytes, "the layer"))
        with tarfile.open(fileobj=tar, mode="r:", errors="surrogateescape") as opened:
            for info, member in zip(opened, members, strict=True):
                _check(info, member)
                header = os.pread(tar.fileno(), info.offset_data - info.offset, info.offset)
                entries.pop(member.name, None)
                entries[member.name] = Entry(member, info, header, tar)
    except (ArchiveError, tarfile.TarError, ValueError) as error:
        raise ImageError(f"cannot convert a layer: {error}") from error
    return {name: entry for name, entry in entries.items() if name not in _OURS}


def _check(info: tarfile.TarInfo, member: Member) -> None:
    if member.kind not in _TYPES:
        raise ImageError(f"cannot convert a layer: {quoted(member.name)} is {member.kind.value}")
    name = str(PurePosixPath("/", info.name)).strip("/")
    size_bytes = info.size if info.isreg() else 0
    if (name, size_bytes) != (member.name, member.size_bytes) or (size_bytes and info.offset_data != member.offset):
        raise ImageError(f"cannot convert a layer: {quoted(member.name)} has an ambiguous header")
    try:
        (info.name + info.linkname).encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"cannot convert a layer: the name {quoted(member.name)} is not UTF-8") from error


def _find_below(entries: Mapping[str, Entry], paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        name = path.strip("/")
        yield from (other for other in entries if other == name or other.startswith(f"{name}/"))


def _find_small(entries: Mapping[str, Entry], paths: Iterable[str], limit_bytes: int) -> Iterator[str]:
    for path in paths:
        name = path.strip("/")
        if name in entries and entries[name].member.size_bytes <= limit_bytes:
            yield name


def _sort(entries: Mapping[str, Entry], first: Sequence[str]) -> list[Entry]:
    """Put `first`, with what it needs, before the landmark, and all others behind it."""
    chosen: dict[str, Entry] = {}
    for name in first:
        _choose(name, entries, chosen)
    landmark = _make_file(LANDMARK if chosen else NO_LANDMARK, _LANDMARK_CONTENT)
    return [*chosen.values(), landmark, *(entry for name, entry in entries.items() if name not in chosen)]


def _choose(path: str, entries: Mapping[str, Entry], chosen: dict[str, Entry]) -> None:
    """Choose an entry after its directories and, for a hard link, its target."""
    for parent in reversed(PurePosixPath(path).parents):
        name = "" if str(parent) == "." else str(parent)
        if name in entries:
            chosen.setdefault(name, entries[name])
    entry = entries[path]
    target = find_link_target(entry.member)
    if entry.member.kind is Kind.HARDLINK and target in entries and target not in chosen and target != path:
        _choose(target, entries, chosen)
    chosen.setdefault(path, entry)


def _make_file(name: str, content: bytes) -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    return Entry(Member(name, Kind.FILE, len(content), -1), info, info.tobuf(), None)


class _Writer:
    """Writes the chunks of a blob in order; they are compressed by several threads."""

    def __init__(self, out: BinaryIO, chunk_format: ChunkFormat) -> None:
        self._out, self._format = out, chunk_format
        self._blob, self._tar = hashlib.sha256(), hashlib.sha256()
        self._size_bytes = self._tar_bytes = 0
        self._toc: list[dict[str, Any]] = []
        # Headers and padding that are not packed yet.
        self._between = bytearray()
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)
        self._queue: deque[tuple[Future[bytes], dict[str, Any] | None]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, entry: Entry, chunk_bytes: int) -> None:
        """Add a member of the tar, its content in chunks of at most this size."""
        described = _describe(entry)
        self._toc.append(described)
        self._add_between(entry.header)
        whole = hashlib.sha256()
        for place, chunk in _read_chunks(entry, chunk_bytes):
            whole.update(chunk)
            found: dict[str, Any] = described if not place else {"name": entry.info.name, "type": "chunk"}
            if place:
                self._toc.append(found)
                found["chunkOffset"] = place
            if place + len(chunk) < entry.member.size_bytes:
                found["chunkSize"] = len(chunk)
            found["chunkDigest"] = f"sha256:{hashlib.sha256(chunk).hexdigest()}"
            self._flush()
            self._count(chunk)
            self._queue_part(chunk, found)
        if entry.member.kind is Kind.FILE:
            described["digest"] = f"sha256:{whole.hexdigest()}"
        self._add_between(bytes(-entry.member.size_bytes % tarfile.BLOCKSIZE))

    def finish(self) -> LazyLayer:
        """Write the table of contents and the footer, and return the layer."""
        self._flush()
        self._drain(0)
        toc = json.dumps({"version": 1, "entries": self._toc}, separators=(",", ":")).encode()
        end = self._format.make_end(toc, self._size_bytes)
        self._count(end.tar)
        self._write(end.blob)
        annotations = {
            TOC_DIGEST: f"sha256:{hashlib.sha256(toc).hexdigest()}",
            UNCOMPRESSED_SIZE: str(self._tar_bytes),
        }
        digest = f"sha256:{self._blob.hexdigest()}"
        blob = Descriptor(self._format.media_type, digest, self._size_bytes, annotations)
        return LazyLayer(blob, f"sha256:{self._tar.hexdigest()}")

    def _add_between(self, data: bytes) -> None:
        self._between += data
        self._count(data)

    def _count(self, data: bytes) -> None:
        self._tar.update(data)
        self._tar_bytes += len(data)

    def _flush(self) -> None:
        if self._between:
            self._queue_part(bytes(self._between), None)
            self._between.clear()

    def _queue_part(self, data: bytes, entry: dict[str, Any] | None) -> None:
        self._queue.append((self._pool.submit(self._format.pack, data), entry))
        self._drain(8 * self._workers)

    def _drain(self, left: int) -> None:
        """Write parts until only `left` are waiting."""
        while len(self._queue) > left:
            packed, entry = self._queue.popleft()
            if entry is not None and self._size_bytes:
                entry["offset"] = self._size_bytes
            self._write(packed.result())

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._blob.update(data)
        self._size_bytes += len(data)


def _read_chunks(entry: Entry, chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks of a file, each with its place in the file."""
    member, tar = entry.member, entry.tar
    if tar is None:
        yield 0, _LANDMARK_CONTENT
        return
    for place in range(0, member.size_bytes, chunk_bytes):
        size_bytes = min(chunk_bytes, member.size_bytes - place)
        chunk = os.pread(tar.fileno(), size_bytes, member.offset + place)
        if len(chunk) < size_bytes:
            raise ImageError(f"cannot convert a layer: {quoted(member.name)} ends too early")
        yield place, chunk


def _describe(entry: Entry) -> dict[str, Any]:
    """Return the entry of the table of contents, without the chunks."""
    info, kind = entry.info, entry.member.kind
    xattrs = {
        key.removeprefix(_XATTR): b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for key, value in info.pax_headers.items()
        if key.startswith(_XATTR)
    }
    optional = {
        "size": entry.member.size_bytes,
        "modtime": f"{datetime.fromtimestamp(int(info.mtime), UTC):%Y-%m-%dT%H:%M:%SZ}" if int(info.mtime) else "",
        "linkName": info.linkname if kind in (Kind.SYMLINK, Kind.HARDLINK) else "",
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "userName": info.uname,
        "groupName": info.gname,
        "devMajor": info.devmajor if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0,
        "devMinor": info.devminor if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0,
        "xattrs": xattrs,
    }
    return {"name": info.name, "type": _TYPES[kind], **{name: value for name, value in optional.items() if value}}
