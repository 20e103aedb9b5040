"""Find the parts of files that running processes have touched: the pages in their page tables.

At a page fault, the kernel also maps the pages of the same 64 KiB that are in the page cache (`do_fault_around` in
mm/memory.c of Linux). So the pages are those that were touched only if none of the file was in the page cache, and the
kernel does not read ahead: see `warmstart.dump.edit.advice`. Format: Documentation/admin-guide/mm/pagemap.rst.

To write to a page of a private mapping, the kernel reads the page first, though all of it may be replaced. CRIU writes
those pages of libraries that the application had changed, one library after the other, before anything else runs. And
before that, it compares each library's build id, which is in its first page (`get_build_id` in criu/files-reg.c).
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.mountinfo import parse_mountinfo, read_mountinfo
from warmstart.dump.proc.container import GONE, is_below, read_tree

# A disk reads the pages between two parts sooner than it begins with another part.
MAX_GAP_BYTES = 16 << 10
#: More parts than this are not listed: then a program touches so much here and there that it is not worth it.
MAX_PARTS = 16384

# Start, end and offset of a mapping of a file. Names with a backslash have a line feed in them.
_MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ +(/[^\\]*)")
_DELETED = " (deleted)"
_ENTRY_BYTES = 8
# The most significant byte of an entry has the bits of a page that is present, and of one that is the file's.
_PRESENT = 0x80
_OF_FILE = 0x20
# Entries to read at a time, and for each process: larger mappings are left out.
_BATCH = 1 << 16
_MAX_ENTRIES = 1 << 24


@dataclass(frozen=True)
class FilePart:
    """A part of a file, in bytes from its start. The path is the container's."""

    path: str
    start: int
    size: int


@dataclass(frozen=True)
class _Page:
    """A touched page of a file, by number, and whether the process has a changed copy of it."""

    path: str
    number: int
    is_changed: bool


def find_touched(proc: Path, first_pid: int, memory: Collection[str] = ()) -> tuple[FilePart, ...]:
    """Return the touched parts of the files in a container's root filesystem.

    What CRIU reads comes first: the first page and the changed pages of libraries. Then comes the file with most parts.
    Files on other mounts are left out, since a pod brings its own. Processes that end meanwhile are left out too.

    Args:
        proc: a procfs.
        first_pid: the first process of the container.
        memory: paths of memory files, which CRIU neither compares nor writes to.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    first: defaultdict[str, set[int]] = defaultdict(set)
    others: defaultdict[str, set[int]] = defaultdict(set)
    for process in read_tree(proc, first_pid):
        with contextlib.suppress(*GONE):
            for page in _find_pages(proc / str(process.pid)):
                is_first = page.is_changed and page.path not in memory
                (first if is_first else others)[page.path].add(page.number)
    for path in {*first, *others}.difference(memory):
        first[path].add(0)
        others[path] -= first[path]
    parts = (*_join_files(first), *_join_files(others))
    return parts if len(parts) <= MAX_PARTS else ()


def _join_files(pages: Mapping[str, Set[int]]) -> Iterator[FilePart]:
    """Yield the parts of files, the file with most of them first."""
    files = [tuple(join_pages(path, pages[path])) for path in sorted(pages) if pages[path]]
    files.sort(key=lambda parts: -sum(part.size for part in parts))
    yield from itertools.chain.from_iterable(files)


def join_pages(path: str, pages: Iterable[int]) -> Iterator[FilePart]:
    """Yield the parts of a file that contain pages, given by number, with small gaps between these."""
    first, *others = sorted(pages)
    start, end = first, first + 1
    for page in others:
        if (page - end) * mmap.PAGESIZE > MAX_GAP_BYTES:
            yield FilePart(path, start * mmap.PAGESIZE, (end - start) * mmap.PAGESIZE)
            start = page
        end = page + 1
    yield FilePart(path, start * mmap.PAGESIZE, (end - start) * mmap.PAGESIZE)


def _find_pages(directory: Path) -> Iterator[_Page]:
    """Yield each touched page of a process."""
    mounts = {mount.mount_point for mount in parse_mountinfo(read_mountinfo(directory / "mountinfo"))} - {"/"}
    left = _MAX_ENTRIES
    with (directory / "pagemap").open("rb", buffering=0) as pagemap:
        for line in (directory / "maps").read_bytes().splitlines():
            match = _MAPPING.fullmatch(line)
            path = os.fsdecode(match[4]) if match else _DELETED
            if match is None or path.endswith(_DELETED) or any(is_below(path, mount) for mount in mounts):
                continue
            start, end, offset = (int(word, 16) for word in match.groups()[:3])
            left -= (end - start) // mmap.PAGESIZE
            if left < 0:
                return
            for page, is_changed in _list_present(pagemap.fileno(), start // mmap.PAGESIZE, end // mmap.PAGESIZE):
                yield _Page(path, offset // mmap.PAGESIZE + page, is_changed)


def _list_present(pagemap: int, start: int, end: int) -> Iterator[tuple[int, bool]]:
    """Yield the present pages from page `start` to `end` of the addresses, and whether each is changed.

    They are counted from `start`.
    """
    for first in range(start, end, _BATCH):
        count = min(_BATCH, end - first)
        entries = os.pread(pagemap, count * _ENTRY_BYTES, first * _ENTRY_BYTES)
        highest = entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]  # little-endian, as on all machines that are supported
        for number, byte in enumerate(highest):
            if byte & _PRESENT:
                yield first - start + number, not byte & _OF_FILE
