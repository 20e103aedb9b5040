"""Move resident memory out of a dump into one file of the image that the restored processes map.

CRIU reads the pages of a dump into fresh anonymous memory, so restore time grows with the heap, and every replica has
its own copy. Here, runs of resident pages of private mappings become private mappings of a file in the image. The
kernel reads a page on first access, from a page cache shared by all replicas on the node, and copies it on write. For
a mapping that already maps a file, the dump holds only the modified pages; they are moved in the same way.

In `mm-*.img` a mapping is split at its runs, and each run becomes a mapping of a regular file. The file is opened
read-only, since overlayfs would copy the whole file up for a writable descriptor. The run is removed from
`pagemap-*.img` and `pages-*.img`, and the file is added to `files.img`. Zero pages of anonymous memory are not stored,
except for short gaps within a run: untouched anonymous memory reads as zeros anyway. See `open_filemap` in
`criu/files-reg.c` and `criu/mem.c` of https://github.com/checkpoint-restore/criu (4.2).

Mapped memory behaves differently in two ways. madvise(MADV_DONTNEED) brings back the bytes of the file, not zeros. The
policy (`Choose`) must leave alone mappings of programs that rely on zeros there. And mremap(2) lets a mapping grow into
the rest of the file and beyond its end: see `warmstart.dump.edit.malloc_blocks`.
"""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import contents, protos
from warmstart.dump.criu.contents import PAGE_SIZE, FileType, Process, VmaStatus
from warmstart.dump.criu.entries import Entry, decode, make_error, open_new, read_image, read_only_entry, write_image
from warmstart.dump.edit.extents import (
    CHUNK_BYTES,
    Extent,
    clip_all,
    cut_all,
    fill_range,
    find_data,
    find_overlapping,
    list_resident,
    read_extent,
    read_range,
    sum_sizes,
)
from warmstart.dump.edit.malloc_blocks import BlockFinder

# Shorter runs stay in the dump. A restore copies them twice, out of the image and into memory; for a few pages that
# costs as much as another mapping.
MIN_RUN_BYTES = 16 << 10
# The kernel allows a process 65530 mappings by default (vm.max_map_count); half of them are left to the process.
MAX_MAPPINGS = 32768

# Readable only by the application's user: the file holds all the application's data.
_FILE_MODE = stat.S_IFREG | 0o400
# Zeros of this length between two runs become part of the file: they cost less than another mapping.
_MAX_GAP_BYTES = 16 << 10
# Unit of comparison between parent and child: comparing single pages would create a mapping for every scattered match.
_COMPARED_BYTES = 64 << 10

# From <asm-generic/mman.h> and <asm-generic/mman-common.h>.
_MAP_LOCKED = 0x2000
_MAP_HUGETLB = 0x40000
_MADV_WIPEONFORK = 18

_LARGEST_ID = (1 << 32) - 1
_LARGEST_OFFSET = (1 << 63) - 1

Choose = Callable[[Process, contents.Mapping, Sequence[contents.Mapping]], str]
"""A policy. Takes a process, one of its mappings, and all its mappings. Returns a short reason to leave the mapping
alone, or "" if it may be mapped from the file."""


def choose_all(process: Process, mapping: contents.Mapping, layout: Sequence[contents.Mapping]) -> str:
    """Allow every mapping to be moved."""
    del process, mapping, layout
    return ""


@dataclass(frozen=True)
class MappedProcess:
    """Result for the memory of one process. Every page that the dump held for it is counted once.

    Attributes:
        pid: PID in the dump.
        comm: process name.
        moved_bytes: bytes moved into the file.
        shared_bytes: bytes shared with the parent's part of the file.
        zero_bytes: zero pages, not stored.
        left_bytes: bytes still in the dump, by reason.
        pieces: number of mappings of the file.
        mappings: number of all mappings.
    """

    pid: int
    comm: str
    moved_bytes: int
    shared_bytes: int
    zero_bytes: int
    left_bytes: Mapping[str, int]
    pieces: int
    mappings: int


@dataclass(frozen=True)
class MappedMemory:
    """Result of `map_memory`.

    Attributes:
        path_in_image: path of the file for the restored processes.
        size_bytes: size of the file; 0 if nothing was moved and there is no file.
        processes: processes with memory, parents first.
    """

    path_in_image: str
    size_bytes: int
    processes: tuple[MappedProcess, ...]


