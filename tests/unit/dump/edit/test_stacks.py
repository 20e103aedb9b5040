"""What functions that have returned left on the stacks is cleared, and nothing else."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from support.checkpoint_image import real_dump

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import read_mappings, read_pagemap
from warmstart.dump.criu.entries import edit_image
from warmstart.dump.criu.threads import read_threads
from warmstart.dump.edit.stacks import clear_dead_stacks

PID, RED_ZONE = 16, 128


@pytest.fixture
def dump(tmp_path) -> Path:
    """Return a dump of which all pages are full."""
    for name, content in real_dump().items():
        (tmp_path / name).write_bytes(b"\xaa" * len(content) if name.startswith("pages-") else content)
    return tmp_path


def move(dump: Path, pid: int, stack_pointer: int, tls: int = 0) -> None:
    """Let the first thread of a process run elsewhere."""

    def edit(core) -> bool:
        core.thread_info.gpregs.sp = stack_pointer
        core.thread_info.gpregs.fs_base = tls
        return True

    edit_image(dump / f"core-{pid}.img", protos.Core, edit)


def memory(dump: Path, pid: int) -> dict[int, int]:
    """Return the bytes of a process by address."""
    pagemap = read_pagemap(dump, pid)
    content = pagemap.pages_file.read_bytes()
    return {run.start + at: content[run.offset + at] for run in pagemap.runs for at in range(run.end - run.start)}


def stack_of(dump: Path, pid: int):
    return next(one for one in read_mappings(dump, pid) if one.flags & 0x100)


def test_the_stack_below_the_red_zone_is_cleared(dump):
    (thread,) = read_threads(dump)[PID]
    start, end = stack_of(dump, PID).start, thread.stack_pointer - RED_ZONE
    before = memory(dump, PID)
    dead = {address for address in before if start <= address < end}
    assert dead
    assert clear_dead_stacks(dump) >= len(dead)
    after = memory(dump, PID)
    assert {address for address in after if after[address] != before[address]} == dead
    assert clear_dead_stacks(dump) == 0


def other_mapping(dump: Path, pid: int):
    """Return a mapping with resident pages that is no stack."""
    runs = read_pagemap(dump, pid).runs
    return next(
        one
        for one in read_mappings(dump, pid)
        if not one.flags & 0x100 and not one.file and any(one.start <= run.start < one.end for run in runs)
    )


def test_a_heap_with_the_stack_of_a_goroutine_is_left_alone(dump):
    for pid in read_threads(dump):
        heap = other_mapping(dump, pid)
        move(dump, pid, heap.end - 1024, heap.end - 512)
    before = memory(dump, PID)
    assert clear_dead_stacks(dump) == 0
    assert memory(dump, PID) == before


@pytest.mark.parametrize(
    ("words", "lowest"),
    [
        (lambda start, size: (start, size), 0),
        # Its guard, or the pages of HotSpot that protect its end, are in another mapping.
        (lambda start, size: (start - 8192, size + 8192), 0),
        # Merged with a mapping below it.
        (lambda start, size: (start + 4096, size - 4096), 4096),
        (lambda start, size: (0, 0), None),
        (lambda start, size: (start + 1, size - 1), None),
        (lambda start, size: (start, size + 4096), None),
    ],
    ids=["whole", "guarded", "merged", "unknown", "unaligned", "too-large"],
)
def test_the_stack_of_a_thread_is_that_of_its_control_block(dump, words, lowest):
    for pid in read_threads(dump):
        move(dump, pid, 0)
    stack = other_mapping(dump, PID)
    tls, stack_pointer = stack.end - 512, stack.end - 1024
    move(dump, PID, stack_pointer, tls)
    pagemap = read_pagemap(dump, PID)
    run = next(one for one in pagemap.runs if one.start <= tls < one.end)
    fd = os.open(pagemap.pages_file, os.O_WRONLY)
    block = struct.pack("<3Q8x2Q", tls, 0x1234, tls, *words(stack.start, stack.end - stack.start))
    os.pwrite(fd, block, run.offset + tls - run.start)
    os.close(fd)
    before = memory(dump, PID)
    clear_dead_stacks(dump)
    after = memory(dump, PID)
    changed = {address for address in after if after[address] != before[address]}
    end = stack_pointer - RED_ZONE
    dead = range(stack.start + lowest, end) if lowest is not None else range(0)
    assert changed == {address for address in before if address in dead}


def test_processes_without_registers_are_left_alone(dump):
    for pid in read_threads(dump):
        edit_image(dump / f"core-{pid}.img", protos.Core, lambda core: core.ClearField("thread_info") or True)
    assert read_threads(dump)[PID] == ()
    assert clear_dead_stacks(dump) == 0
