"""Clear what functions that have returned left on the stacks of a dump.

Below the stack pointer, a stack holds local variables of calls that are over: among them copies of secrets. No program
can rely on them, since a signal handler may overwrite all beyond the red zone at any moment. (System V ABI for x86-64,
section 3.2.2: "The 128-byte area beyond the location pointed to by %rsp is considered to be reserved".)

A stack pointer says where a stack is, and the mapping around it may hold other things, such as a heap with the stacks
of goroutines or fibers. So only two kinds of stacks are cleared: that of a process's first thread, whose mapping grows
down, and those that glibc made for threads, as far as the thread's control block says. If a thread runs on another
stack, such as that of a signal handler, its own is left alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from warmstart.dump.criu.contents import (
    PAGE_SIZE,
    Mapping,
    Pagemap,
    has_memory,
    read_mappings,
    read_pagemap,
)
from warmstart.dump.criu.threads import Thread, read_threads
from warmstart.dump.edit.extents import CHUNK_BYTES, Extent, clip_all, list_resident, read_range

_RED_ZONE_BYTES = 128
# The first words of `tcbhead_t` (sysdeps/x86_64/nptl/tls.h of glibc): itself, its table of modules, and itself again.
# Among the words after it are the lowest address of the stack, with its guard, and its size (`stackblock` and
# `stackblock_size` in `struct pthread`, nptl/descr.h).
_CONTROL_BLOCK = struct.Struct("<Q8xQ")
_WORD_BYTES = 8


def clear_dead_stacks(directory: Path) -> int:
    """Clear the stacks of a dump below their stack pointers.

    Returns:
        The number of bytes that were not zero before.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    cleared = 0
    for pid, threads in read_threads(directory).items():
        if threads and has_memory(directory, pid):
            pagemap = read_pagemap(directory, pid)
            mappings = read_mappings(directory, pid)
            cleared += _clear_process(pid, threads, mappings, pagemap)
    return cleared


def _clear_process(pid: int, threads: Sequence[Thread], mappings: Sequence[Mapping], pagemap: Pagemap) -> int:
    resident = list_resident(pagemap)
    cleared = 0
    fd = os.open(pagemap.pages_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for mapping, thread in _find_stacks(threads, mappings):
            is_first = thread.tid == pid and mapping.grows_down
            start = mapping.start if is_first else _find_start(fd, resident, mapping, thread)
            end = thread.stack_pointer - _RED_ZONE_BYTES
            if start is not None and start < end:
                cleared += sum(_clear(fd, extent) for extent in clip_all(resident, start, end))
    finally:
        os.close(fd)
    return cleared


def _find_stacks(threads: Sequence[Thread], mappings: Sequence[Mapping]) -> Iterator[tuple[Mapping, Thread]]:
    """Yield each mapping that a single thread runs on."""
    for mapping in mappings:
        inside = [one for one in threads if mapping.start <= one.stack_pointer < mapping.end]
        if len(inside) == 1 and not mapping.file:
            yield mapping, inside[0]


def _find_start(fd: int, resident: Sequence[Extent], mapping: Mapping, thread: Thread) -> int | None:
    """Return where the stack of a thread starts in a mapping; None if glibc did not make it.

    The kernel may have merged the mapping with another below it, if the stack has no guard.
    """
    if not thread.has_stack(mapping.start, mapping.end) or thread.tls % _WORD_BYTES:
        return None
    block = bytes(read_range(fd, resident, thread.tls, mapping.end))
    if len(block) < _CONTROL_BLOCK.size or _CONTROL_BLOCK.unpack_from(block) != (thread.tls, thread.tls):
        return None
    for start, size in pairwise(memoryview(block).cast("Q")):
        if start < thread.stack_pointer and thread.tls < start + size <= mapping.end and not (start | size) % PAGE_SIZE:
            return max(start, mapping.start)
    return None


def _clear(fd: int, extent: Extent) -> int:
    cleared = 0
    for part in extent.cut(CHUNK_BYTES):
        content = os.pread(fd, part.size, part.offset)
        cleared += len(content) - content.count(0)
        os.pwrite(fd, bytes(len(content)), part.offset)
    return cleared
