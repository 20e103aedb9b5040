"""Examine the programs and libraries of a container's processes for how they return memory to the kernel.

They are read before the dump, from the executable files that the processes have mapped, since a dump does not hold
them. Formats: elf(5); for Go's version, `readRawBuildInfo` in src/debug/buildinfo/buildinfo.go of
https://github.com/golang/go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.dump.proc.container import GONE, read_container

# System calls that may change the content of memory that the process keeps: madvise(2) and mremap(2).
_CALLS = (b"madvise\0", b"mremap\0")

_HEADER = struct.Struct("<16sHHIQQQIHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
_LOAD, _DYNAMIC_SEGMENT, _INTERPRETER = 1, 2, 3
_WRITABLE = 2
_STRING_TABLE, _STRING_TABLE_SIZE = 5, 10
_MAX_PART_BYTES = 256 << 20

_GO_MAGIC = b"\xff Go buildinf:"
_GO_ALIGNMENT = 16
_GO_INLINE = 2
_GO_SETTING = b"madvdontneed=0"
_GO_VERSION = re.compile(rb"go(\d+)\.(\d+)")


@dataclass(frozen=True)
class Program:
    """An executable file or a shared library.

    Attributes:
        interpreter: file name of its dynamic linker; "" for a library or a statically linked program.
        calls_madvise: whether it imports or exports madvise or mremap.
        go: version of Go it was built with, as (1, 24); (0, 0) if unknown; None if it is not Go.
        go_keeps_no_zeros: whether every process that has it mapped has GODEBUG=madvdontneed=0 in its environment.
    """

    interpreter: str = ""
    calls_madvise: bool = False
    go: tuple[int, int] | None = None
    go_keeps_no_zeros: bool = False


Programs = Mapping[str, Program]
"""Programs by their path in the container."""


def read_programs(proc: Path, init_pid: int) -> dict[str, Program]:
    """Read the programs and libraries that the processes of a container execute.

    Args:
        proc: a procfs; nothing is read outside it.
        init_pid: PID of the container's first process in that procfs.

    Returns:
        Programs by their path in the container. Files that are not 64-bit little-endian ELF are left out.

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
        PermissionError: the caller may not inspect the container's processes.
    """
    container = read_container(proc, init_pid)
    # Paths that are not reachable from our own root directory are relative to the container's already.
    root = os.readlink(proc / str(init_pid) / "root").rstrip("/")  # noqa: PTH115  (text, not a path of ours)
    found: dict[str, Program] = {}
    for process, mapped in container.each_mapped_file():
        with contextlib.suppress(*GONE):
            keeps = keeps_no_zeros((proc / str(process.pid) / "environ").read_bytes())
            _add(found, mapped.target.removeprefix(root), mapped.path, keeps=keeps)
    return found


def _add(found: dict[str, Program], name: str, path: Path, *, keeps: bool) -> None:
    if name not in found:
        try:
            found[name] = replace(read_program(path), go_keeps_no_zeros=keeps)
        except (ValueError, struct.error):
            pass
        except OSError as problem:
            if problem.errno != errno.ENXIO:  # such as the ring of asynchronous input and output, which has no content
                raise
    elif not keeps:
        found[name] = replace(found[name], go_keeps_no_zeros=False)


def keeps_no_zeros(environment: bytes) -> bool:
    """Whether an environment, as in /proc/PID/environ, makes Go not rely on zeros."""
    for variable in environment.split(b"\0"):
        if variable.startswith(b"GODEBUG="):
            return _GO_SETTING in variable.removeprefix(b"GODEBUG=").split(b",")
    return False


def read_program(path: Path) -> Program:
    """Read an executable file.

    Raises:
        OSError: it cannot be read.
        ValueError, struct.error: it is not 64-bit little-endian ELF, or is damaged.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        segments = _read_segments(descriptor)
        names = _read_names(descriptor, segments)
        return Program(
            interpreter=_read_interpreter(descriptor, segments),
            calls_madvise=any(call in names for call in _CALLS),
            go=_find_go(descriptor, segments),
        )


@dataclass(frozen=True)
class _Segment:
    kind: int
    flags: int
    offset: int
    address: int
    size: int


def _read_segments(file: int) -> list[_Segment]:
    ident, _, _, _, _, start, _, _, _, size, count = _HEADER.unpack(_read(file, 0, _HEADER.size))
    if not ident.startswith(_MAGIC_64_LITTLE) or size != _SEGMENT.size:
        raise ValueError("not ELF, of 64 bits and little-endian")
    entries = _SEGMENT.iter_unpack(_read(file, start, size * count))
    return [_Segment(kind, flags, at, address, size) for kind, flags, at, address, _, size, _, _ in entries]


def _read_interpreter(file: int, segments: list[_Segment]) -> str:
    for segment in segments:
        if segment.kind == _INTERPRETER:
            return Path(os.fsdecode(_read(file, segment.offset, segment.size).rstrip(b"\0"))).name
    return ""


def _read_names(file: int, segments: list[_Segment]) -> bytes:
    """Read the names of the dynamic symbols. A name may be stored as the end of another."""
    for segment in segments:
        if segment.kind == _DYNAMIC_SEGMENT:
            entries = dict(_DYNAMIC.iter_unpack(_read(file, segment.offset, segment.size)))
            address, size = entries.get(_STRING_TABLE, 0), entries.get(_STRING_TABLE_SIZE, 0)
            return _read(file, _find_offset(segments, address), size)
    return b""


def _find_offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise ValueError(f"nothing is loaded at {address:#x}")


def _find_go(file: int, segments: list[_Segment]) -> tuple[int, int] | None:
    for segment in segments:
        if segment.kind == _LOAD and segment.flags & _WRITABLE:
            data = _read(file, segment.offset, segment.size)
            for at in _find_all(data, _GO_MAGIC):
                if (segment.address + at) % _GO_ALIGNMENT == 0:
                    return _read_go_version(data[at:])
    return None


def _find_all(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1)


def _read_go_version(info: bytes) -> tuple[int, int]:
    """Read the Go version. Since Go 1.18 it follows the 32-byte header, prefixed with its length."""
    if len(info) > 33 and info[15] & _GO_INLINE:
        match = _GO_VERSION.match(info[33 : 33 + info[32]])
        if match:
            return int(match[1]), int(match[2])
    return 0, 0


def _read(file: int, offset: int, size: int) -> bytes:
    if size > _MAX_PART_BYTES or offset + size > os.fstat(file).st_size:
        raise ValueError(f"{size} bytes at {offset:#x} are not there")
    return os.pread(file, size, offset)
