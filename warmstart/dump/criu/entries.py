"""Read and write CRIU's image files entry by entry.

An image file begins with one or two magic numbers, followed by entries. An entry has a length, a protobuf message of
that length and, in some kinds of files, extra bytes; the message contains their number. All numbers are 32-bit,
little-endian. The kind of a file is known by its name. Files without a magic (`pages-*.img`, tables written by `ip` and
`iptables`, archives) have no entries and are not read here.

Layout and kinds: `criu/image-desc.c`, `criu/include/magic.h` and `lib/pycriu/images/images.py` of
https://github.com/checkpoint-restore/criu (4.2). Image files of version 1, written by CRIU until 2015, have one magic
less and are refused like any unknown format.

A message is kept as raw bytes until it is changed, so unchanged messages are written back bit for bit.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError, Message

from warmstart.core.errors import ArchiveError
from warmstart.core.partial import replace_file
from warmstart.dump.criu import protos

COMMON_MAGIC = 0x54564319
SERVICE_MAGIC = 0x55105940

# The largest real message describes a process with many mappings, some 70 bytes for each of at most a few hundred
# thousand. The file with the most entries lists the runs of resident pages of a heap.
MAX_MESSAGE_BYTES = 64 << 20
MAX_ENTRIES = 1 << 21


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an image file.

    Attributes:
        message: encoded protobuf message.
        extra: bytes after the message, as a view of the file. The file stays mapped as long as the view exists, even
            if it is replaced.
        offset: offset of the entry in its file, for error messages.
    """

    message: bytes
    extra: bytes | memoryview = b""
    offset: int = field(default=0, compare=False)

    def replaced_by(self, message: Message) -> Entry:
        """Return the entry with another message."""
        return Entry(message.SerializeToString(), self.extra, self.offset)


def make_error(path: Path, problem: str, offset: int) -> ArchiveError:
    """Return the error to raise for a file that is not understood."""
    return ArchiveError(
        f"{path}: {problem} at offset {offset}",
        hint="The checkpoint is damaged, or was made by a version of CRIU that is not known here; make it again.",
    )


class _Cursor:
    """A position in the bytes of a file, with bounds checks."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.position = 0

    def make_error(self, problem: str, offset: int | None = None) -> ArchiveError:
        return make_error(self.path, problem, self.position if offset is None else offset)

    def take(self, size: int, item: str) -> memoryview:
        left = len(self.data) - self.position
        if size > left:
            raise self.make_error(f"{item} of {size} bytes, but only {left} bytes are left")
        content = self.data[self.position : self.position + size]
        self.position += size
        return content

    def take_number(self, item: str) -> int:
        number: int = struct.unpack("<I", self.take(4, item))[0]
        return number

    def take_entry(self, item: str) -> Entry:
        """Take a length and a message of that length."""
        begin = self.position
        size = self.take_number(f"the length of {item}")
        if size > MAX_MESSAGE_BYTES:
            raise self.make_error(f"{item} of {size} bytes (at most {MAX_MESSAGE_BYTES})", begin)
        return Entry(bytes(self.take(size, item)), offset=begin)

    def decode(self, entry: Entry, message_class: Any) -> Any:
        return decode(self.path, entry, message_class)

    def at_end(self) -> bool:
        return self.position == len(self.data)


# Takes the extra bytes after the message of an entry.
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


# File name patterns and their kinds; the first match counts.
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
    """Whether `read_image` reads files with this name."""
    return _find_kind(path) is not None


def read_image(path: Path) -> Iterator[Entry]:
    """Yield the entries of an image file one by one. Later entries have not been read or checked yet.

    Raises:
        ArchiveError: there is no such file, or it is not understood: its name, its magic, a length, or its end. The
            message names the offset. Raised while iterating.
    """
    kind = _find_kind(path)
    if kind is None:
        raise ArchiveError(f"{path}: no image file of a known kind has this name")
    cursor = _Cursor(path, _map_file(path))
    for expected in kind.magics:
        found = cursor.take_number("a magic number")
        if found != expected:
            raise cursor.make_error(f"magic {found:#010x} where {expected:#010x} should be", cursor.position - 4)
    for _ in range(MAX_ENTRIES):
        if cursor.at_end():
            return
        yield _read_entry(cursor, kind)
    if not cursor.at_end():
        raise cursor.make_error(f"more than {MAX_ENTRIES} entries")


def read_only_entry(path: Path) -> Entry:
    """Read an image file of exactly one entry.

    Raises:
        ArchiveError: as for `read_image`, or it has none or more.
    """
    entries = list(read_image(path))
    if len(entries) != 1:
        raise ArchiveError(f"{path}: has {len(entries)} entries where one is expected")
    return entries[0]


def decode(path: Path, entry: Entry, message_class: Any) -> Any:
    """Decode the message of an entry as one of the classes in `warmstart.dump.criu.protos`.

    Raises:
        ArchiveError: it is not such a message. The error names the file and the entry's offset.
    """
    name = message_class.DESCRIPTOR.name
    try:
        message = message_class.FromString(entry.message)
    except DecodeError as wrong:
        raise make_error(path, f"a message that is not of kind {name}", entry.offset) from wrong
    if not message.IsInitialized():  # the library decodes a message without its required fields
        missing = ", ".join(message.FindInitializationErrors())
        raise make_error(path, f"a message of kind {name} without {missing}", entry.offset)
    return message


def write_image(path: Path, entries: Iterable[Entry]) -> None:
    """Write an image file of the kind that its name implies.

    It is written under another name and then renamed, and keeps the mode of the file it replaces.

    Raises:
        ArchiveError: the name matches no known kind.
    """
    kind = _find_kind(path)
    if kind is None:
        raise ArchiveError(f"{path}: no image file of a known kind has this name")
    try:
        with replace_file(path) as file:
            file.write(struct.pack(f"<{len(kind.magics)}I", *kind.magics))
            for entry in entries:
                file.write(struct.pack("<I", len(entry.message)))
                file.write(entry.message)
                file.write(entry.extra)
    except FileExistsError as error:
        raise _explain_existing(error) from error


def open_new(path: Path) -> BinaryIO:
    """Create a file and open it for writing. An existing file is refused, since it may be a link.

    Raises:
        ArchiveError: the file exists.
    """
    try:
        return path.open("xb")
    except FileExistsError as error:
        raise _explain_existing(error) from error


def _explain_existing(error: FileExistsError) -> ArchiveError:
    return ArchiveError(f"{error.filename}: is in the way of a file to be written")


def edit_image(path: Path, message_class: Any, edit: Callable[[Any], bool]) -> int:
    """Edit the messages of an image file in place and return the number of changes.

    `edit` returns whether it changed the message. Without changes, the file is not rewritten.

    Raises:
        ArchiveError: as for `read_image` and `decode`.
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
        if os.fstat(descriptor).st_size == 0:  # mmap refuses empty files
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def _read_entry(cursor: _Cursor, kind: _Kind) -> Entry:
    entry = cursor.take_entry("a message")
    begin = cursor.position
    kind.take_extra(cursor, entry)
    return replace(entry, extra=cursor.data[begin : cursor.position]) if cursor.position > begin else entry
