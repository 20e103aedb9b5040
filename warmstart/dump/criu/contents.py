"""Read the contents of a dump: processes, their mappings and resident pages, and sockets.

A dump is a directory of CRIU's image files. The files are untrusted: missing or unknown content raises ArchiveError.
Sources: `images/*.proto`, `criu/include/image.h` and `criu/include/pagemap.h` of
https://github.com/checkpoint-restore/criu (4.2).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, make_error, read_image, read_only_entry

PAGE_SIZE = 4096
# From <asm-generic/mman.h>.
_MAP_GROWSDOWN = 0x100

_IMAGE_VERSION = 2
# The end of the address space with five-level page tables. The vsyscall page lies above it and is not in a dump.
_ADDRESS_END = 1 << 57
_MAX_ARGUMENT_BYTES = 1 << 20
#: Maximum runs of pages of one process: a heap of 8 GiB with every other page resident. Real heaps of that size have
#: some ten thousand.
MAX_RUNS = 1 << 20
#: Maximum mappings of one process: twice the usual limit on hosts that raise the kernel's 65530 (vm.max_map_count).
MAX_MAPPINGS = 1 << 19
_MAX_PORT = 65535
_DEAD = 2  # enum __compel_task_state in compel/include/uapi/task-state.h


class TcpState(IntEnum):
    """The kernel's state of a TCP socket (`include/net/tcp_states.h`); a UDP socket is ESTABLISHED or CLOSE."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


class VmaStatus(IntFlag):
    """CRIU's status bits of a mapping (`VMA_*` in `criu/include/image.h`)."""

    REGULAR = 1 << 0
    STACK = 1 << 1
    VSYSCALL = 1 << 2
    VDSO = 1 << 3
    HEAP = 1 << 5
    FILE_PRIVATE = 1 << 6
    FILE_SHARED = 1 << 7
    ANON_SHARED = 1 << 8
    ANON_PRIVATE = 1 << 9
    VVAR = 1 << 12
    GUARD = 1 << 16


class PageFlag(IntFlag):
    """Location of the pages of a run (`PE_*` in `criu/include/pagemap.h`)."""

    PARENT = 1 << 0
    LAZY = 1 << 1
    PRESENT = 1 << 2


# With many runs, operations on an IntFlag would take most of the time.
_PRESENT, _PARENT = PageFlag.PRESENT.value, PageFlag.PARENT.value


class FileType(IntEnum):
    """The kinds of open files needed here (`fd_types` in `images/fdinfo.proto`)."""

    REGULAR = 1
    INET_SOCKET = 4
    TIMER = 17


@dataclass(frozen=True)
class Inventory:
    """General properties of a dump.

    Attributes:
        version: version of the image files; CRIU does not record its own.
        run_id: UUID of the CRIU run that made the dump; empty in older dumps.
        tcp_close: whether it was made with `tcp-close`; CRIU then requires that option at the restore.
        namespaces: CRIU's own namespaces at the dump, as ids within the dump, by their names ("pid", "net", ...).
    """

    version: int
    run_id: str
    tcp_close: bool
    namespaces: ReadOnlyDict[str, int]


@dataclass(frozen=True)
class Process:
    """A process of the dump.

    Attributes:
        pid: PID in the dumped PID namespace.
        ppid: PID of its parent, 0 for the root of the tree.
        comm: name in the kernel (at most 15 characters).
        arguments: command line; empty if its pages are not in the dump.
        threads: number of threads.
        memory_bytes: size of its pages in the dump.
    """

    pid: int
    ppid: int
    comm: str
    arguments: tuple[str, ...]
    threads: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping of a process's memory.

    Attributes:
        start, end: addresses in bytes, end exclusive.
        prot, flags: as for mmap(2).
        status: CRIU's status bits.
        file: path of the mapped file, or "".
        file_offset: offset in the file, in bytes.
        advice: bit for each madvise(2) advice in effect.
    """

    start: int
    end: int
    prot: int
    flags: int
    status: VmaStatus
    file: str
    file_offset: int
    advice: int

    @property
    def grows_down(self) -> bool:
        """Whether it is a stack that the kernel enlarges (MAP_GROWSDOWN of mmap(2))."""
        return bool(self.flags & _MAP_GROWSDOWN)


@dataclass(frozen=True, slots=True)
class PageRun:
    """Consecutive pages of a process.

    Attributes:
        start: address of the first byte.
        pages: number of pages.
        flags: location of the pages.
        offset: offset in the pages file, in bytes; None if the pages are not there.
    """

    start: int
    pages: int
    flags: int
    offset: int | None

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.start + self.pages * PAGE_SIZE


@dataclass(frozen=True)
class Pagemap:
    """The pages of a process in the dump, by address, and their file."""

    pages_file: Path
    runs: tuple[PageRun, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the pages in the file."""
        return sum(run.pages for run in self.runs if run.offset is not None) * PAGE_SIZE


