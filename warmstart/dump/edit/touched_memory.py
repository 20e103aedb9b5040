"""Map the parts of the memory file that a restore touches from a second file, which has them alone.

A snapshotter that pulls lazily fetches small files before it starts a container, and pieces of large ones when they are
read. So the touched parts of a large memory are to be a file: see `warmstart.image.lazy_layer`. The memory file
stays as it is, so that other dumps can map it.

As in `warmstart.dump.edit.memory`, a mapping of a child must not have the addresses and the file of one of its parent's
if their content differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.dump.criu import contents, protos
from warmstart.dump.criu.contents import PAGE_SIZE, VmaStatus
from warmstart.dump.criu.entries import Entry, read_image, write_image
from warmstart.dump.edit.extents import Extent, find_overlapping
from warmstart.dump.edit.memory import MAX_MAPPINGS

# Each part is a mapping more, or two. A gap of this size is fetched in 0.1 ms.
MAX_GAP_BYTES = 64 << 10


@dataclass(frozen=True)
class TouchedMemory:
    """The second file.

    Attributes:
        parts: its parts. Their addresses are those in the memory file, and their offsets those in the second file.
        size_bytes: its size.
    """

    parts: tuple[Extent, ...]
    size_bytes: int


def choose_touched(ranges: Iterable[tuple[int, int]], size_bytes: int) -> TouchedMemory:
    """Join ranges of the memory file that are near each other, and give each a place in the second file.

    Args:
        ranges: starts and ends in bytes.
        size_bytes: size of the memory file.
    """
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        start, end = start // PAGE_SIZE * PAGE_SIZE, min(-(-end // PAGE_SIZE) * PAGE_SIZE, size_bytes)
        if joined and start - joined[-1][1] <= MAX_GAP_BYTES:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif start < end:
            joined.append((start, end))
    parts: list[Extent] = []
    at = 0
    for start, end in joined:
        parts.append(Extent(start, end, at))
        # The kernel would merge mappings of neighbours.
        at += end - start + PAGE_SIZE
    return TouchedMemory(tuple(parts), parts[-1].offset + parts[-1].size if parts else 0)


def map_touched(directory: Path, path: str, touched: TouchedMemory, path_of_touched: str) -> bool:
    """Let a dump map the second file where it maps these parts of the memory file.

    Args:
        directory: the dump, edited in place.
        path: path of the memory file in the container.
        touched: the second file.
        path_of_touched: its path in the container.

    Returns:
        Whether the dump was edited. If two related processes would have different content at the same addresses of
        the file, or one had too many mappings, it is left as it is.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    files_path = directory / "files.img"
    files = contents.read_files(directory)
    memory = next((file for file in files.values() if os.fsdecode(file.reg.name) == path), None)
    if memory is None or not touched.parts:
        return False
    added = protos.File()
    added.CopyFrom(memory)
    added.id = added.reg.id = max(files) + 1
    added.reg.name, added.reg.size = os.fsencode(path_of_touched), touched.size_bytes
    processes = [one for one in contents.read_processes(directory) if contents.has_memory(directory, one.pid)]
    edited = {one.pid: _read_divided(directory, one.pid, memory.id, added.id, touched.parts) for one in processes}
    parents = {one.pid: one.ppid for one in processes}
    spaces = {pid: mm for pid, (_, _, mm) in edited.items()}
    if any(len(mm.vmas) > MAX_MAPPINGS for mm in spaces.values()) or _has_conflict(spaces, parents):
        return False
    write_image(files_path, [*read_image(files_path), Entry(added.SerializeToString())])
    for image, entry, mm in edited.values():
        write_image(image, [entry.replaced_by(mm)])
    return True


def _read_divided(
    directory: Path, pid: int, memory: int, added: int, parts: Sequence[Extent]
) -> tuple[Path, Entry, Any]:
    """Read the address space of a process, and divide its mappings of the memory file."""
    path, entry, mm = contents.read_mm(directory, pid)
    vmas = [part for vma in mm.vmas for part in _divide(vma, memory, added, parts)]
    del mm.vmas[:]
    mm.vmas.extend(vmas)
    return path, entry, mm


def _divide(vma: Any, memory: int, added: int, parts: Sequence[Extent]) -> Iterator[Any]:
    if not vma.status & VmaStatus.FILE_PRIVATE or vma.shmid != memory:
        yield vma
        return

    def piece(start: int, end: int, file: int, offset: int) -> Any:
        copy = protos.Vma()
        copy.CopyFrom(vma)
        copy.start, copy.end = vma.start + start - first, vma.start + end - first
        copy.shmid, copy.pgoff = file, offset
        return copy

    first, last = vma.pgoff, vma.pgoff + vma.end - vma.start
    at = first
    for part in find_overlapping(parts, first, last):
        moved = part.clip(at, last)
        if at < moved.start:
            yield piece(at, moved.start, memory, at)
        yield piece(moved.start, moved.end, added, moved.offset)
        at = moved.end
    if at < last:
        yield piece(at, last, memory, at)


def _has_conflict(spaces: dict[int, Any], parents: dict[int, int]) -> bool:
    places = {
        pid: {(vma.start, vma.end, vma.shmid): vma.pgoff for vma in mm.vmas if vma.status & VmaStatus.FILE_PRIVATE}
        for pid, mm in spaces.items()
    }
    return any(
        places[parents[pid]].get(place, offset) != offset
        for pid, own in places.items()
        if parents[pid] in places
        for place, offset in own.items()
    )
