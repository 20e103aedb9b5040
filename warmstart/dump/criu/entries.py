"""CRIU's image files, read and written entry by entry.

An image file begins with one or two magic numbers; then come entries, each a length, a protobuf message of that
length and, for some kinds of file, bytes whose number the message tells. All numbers are 32-bit, little-endian. The
name of the file says which kind it is. Files without a magic (`pages-*.img`, tables written by `ip` and `iptables`,
archives) are not made of entries and are not read here.

Layout and kinds: `criu/image-desc.c`, `criu/include/magic.h` and `lib/pycriu/images/images.py` of
https://github.com/checkpoint-restore/criu (4.2). Images of version 1, which CRIU stopped writing in 2015, have one
magic less; they are refused like anything else that is not understood.

A message is kept as the bytes that were read until somebody changes it, so what is not edited is written back bit
for bit.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError, Message

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos

COMMON_MAGIC = 0x54564319
SERVICE_MAGIC = 0x55105940

# The largest real message is that of a process with many mappings, some 70 bytes for each of at most a few hundred
# thousand; the longest file lists the runs of resident pages of a heap.
MAX_MESSAGE_BYTES = 64 << 20
MAX_ENTRIES = 1 << 21


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an image file.

    Attributes:
        message: the protobuf message, as it is in the file.
        extra: the bytes that follow the message. A view of the file, which stays mapped (even when the file has been
            replaced since) for as long as the view lives.
        offset: where the entry began in the file that it was read from, for messages to the user.
    """

    message: bytes
    extra: bytes | memoryview = b""
    offset: int = field(default=0, compare=False)

    def replaced_by(self, message: Message) -> Entry:
        """The same entry with another message."""
        return Entry(message.SerializeToString(), self.extra, self.offset)


def refusal(path: Path, problem: str, offset: int) -> ArchiveError:
    """The error for a file that is not understood, to be raised."""
    return ArchiveError(
        f"{path}: {problem} at offset {offset}",
        hint="The checkpoint is damaged, or was made by a version of CRIU that is not known here; make it again.",
    )