@dataclass
class _Plan:
    """Planned changes to one process, made before the dump is edited. All lists are in address order.

    Attributes:
        resident: all resident pages, with offsets in the pages file.
        chosen: mappings that may be moved.
        cuts: addresses that no piece may span, since realloc would enlarge it; see `BlockFinder`.
        data: resident nonzero pages of the chosen mappings, with offsets in the pages file.
        pieces: ranges to map, with offsets in the memory file.
        shared: pieces that are memory of the parent.
        stored: the other pieces.
    """

    process: Process
    mm_path: Path
    mm_entry: Entry
    mm: Any
    pages_file: Path
    resident: list[Extent]
    chosen: list[contents.Mapping] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    data: list[Extent] = field(default_factory=list)
    pieces: list[Extent] = field(default_factory=list)
    shared: list[Extent] = field(default_factory=list)
    stored: list[Extent] = field(default_factory=list)
    left_bytes: Counter[str] = field(default_factory=Counter)


class MemoryContent:
    """The content of the memory file, to be read once. It remains available while the dump is edited.

    Attributes:
        size_bytes: size of the file.
        mode: type and permissions of the file. CRIU compares them, and the size, at a restore.
    """

    def __init__(self, size_bytes: int, plans: Iterable[_Plan]) -> None:
        self.size_bytes = size_bytes
        self.mode = _FILE_MODE
        self._files = ExitStack()
        self._parts: list[tuple[BinaryIO, _Plan]] = []
        for plan in plans:
            if plan.stored:
                # Open now: the file is about to be replaced.
                self._parts.append((self._files.enter_context(plan.pages_file.open("rb")), plan))

    def close(self) -> None:
        """Close the files that it is read from."""
        self._files.close()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield it in pieces. Each is gone when the next is taken."""
        at = 0
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for pages, plan in self._parts:
            for piece in plan.stored:
                yield bytes(piece.offset - at)
                at = piece.offset + piece.size
                for part in piece.cut(CHUNK_BYTES):
                    content = buffer[: part.size]
                    fill_range(pages.fileno(), plan.data, part.start, content)
                    yield content


Store = Callable[[MemoryContent], object]
"""Takes the content of the memory file, and reads and closes it, at once or later."""


def map_memory(checkpoint_dir: Path, store: Store, *, path_in_image: str, choose: Choose = choose_all) -> MappedMemory:
    """Move resident private memory of all processes into one file, and make the dump map it.

    Stacks, kernel mappings, shared and locked memory, and short runs stay in the dump. Memory that a child still shares
    with its parent is stored once. The dump is edited only after all of it has been read and understood. Memory use
    does not depend on how much is moved.

    Args:
        checkpoint_dir: the dump, edited in place.
        store: gets the content of the file before the dump is edited; not called if nothing is moved.
        path_in_image: absolute path of the file in the container.
        choose: policy for the mappings that may be moved.

    Raises:
        ArchiveError: a file of the dump is missing or not understood, or it is an incremental dump.
    """
    contents.read_inventory(checkpoint_dir)
    files = contents.read_files(checkpoint_dir)
    processes = contents.read_processes(checkpoint_dir)
    plans: dict[int, _Plan] = {}
    size = 0
    for process in processes:
        if contents.has_memory(checkpoint_dir, process.pid):
            plan = _plan_process(checkpoint_dir, process, files, choose)
            _check_pages_file(plan, plans.values())
            size = _choose_pieces(plan, plans.get(process.ppid), size)
            plans[process.pid] = plan
    file = _describe_file(checkpoint_dir, files, processes[0].pid, path_in_image, size)
    if size:
        store(MemoryContent(size, plans.values()))
    with ExitStack() as cleanup:
        for plan in plans.values():
            cleanup.callback(_temporary_path(plan.pages_file).unlink, missing_ok=True)
            _write_pages(plan)
        _edit_dump(checkpoint_dir, plans.values(), file)
    return MappedMemory(path_in_image, size, tuple(_summarize(plan) for plan in plans.values()))


def _plan_process(directory: Path, process: Process, files: Mapping[int, Any], choose: Choose) -> _Plan:
    path, entry, mm = contents.read_mm(directory, process.pid)
    pagemap = contents.read_pagemap(directory, process.pid)
    resident = list_resident(pagemap)
    if len(resident) < len(pagemap.runs):
        raise ArchiveError(
            f"{directory}: process {process.pid} has pages in an earlier dump",
            hint="Make the checkpoint without pre-dumps.",
        )
    plan = _Plan(process, path, entry, mm, pagemap.pages_file, resident)
    layout = [contents.as_mapping(vma, files) for vma in mm.vmas]
    _check_order(path, entry, layout)
    with plan.pages_file.open("rb") as pages:
        for mapping in layout:
            runs = clip_all(resident, mapping.start, mapping.end)
            if not runs:
                continue
            reason = _find_obstacle(mapping) or choose(process, mapping, layout)
            if reason:
                plan.left_bytes[reason] += sum_sizes(runs)
            else:
                plan.chosen.append(mapping)
                finder = BlockFinder(pages.fileno(), mapping, resident)
                data = list(find_data(pages.fileno(), runs, finder.look))
                # In a file mapping, a zero page differs from the file's content and must be kept.
                data = runs if _is_file(mapping) else data
                cuts = [start + PAGE_SIZE for start in finder.starts]
                plan.data += cut_all(data, cuts)
                plan.cuts += cuts
    return plan


def _check_pages_file(plan: _Plan, others: Iterable[_Plan]) -> None:
    """Check that no other process uses the same pages file, since it is rewritten.

    Raises:
        ArchiveError: two processes use the same file.
    """
    for other in others:
        if other.pages_file == plan.pages_file:
            pids = f"{other.process.pid} and {plan.process.pid}"
            raise ArchiveError(f"{plan.pages_file}: is of both the processes {pids}")


def _check_order(path: Path, entry: Entry, layout: Iterable[contents.Mapping]) -> None:
    end = 0
    for mapping in layout:
        if not mapping.status & VmaStatus.GUARD:  # these are listed after all others
            if not end <= mapping.start < mapping.end or (mapping.start | mapping.end) % PAGE_SIZE:
                raise make_error(path, f"a mapping at {mapping.start:#x}, out of order,", entry.offset)
            if mapping.file_offset + mapping.end - mapping.start > _LARGEST_OFFSET:
                raise make_error(path, f"a mapping of a file at offset {mapping.file_offset:#x}", entry.offset)
            end = mapping.end


def _find_obstacle(mapping: contents.Mapping) -> str:
    """Return why a mapping cannot be moved under any policy; "" if it can."""
    kinds = (VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE, VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE)
    obstacles = {
        "stack": mapping.grows_down,
        "not private memory": mapping.status & ~VmaStatus.HEAP not in kinds or not mapping.flags & mmap.MAP_PRIVATE,
        "not readable": not mapping.prot & mmap.PROT_READ,
        "locked or huge pages": mapping.flags & (_MAP_LOCKED | _MAP_HUGETLB),
        # The kernel refuses this advice on a file mapping, so the restore would fail.
        "wiped on fork": mapping.advice & 1 << _MADV_WIPEONFORK,
    }
    return next((reason for reason, applies in obstacles.items() if applies), "")


def _is_file(mapping: contents.Mapping) -> bool:
    return bool(mapping.status & VmaStatus.FILE_PRIVATE)


def _choose_pieces(plan: _Plan, parent: _Plan | None, size: int) -> int:
    """Choose the addresses to map, and where their content is in the memory file: with the parent's if it is the same.

    Args:
        plan: gets the pieces.
        parent: the plan of the parent process, if it has one.
        size: size of the memory file so far.

    Returns:
        The size of the memory file with the new pieces.
    """
    barriers = [*plan.cuts, *(mapping.start for mapping in plan.chosen)]
    barriers += [vma.start for vma in plan.mm.vmas if vma.status & VmaStatus.GUARD]
    for mapping in filter(_is_file, plan.chosen):
        # The pages between the runs are not zeros and not in the dump.
        barriers += [run.start for run in find_overlapping(plan.data, mapping.start, mapping.end)]
    barriers.sort()
    # A piece in the middle of a mapping adds two mappings; with a parent, it may be split into two pieces.
    limit = max(0, MAX_MAPPINGS - len(plan.mm.vmas)) // (4 if parent else 2)
    spans = _find_spans(plan.data, barriers, limit)
    available = limit - len(spans)
    for start, end in spans:
        shared = _find_shared(plan, parent, start, end) if parent else []
        if 2 * len(shared) > available:
            shared = []
        available -= 2 * len(shared)
        plan.shared += shared
        for piece in shared:
            size = _add_pieces(plan, parent, start, piece.start, size)
            plan.pieces.append(piece)
            start = piece.end
        size = _add_pieces(plan, parent, start, end, size)
    return size


def _find_spans(data: Sequence[Extent], barriers: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Find the address ranges worth mapping, at most `limit` of them."""
    for max_gap in (_MAX_GAP_BYTES, _MAX_GAP_BYTES * 2, _MAX_GAP_BYTES * 4):
        spans = _join(data, barriers, max_gap)
        if len(spans) <= limit:
            return spans
    longest = sorted(spans, key=lambda span: span[0] - span[1])[:limit]
    return sorted(longest)