@dataclass(frozen=True)
class Endpoint:
    """An address and a port; port 0 stands for none."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Socket:
    """An internet socket of the dump.

    Attributes:
        inode: inode number at the dump; it names the socket's `tcp-stream-*.img`, in hexadecimal.
        family, kind, protocol: as for socket(2); 262 is MPTCP.
        state: TcpState, in all known cases.
        source, destination: own endpoint and the peer's.
    """

    inode: int
    family: int
    kind: int
    protocol: int
    state: int
    source: Endpoint
    destination: Endpoint

    @property
    def is_tcp(self) -> bool:
        """Whether the protocol is TCP, and not MPTCP."""
        return self.kind == socket.SOCK_STREAM and self.protocol == socket.IPPROTO_TCP


def read_inventory(directory: Path) -> Inventory:
    """Read the general properties of a dump.

    Raises:
        ArchiveError: the file is missing or not understood, or the image files are of another version.
    """
    path = directory / "inventory.img"
    entry = read_only_entry(path)
    message = decode(path, entry, protos.Inventory)
    if message.img_version != _IMAGE_VERSION:
        problem = f"image files of version {message.img_version} where {_IMAGE_VERSION} is known"
        raise make_error(path, problem, entry.offset)
    ids = {descriptor.name.removesuffix("_ns_id"): number for descriptor, number in message.root_ids.ListFields()}
    return Inventory(message.img_version, _text(message.dump_criu_run_id), message.tcp_close, ids)


def read_processes(directory: Path) -> tuple[Process, ...]:
    """Read the processes of a dump, at least one, parents before their children.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    path = directory / "pstree.img"
    messages: dict[int, Any] = {}
    for entry in read_image(path):
        message = decode(path, entry, protos.Process)
        if message.pid in messages:
            raise make_error(path, f"a second process {message.pid}", entry.offset)
        messages[message.pid] = message
    if not messages:
        raise ArchiveError(f"{path}: lists no processes")
    return tuple(_read_process(directory, message) for message in messages.values())


def read_cores(directory: Path) -> dict[int, dict[int, Any]]:
    """Read the threads of a dump as `protos.Core` messages, by process and thread, its first thread first.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    path = directory / "pstree.img"
    processes = (decode(path, entry, protos.Process) for entry in read_image(path))
    return {process.pid: dict(_read_threads(directory, process)) for process in processes}


def _read_threads(directory: Path, process: Any) -> Iterator[tuple[int, Any]]:
    """Yield the threads of a process. A zombie has one: CRIU lists another for it, with a random number."""
    first = _read_core(directory / f"core-{process.pid}.img")
    yield process.pid, first
    if first.tc.task_state != _DEAD:
        for number in dict.fromkeys(process.threads):
            if number != process.pid:
                yield number, _read_core(directory / f"core-{number}.img")


def _read_core(path: Path) -> Any:
    return decode(path, read_only_entry(path), protos.Core)


def has_memory(directory: Path, pid: int) -> bool:
    """Whether a process has memory; a zombie has none."""
    return (directory / f"mm-{pid}.img").exists()


def read_files(directory: Path) -> dict[int, Any]:
    """Read the open and mapped files of a dump, as `protos.File` messages by id.

    Raises:
        ArchiveError: the file is missing or not understood.
    """
    path = directory / "files.img"
    messages = (decode(path, entry, protos.File) for entry in read_image(path))
    return {message.id: message for message in messages}


def read_mappings(directory: Path, pid: int, files: ReadOnlyDict[int, Any] | None = None) -> tuple[Mapping, ...]:
    """Read the mappings of a process as the dump lists them: by address, ranges with guard pages at the end.

    Args:
        directory: the dump.
        pid: the process.
        files: result of `read_files`, if already read.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    if files is None:
        files = read_files(directory)
    _, _, mm = read_mm(directory, pid)
    return tuple(as_mapping(vma, files) for vma in mm.vmas)