class _Cursor:
    """A position in the bytes of a file, which never leaves them."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.position = 0

    def refusal(self, problem: str, offset: int | None = None) -> ArchiveError:
        return refusal(self.path, problem, self.position if offset is None else offset)

    def take(self, size: int, what: str) -> memoryview:
        left = len(self.data) - self.position
        if size > left:
            raise self.refusal(f"{what} of {size} bytes, but only {left} bytes are left")
        taken = self.data[self.position : self.position + size]
        self.position += size
        return taken

    def take_number(self, what: str) -> int:
        number: int = struct.unpack("<I", self.take(4, what))[0]
        return number

    def take_entry(self, what: str) -> Entry:
        """Take a length and a message of that length."""
        begin = self.position
        size = self.take_number(f"the length of {what}")
        if size > MAX_MESSAGE_BYTES:
            raise self.refusal(f"{what} of {size} bytes (at most {MAX_MESSAGE_BYTES})", begin)
        return Entry(bytes(self.take(size, what)), offset=begin)

    def decode(self, entry: Entry, message_class: Any) -> Any:
        return decode(self.path, entry, message_class)

    def at_end(self) -> bool:
        return self.position == len(self.data)


# Takes what follows the message of an entry.
_TakeExtra = Callable[[_Cursor, Entry], None]


def _take_nothing(cursor: _Cursor, entry: Entry) -> None:
    pass


def _take_counted(message_class: Any, *names: str) -> _TakeExtra:
    def take(cursor: _Cursor, entry: Entry) -> None:
        message = cursor.decode(entry, message_class)
        for name in names:
            cursor.take(getattr(message, name), f"data ({name})")

    return take


def _take_ghost(cursor: _Cursor, entry: Entry) -> None:
    if entry.offset > 8:  # not the first entry, which comes after two magic numbers
        cursor.take(cursor.decode(entry, protos.GhostChunk).len, "a piece of a deleted file")
    elif not cursor.decode(entry, protos.GhostFile).chunks:
        cursor.take(len(cursor.data) - cursor.position, "a deleted file")


def _take_shared_memory(cursor: _Cursor, entry: Entry) -> None:
    segment = cursor.decode(entry, protos.IpcShm)
    if not segment.in_pagemaps:
        cursor.take(_round_up(segment.size, 4), "a shared memory segment")


def _take_semaphores(cursor: _Cursor, entry: Entry) -> None:
    cursor.take(_round_up(2 * cursor.decode(entry, protos.IpcSem).nsems, 8), "values of semaphores")


def _take_queued_messages(cursor: _Cursor, entry: Entry) -> None:
    for _ in range(cursor.decode(entry, protos.IpcMsgQueue).qnum):
        header = cursor.take_entry("the header of a queued message")
        cursor.take(_round_up(cursor.decode(header, protos.IpcMsg).msize, 8), "a queued message")


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


@dataclass(frozen=True)
class _Kind:
    magics: tuple[int, ...]
    take_extra: _TakeExtra = _take_nothing


def _common(magic: int, take_extra: _TakeExtra = _take_nothing) -> _Kind:
    return _Kind((COMMON_MAGIC, magic), take_extra)


# From the pattern of the name to the kind; the first pattern that matches counts.
_KINDS = {
    "inventory.img": _Kind((0x58313116,)),
    "stats-*": _Kind((SERVICE_MAGIC, 0x57093306)),
    "irmap-cache.img": _Kind((SERVICE_MAGIC, 0x57004059)),
    "apparmor.img": _common(0x59423047),
    "autofs-*.img": _common(0x49353943),
    "binfmt-misc*.img": _common(0x67343323),
    "bpfmap-data.img": _common(0x64324033, _take_counted(protos.BpfMapData, "keys_bytes", "values_bytes")),
    "bpfmap-file.img": _common(0x57506142),
    "cgroup.img": _common(0x59383330),
    "core-*.img": _common(0x55053847),
    "cpuinfo.img": _common(0x61404013),
    "creds-*.img": _common(0x54023547),
    "eventpoll-tfd.img": _common(0x44433746),
    "fanotify-mark.img": _common(0x56506035),
    "fdinfo-*.img": _common(0x56213732),
    "fifo-data.img": _common(0x59333054, _take_counted(protos.PipeData, "bytes")),
    "filelocks.img": _common(0x54323616),
    "files.img": _common(0x56303138),
    "fs-*.img": _common(0x51403912),
    "ghost-file-*.img": _common(0x52583605, _take_ghost),
    "ids-*.img": _common(0x54432030),
    "inotify-wd.img": _common(0x54562009),
    "ipcns-msg-*.img": _common(0x55453737, _take_queued_messages),
    "ipcns-sem-*.img": _common(0x59573019, _take_semaphores),
    "ipcns-shm-*.img": _common(0x46283044, _take_shared_memory),
    "ipcns-var-*.img": _common(0x53115007),
    "memfd.img": _common(0x48453499),
    "mm-*.img": _common(0x57492820),
    "mountpoints-*.img": _common(0x55563928),
    "netdev-*.img": _common(0x57373951),
    "netns-*.img": _common(0x55933752),
    "pagemap-*.img": _common(0x56084025),
    "pidns-*.img": _common(0x61157326),
    "pipes-data.img": _common(0x56453709, _take_counted(protos.PipeData, "bytes")),
    "pstree.img": _common(0x50273030),
    "remap-fpath.img": _common(0x59133954),
    "rlimit-*.img": _common(0x57113925),
    "seccomp.img": _common(0x64413049),
    "sk-queues.img": _common(0x56264026, _take_counted(protos.QueuedPacket, "length")),
    "tcp-stream-*.img": _common(0x51465506, _take_counted(protos.TcpStream, "inq_len", "outq_len")),
    "timens-*.img": _common(0x43114433),
    "tty-data.img": _common(0x59413026),
    "tty-info.img": _common(0x59453036),
    "userns-*.img": _common(0x55474906),
    "utsns-*.img": _common(0x54473203),
}


def is_image(path: Path) -> bool:
    """Whether a file, by its name, is one that `read_image` reads."""
    return _find_kind(path) is not None


def read_image(path: Path) -> Iterator[Entry]:
    """Read an image file, one entry after the other; what has been checked so far is all that has been read.

    Raises:
        ArchiveError: there is no such file, or it is not understood: its name, its magic, a length, what is left at its
            end. The message names the offset. Raised while iterating.
    """
    kind = _find_kind(path)
    if kind is None:
        raise ArchiveError(f"{path}: no image file of a known kind has this name")
    cursor = _Cursor(path, _map_file(path))
    for expected in kind.magics:
        found = cursor.take_number("a magic number")
        if found != expected:
            raise cursor.refusal(f"magic {found:#010x} where {expected:#010x} should be", cursor.position - 4)
    for _ in range(MAX_ENTRIES):
        if cursor.at_end():
            return
        yield _read_entry(cursor, kind)
    if not cursor.at_end():
        raise cursor.refusal(f"more than {MAX_ENTRIES} entries")


def read_only_entry(path: Path) -> Entry:
    """Read an image file of exactly one entry.

    Raises:
        ArchiveError: as `read_image`; or it has none, or more.
    """
    entries = list(read_image(path))
    if len(entries) != 1:
        raise ArchiveError(f"{path}: has {len(entries)} entries where one is expected")
    return entries[0]


def decode(path: Path, entry: Entry, message_class: Any) -> Any:
    """Decode the message of an entry as one of the classes in `warmstart.dump.criu.protos`.

    Raises:
        ArchiveError: it is not such a message; names the file and the entry's offset.
    """
    name = message_class.DESCRIPTOR.name
    try:
        message = message_class.FromString(entry.message)
    except DecodeError as wrong:
        raise refusal(path, f"a message that is not of kind {name}", entry.offset) from wrong
    if not message.IsInitialized():  # the library decodes a message without its required fields
        lacking = ", ".join(message.FindInitializationErrors())
        raise refusal(path, f"a message of kind {name} without {lacking}", entry.offset)
    return message


def write_image(path: Path, entries: Iterable[Entry]) -> None:
    """Write an image file; its name says which kind. It is written beside and then renamed, and keeps the mode of the
    file it replaces.

    Raises:
        ArchiveError: the name is not that of a known kind.
    """
    kind = _find_kind(path)
    if kind is None:
        raise ArchiveError(f"{path}: no image file of a known kind has this name")
    beside = path.with_name(f"{path.name}.new")
    try:
        with open_new(beside) as file:
            file.write(struct.pack(f"<{len(kind.magics)}I", *kind.magics))
            for entry in entries:
                file.write(struct.pack("<I", len(entry.message)))
                file.write(entry.message)
                file.write(entry.extra)
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.lstat().st_mode))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def open_new(path: Path) -> BinaryIO:
    """Open a file to write to that is not there yet: one that is may be a link.

    Raises:
        ArchiveError: it is there.
    """
    try:
        return path.open("xb")
    except FileExistsError as wrong:
        raise ArchiveError(f"{path}: is in the way of a file to be written") from wrong


def edit_image(path: Path, message_class: Any, edit: Callable[[Any], bool]) -> int:
    """Have `edit` change the messages of an image file, each of which it says whether it did; how many.

    The file is left alone where there are none.

    Raises:
        ArchiveError: as `read_image` and `decode`.
    """
    entries, changed = [], 0
    for entry in read_image(path):
        message = decode(path, entry, message_class)
        if edit(message):
            changed += 1
            entry = entry.replaced_by(message)
        entries.append(entry)
    if changed:
        write_image(path, entries)
    return changed


def _find_kind(path: Path) -> _Kind | None:
    return next((kind for pattern, kind in _KINDS.items() if fnmatch(path.name, pattern)), None)


def _map_file(path: Path) -> memoryview:
    try:
        # A link may lead anywhere on this machine.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as wrong:
        raise ArchiveError(f"{path}: cannot be read: {wrong.strerror}") from wrong
    try:
        if os.fstat(descriptor).st_size == 0:  # which mmap refuses
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def _read_entry(cursor: _Cursor, kind: _Kind) -> Entry:
    entry = cursor.take_entry("a message")
    begin = cursor.position
    kind.take_extra(cursor, entry)
    return replace(entry, extra=cursor.data[begin : cursor.position]) if cursor.position > begin else entry