def _join(data: Iterable[Extent], barriers: Sequence[int], max_gap: int) -> list[tuple[int, int]]:
    """Join extents that are near each other, then drop short spans.

    Extents are not joined across a barrier: the start of a mapping or guard range, or a cut.
    """
    spans: list[tuple[int, int]] = []
    start = end = 0
    for extent in data:
        is_near = extent.start - end <= max_gap
        if is_near and bisect_left(barriers, end) == bisect_right(barriers, extent.start):
            end = extent.end
        else:
            spans.append((start, end))
            start, end = extent.start, extent.end
    spans.append((start, end))
    return [span for span in spans if span[1] - span[0] >= MIN_RUN_BYTES]


def _find_shared(plan: _Plan, parent: _Plan, start: int, end: int) -> list[Extent]:
    """Find ranges with the same content in the parent at the same addresses, with offsets in the memory file."""
    found: list[Extent] = []
    chunks = [chunk for piece in clip_all(parent.pieces, start, end) for chunk in piece.cut(_COMPARED_BYTES)]
    if not chunks:
        return []
    with plan.pages_file.open("rb") as own, parent.pages_file.open("rb") as others:
        for chunk in chunks:
            content = read_range(own.fileno(), plan.data, chunk.start, chunk.end)
            if content != read_range(others.fileno(), parent.data, chunk.start, chunk.end):
                continue
            last = found[-1] if found else None
            if last and last.end == chunk.start and last.offset + last.size == chunk.offset:
                found[-1] = Extent(last.start, chunk.end, last.offset)
            else:
                found.append(chunk)
    return [extent for extent in found if extent.size > _MAX_GAP_BYTES]