def read_mm(directory: Path, pid: int) -> tuple[Path, Entry, Any]:
    """Read a process's address space: the file in the dump, its only entry, and that as a `protos.Mm` message.

    Raises:
        ArchiveError: the file is missing or not understood, or it has more than MAX_MAPPINGS mappings.
    """
    path = directory / f"mm-{pid}.img"
    entry = read_only_entry(path)
    mm = decode(path, entry, protos.Mm)
    if len(mm.vmas) > MAX_MAPPINGS:
        raise make_error(path, f"{len(mm.vmas)} mappings (at most {MAX_MAPPINGS})", entry.offset)
    return path, entry, mm


def as_mapping(vma: Any, files: ReadOnlyDict[int, Any]) -> Mapping:
    """Convert a `protos.Vma` to a Mapping; `files` is the result of `read_files`."""
    status = VmaStatus(vma.status)
    file = ""
    if status & (VmaStatus.FILE_PRIVATE | VmaStatus.FILE_SHARED) and vma.shmid in files:
        file = os.fsdecode(files[vma.shmid].reg.name)
    return Mapping(vma.start, vma.end, vma.prot, vma.flags, status, file, vma.pgoff, vma.madv)


def read_pagemap(directory: Path, pid: int) -> Pagemap:
    """Read the list of a process's pages in the dump.

    Raises:
        ArchiveError: a file is missing or not understood, the runs are not in order, or the size of the pages file is
            not their sum.
    """
    return _read_pagemap(directory / f"pagemap-{pid}.img")


def read_shared_pagemaps(directory: Path) -> tuple[Pagemap, ...]:
    """Read the pages of all shared memory in the dump. In place of addresses are offsets in it.

    Raises:
        ArchiveError: as for `read_pagemap`.
    """
    return tuple(map(_read_pagemap, sorted(directory.glob("pagemap-shmem-*.img"))))


def _read_pagemap(path: Path) -> Pagemap:
    entries = read_image(path)
    head = next(entries, None)
    if head is None:
        raise ArchiveError(f"{path}: has no entries")
    pages_file = path.parent / f"pages-{decode(path, head, protos.PagemapHead).pages_id}.img"
    runs: list[PageRun] = []
    address = offset = 0
    for entry in entries:
        run = _read_run(path, entry, address, offset)
        runs.append(run)
        if len(runs) > MAX_RUNS:
            raise make_error(path, f"more than {MAX_RUNS} runs of pages", entry.offset)
        address = run.end
        offset += run.pages * PAGE_SIZE if run.offset is not None else 0
    _check_pages_file(pages_file, offset, path)
    return Pagemap(pages_file, tuple(runs))


def read_memory(directory: Path, pid: int, start: int, size: int) -> bytes | None:
    """Read memory of a process; return None if the dump does not hold all of it.

    Raises:
        ArchiveError: as for `read_pagemap`.
    """
    return _read_from(read_pagemap(directory, pid), start, size)


def _read_from(pagemap: Pagemap, start: int, size: int) -> bytes | None:
    found = b""
    for run in pagemap.runs:
        if run.start <= start + len(found) < run.end and run.offset is not None and len(found) < size:
            at = start + len(found)
            with pagemap.pages_file.open("rb") as pages:
                pages.seek(run.offset + at - run.start)
                found += pages.read(min(size - len(found), run.end - at))
    return found if len(found) == size else None


def sum_pages_bytes(directory: Path) -> int:
    """Sum the size of all memory in the dump, private and shared, in bytes."""
    return sum(path.stat().st_size for path in directory.glob("pages-*.img"))


