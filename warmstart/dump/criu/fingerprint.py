"""Distinguish a restored process from a newly started one.

At every exec the kernel puts 16 random bytes on the process's stack, and their address into its auxiliary vector as
AT_RANDOM (getauxval(3)). Both are part of its memory, so a process restored from a checkpoint has the same, and a newly
started one has different ones.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import read_memory, read_processes
from warmstart.dump.criu.entries import decode, read_only_entry

AT_RANDOM = 25
RANDOM_BYTES = 16
_PAIR = struct.Struct("NN")


def read_identity(proc: Path, pid: int) -> str:
    """Return a digest (64 hexadecimal digits) of a running process's random bytes and their address.

    Args:
        proc: a procfs with this `pid`; the caller must be allowed to read the process's memory.
        pid: the process.

    Raises:
        OSError: there is no such process, or its memory may not be read.
        ValueError: its auxiliary vector has no AT_RANDOM.
    """
    address = find_random((proc / str(pid) / "auxv").read_bytes(), pid)
    with (proc / str(pid) / "mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        random = memory.read(RANDOM_BYTES)
    return make_identity(address, random)


def find_random(auxv: bytes, pid: int) -> int:
    """Find the address of the random bytes in the content of /proc/PID/auxv, in this machine's word size.

    Raises:
        ValueError: the auxiliary vector has no AT_RANDOM, or is damaged.
    """
    try:
        vector: dict[int, int] = dict(_PAIR.iter_unpack(auxv))
    except struct.error as error:
        raise ValueError(f"the auxiliary vector of process {pid} is cut off") from error
    if AT_RANDOM not in vector:
        raise ValueError(f"the auxiliary vector of process {pid} has no AT_RANDOM")
    return vector[AT_RANDOM]


def find_identity(directory: Path) -> str:
    """Return the same digest for the first process of a dump.

    Raises:
        ArchiveError: a file is missing or not understood, or the dump does not hold the random bytes.
    """
    pid = read_processes(directory)[0].pid
    path = directory / f"mm-{pid}.img"
    values = decode(path, read_only_entry(path), protos.Mm).mm_saved_auxv
    vector = dict(zip(values[::2], values[1::2], strict=False))
    address = vector.get(AT_RANDOM)
    random = None if address is None else read_memory(directory, pid, address, RANDOM_BYTES)
    if address is None or random is None:
        raise ArchiveError(f"{path}: the dump does not hold the random bytes of process {pid}")
    return make_identity(address, random)


def make_identity(address: int, random: bytes) -> str:
    """Return the digest of a process's random bytes and their address."""
    return hashlib.sha256(struct.pack("=Q", address) + random).hexdigest()
