"""Read the registers of threads that say where their stacks are.

Sources: `images/core.proto` and `images/core-x86.proto` of https://github.com/checkpoint-restore/criu (4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.dump.criu.contents import read_cores

# glibc and musl put the control block of a thread at the end of its stack (`struct pthread`: less than 4 KiB).
_LARGEST_BLOCK_BYTES = 16 << 10


@dataclass(frozen=True)
class Thread:
    """A thread.

    Attributes:
        tid: its id; that of a process's first thread is the process's.
        stack_pointer: address of the top of its stack.
        tls: address of its thread control block.
    """

    tid: int
    stack_pointer: int
    tls: int

    def has_stack(self, start: int, end: int) -> bool:
        """Whether a mapping is the stack that the C library made for this thread, and it runs on that."""
        return start <= self.stack_pointer < self.tls < end <= self.tls + _LARGEST_BLOCK_BYTES


def read_threads(directory: Path) -> dict[int, tuple[Thread, ...]]:
    """Read the threads of a dump by process; none for processes without registers of x86-64, such as zombies.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    return {pid: tuple(_describe(cores)) for pid, cores in read_cores(directory).items()}


def _describe(cores: Mapping[int, Any]) -> Iterator[Thread]:
    for tid, core in cores.items():
        if core.HasField("thread_info"):
            registers = core.thread_info.gpregs
            yield Thread(tid, registers.sp, registers.fs_base)