def _add_pieces(plan: _Plan, parent: _Plan | None, start: int, end: int, size: int) -> int:
    """Append an address range to the memory file of this size, as one piece or two; return its new size.

    CRIU considers a mapping of a child inherited from its parent if both have the same addresses and the same file,
    whatever the offset (`check_cow_vmas` in criu/mem.c), and then restores the parent's content. So a piece with
    different content must not have the same addresses as a piece of the parent. Giving the child's mapping a different
    file id would help at the next restore, but not in a dump that CRIU makes of the restored processes.
    """
    cuts = [start, end]
    inherited = find_overlapping(parent.pieces, start, end) if parent else []
    if any((piece.start, piece.end) == (start, end) for piece in inherited):
        cuts.insert(1, start + (end - start) // PAGE_SIZE // 2 * PAGE_SIZE)
        if cuts[1] == start:
            return size  # a single page; it stays in the dump
    for begin, after in pairwise(cuts):
        if begin == after:
            continue
        last = plan.pieces[-1] if plan.pieces else None
        if last and last.end == begin and last.offset + last.size == size:
            size += PAGE_SIZE  # otherwise the kernel would merge the two mappings
        piece = Extent(begin, after, size)
        plan.pieces.append(piece)
        plan.stored.append(piece)
        size += piece.size
    return size


def _keep_resident(plan: _Plan) -> Iterator[tuple[int, Extent]]:
    """Yield the extents that stay in the dump, in order, each with the index of its run."""
    for index, run in enumerate(plan.resident):
        at = run.start
        for mapping in find_overlapping(plan.chosen, run.start, run.end):
            if at < mapping.start:
                yield index, run.clip(at, mapping.start)
            for extent in clip_all(plan.data, max(at, mapping.start), min(run.end, mapping.end)):
                if not find_overlapping(plan.pieces, extent.start, extent.end):
                    yield index, extent
            at = min(run.end, mapping.end)
        if at < run.end:
            yield index, run.clip(at, run.end)


def _write_pages(plan: _Plan) -> None:
    """Write the remaining pages to a new file next to the present one."""
    with plan.pages_file.open("rb") as pages, open_new(_temporary_path(plan.pages_file)) as left:
        for _, extent in _keep_resident(plan):
            for part in extent.cut(CHUNK_BYTES):
                left.write(read_extent(pages.fileno(), part))


def _edit_dump(directory: Path, plans: Iterable[_Plan], file: Any) -> None:
    """Rewrite the dump's files to match the plans."""
    if file.reg.size:
        path = directory / "files.img"
        write_image(path, [*read_image(path), Entry(file.SerializeToString())])
    for plan in plans:
        _edit_pagemap(directory / f"pagemap-{plan.process.pid}.img", plan)
        _temporary_path(plan.pages_file).replace(plan.pages_file)
        vmas = [part for vma in plan.mm.vmas for part in _split_vma(vma, plan.pieces, file.id)]
        del plan.mm.vmas[:]
        plan.mm.vmas.extend(vmas)
        write_image(plan.mm_path, [plan.mm_entry.replaced_by(plan.mm)])


def _edit_pagemap(path: Path, plan: _Plan) -> None:
    head, *runs = read_image(path)

    def left() -> Iterator[Entry]:
        yield head
        for index, extent in _keep_resident(plan):
            message = decode(path, runs[index], protos.Pagemap)
            message.vaddr = extent.start
            message.nr_pages = extent.size // PAGE_SIZE
            yield runs[index].replaced_by(message)

    write_image(path, left())


def _split_vma(vma: Any, pieces: Sequence[Extent], file_id: int) -> Iterator[Any]:
    def part(start: int, end: int) -> Any:
        copy = protos.Vma()
        copy.CopyFrom(vma)
        copy.start, copy.end = start, end
        if vma.status & VmaStatus.FILE_PRIVATE:
            copy.pgoff += start - vma.start
        return copy

    at = vma.start
    for piece in find_overlapping(pieces, vma.start, vma.end):
        if at < piece.start:
            yield part(at, piece.start)
        mapped = part(piece.start, piece.end)
        mapped.status = VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE
        mapped.flags &= ~mmap.MAP_ANONYMOUS
        mapped.fdflags = os.O_RDONLY
        mapped.shmid = file_id
        mapped.pgoff = piece.offset
        yield mapped
        at = piece.end
    if at < vma.end:
        yield part(at, vma.end)


def _describe_file(directory: Path, files: Mapping[int, Any], root_pid: int, path: str, size: int) -> Any:
    """Describe the memory file as an entry of files.img, in the mount of the root directory."""
    fs_path = directory / f"fs-{root_pid}.img"
    fs = decode(fs_path, read_only_entry(fs_path), protos.Fs)
    if fs.root_id not in files:
        raise ArchiveError(f"{fs_path}: its root directory, file {fs.root_id}, is not in files.img")
    root = files[fs.root_id].reg
    if max(files) >= _LARGEST_ID:
        raise ArchiveError(f"{directory / 'files.img'}: has a file with the id {max(files)}, the largest possible")
    file = protos.File(type=FileType.REGULAR, id=max(files) + 1)
    file.reg.id = file.id
    file.reg.flags = file.reg.pos = 0
    for name in ("uid", "euid", "signum", "pid_type", "pid"):
        setattr(file.reg.fown, name, 0)
    file.reg.name = os.fsencode(path)
    if root.HasField("mnt_id"):
        file.reg.mnt_id = root.mnt_id
    file.reg.size = size
    file.reg.mode = _FILE_MODE
    return file


def _summarize(plan: _Plan) -> MappedProcess:
    def sum_data(pieces: Iterable[Extent]) -> int:
        return sum(sum_sizes(clip_all(plan.data, piece.start, piece.end)) for piece in pieces)

    mapped, shared, data = sum_data(plan.pieces), sum_data(plan.shared), sum_sizes(plan.data)
    resident = sum(sum_sizes(clip_all(plan.resident, mapping.start, mapping.end)) for mapping in plan.chosen)
    left = Counter(plan.left_bytes)
    left["short run"] += data - mapped
    left["outside of all mappings"] += plan.process.memory_bytes - resident - plan.left_bytes.total()
    return MappedProcess(
        pid=plan.process.pid,
        comm=plan.process.comm,
        moved_bytes=mapped - shared,
        shared_bytes=shared,
        zero_bytes=resident - data,
        left_bytes={reason: size for reason, size in left.most_common() if size},
        pieces=len(plan.pieces),
        mappings=len(plan.mm.vmas),
    )


def _temporary_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