def read_sockets(directory: Path) -> tuple[Socket, ...]:
    """Read the internet sockets of a dump.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    path = directory / "files.img"
    found = ((entry, decode(path, entry, protos.File)) for entry in read_image(path))
    return tuple(as_socket(path, entry, file.isk) for entry, file in found if file.type == FileType.INET_SOCKET)


def as_socket(path: Path, entry: Entry, message: Any) -> Socket:
    """Convert a `protos.File.isk` message to a Socket; `path` and `entry` are its source, for errors.

    Raises:
        ArchiveError: an address has the wrong length, or a port is too large.
    """

    def endpoint(words: Any, port: int) -> Endpoint:
        if port > _MAX_PORT:
            raise make_error(path, f"a socket with the port {port}", entry.offset)
        raw = struct.pack(f"<{len(words)}I", *words)
        if message.family == socket.AF_INET and len(raw) >= 4:
            return Endpoint(IPv4Address(raw[:4]), port)
        if message.family == socket.AF_INET6 and len(raw) == 16:
            return Endpoint(IPv6Address(raw), port)
        problem = f"a socket of family {message.family} with an address of {len(raw)} bytes"
        raise make_error(path, problem, entry.offset)

    return Socket(
        inode=message.ino,
        family=message.family,
        kind=message.type,
        protocol=message.proto,
        state=message.state,
        source=endpoint(message.src_addr, message.src_port),
        destination=endpoint(message.dst_addr, message.dst_port),
    )


def _read_process(directory: Path, message: Any) -> Process:
    core_path = directory / f"core-{message.pid}.img"
    core = decode(core_path, read_only_entry(core_path), protos.Core)
    memory_bytes = 0
    arguments: tuple[str, ...] = ()
    if has_memory(directory, message.pid):
        pagemap = read_pagemap(directory, message.pid)
        memory_bytes = pagemap.size_bytes
        arguments = _read_arguments(directory, message.pid, pagemap)
    return Process(
        pid=message.pid,
        ppid=message.ppid,
        comm=_text(core.tc.comm),
        arguments=arguments,
        threads=len(message.threads),
        memory_bytes=memory_bytes,
    )


def _read_arguments(directory: Path, pid: int, pagemap: Pagemap) -> tuple[str, ...]:
    path = directory / f"mm-{pid}.img"
    mm = decode(path, read_only_entry(path), protos.Mm)
    size = mm.mm_arg_end - mm.mm_arg_start
    if not 0 < size <= _MAX_ARGUMENT_BYTES:
        return ()
    memory = _read_from(pagemap, mm.mm_arg_start, size)
    return () if memory is None else tuple(_text(memory).rstrip("\0").split("\0"))


def _read_run(path: Path, entry: Entry, address: int, offset: int) -> PageRun:
    message = decode(path, entry, protos.Pagemap)
    # Older versions omit the flags if the pages are present (`init_compat_pagemap_entry` in criu/pagemap.c).
    flags: int = message.flags if message.HasField("flags") else _PRESENT
    if message.in_parent:
        flags |= _PARENT
    pages = message.nr_pages if message.HasField("nr_pages") else message.compat_nr_pages
    present = flags & _PRESENT and not flags & _PARENT
    run = PageRun(message.vaddr, pages, flags, offset if present else None)
    if run.start % PAGE_SIZE or run.start < address or pages == 0 or run.end > _ADDRESS_END:
        raise make_error(path, f"a run of {pages} pages at address {run.start:#x}, out of order", entry.offset)
    return run


def _check_pages_file(pages_file: Path, size: int, pagemap_path: Path) -> None:
    try:
        found = pages_file.lstat()
    except OSError as wrong:
        raise ArchiveError(f"{pages_file}: cannot be read: {wrong.strerror}") from wrong
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        problem = f"is {found.st_size} bytes long" if stat.S_ISREG(found.st_mode) else "is not a file"
        raise ArchiveError(f"{pages_file}: {problem}, but {pagemap_path.name} lists {size} bytes of pages")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
