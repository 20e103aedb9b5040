"""Tell in which process and mapping a byte of a checkpoint's memory is.

The descriptions of processes, mappings and pages are kept as a search passes them, in whatever order they arrive; the
pages themselves are not. A checkpoint is untrusted: if it is not understood, a place is an offset in a file of it.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from warmstart.core.errors import ArchiveError
from warmstart.core.text import printable
from warmstart.dump.archive.archive import CHECKPOINT_DIRECTORY
from warmstart.dump.criu.contents import (
    Mapping,
    PageRun,
    Process,
    VmaStatus,
    has_memory,
    read_files,
    read_mappings,
    read_pagemap,
    read_processes,
    read_shared_pagemaps,
)
from warmstart.dump.criu.threads import Thread, read_threads
from warmstart.image.secrets.scan import Spot
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY, MEMORY_OF_RUNTIME, TOUCHED_MEMORY

_DESCRIPTIONS = ("inventory.img", "pstree.img", "core-*.img", "mm-*.img", "pagemap-*.img", "files.img")
_PAGES = "pages-*.img"
# Many times those of the largest applications.
_LIMIT_BYTES = 512 << 20
_MOST_FILES = 50_000
_MOST_PIECES = 4_000_000
# The memory files of an image, and the checkpoint whose processes map each.
_MEMORY_FILES = {
    MEMORY: f"{DIRECTORY}/{CHECKPOINT_DIRECTORY}",
    TOUCHED_MEMORY: f"{DIRECTORY}/{CHECKPOINT_DIRECTORY}",
    MEMORY_OF_RUNTIME: CHECKPOINT_DIRECTORY,
}
_OTHERS = {"ghost-file-": "a deleted file", "pipes-data": "a pipe", "sk-queues": "a socket", "tmpfs-": "a tmpfs"}


class Locator:
    """Tells where the bytes of checkpoints are; an empty `directory` takes their descriptions."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._left_bytes = _LIMIT_BYTES
        self._dumps: dict[str, _Dump] = {}
        self._files = 0

    def keep(self, member: str, size_bytes: int, content: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of a file of an image, and keep it if it describes a checkpoint."""
        directory, name = posixpath.split(member)
        is_described = any(fnmatch(name, pattern) for pattern in _DESCRIPTIONS)
        is_known = directory in _MEMORY_FILES.values() and "\0" not in name
        if not is_known or self._files >= _MOST_FILES or not (is_described or fnmatch(name, _PAGES)):
            yield from content
            return
        self._files += 1
        target = self._open(directory) / name
        if not is_described:
            with target.open("wb") as file:
                file.truncate(size_bytes)
            yield from content
            return
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            yield from content
            return
        with target.open("wb") as file:
            for piece in content:
                file.write(piece)
                yield piece

    def locate(self, spot: Spot) -> str:
        """Return where an occurrence is, for a user."""
        if spot.path:
            return spot.path
        if not spot.member:
            return spot.place if spot.place == "names of files" else f"{spot.place}, offset {spot.offset}"
        directory, name = posixpath.split(spot.member)
        if spot.member in _MEMORY_FILES:
            dump, file = self._dumps.get(_MEMORY_FILES[spot.member]), f"/{spot.member}"
        else:
            dump, file = self._dumps.get(directory), name
        found = dump.find(file, spot.offset) if dump else None
        if found is not None:
            return found
        kind = next((text for prefix, text in _OTHERS.items() if name.startswith(prefix)), spot.place)
        file = kind if spot.member in _MEMORY_FILES else f"{kind}: {printable(name)}"
        return f"{file}, offset {spot.offset}"

    def _open(self, directory: str) -> Path:
        path = self._directory / str(list(_MEMORY_FILES.values()).index(directory))
        if directory not in self._dumps:
            path.mkdir()
            self._dumps[directory] = _Dump(path)
        return path


@dataclass(frozen=True)
class _Piece:
    """A range of a file that is memory of a process: of `size_bytes` from `offset`, at this address.

    Shared memory is of no process, and the address is an offset in it.
    """

    offset: int
    size_bytes: int
    address: int
    process: Process | None


class _Dump:
    """The processes of a checkpoint, and which bytes of its files are their memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mappings: dict[int, tuple[Mapping, ...]] = {}
        self._threads: dict[int, tuple[Thread, ...]] = {}

    def find(self, file: str, offset: int) -> str | None:
        """Return the process, the mapping and the address of a byte; None if they are not known."""
        pieces = self._pieces.get(file, [])
        at = bisect_right(pieces, offset, key=lambda piece: piece.offset) - 1
        if at < 0 or offset >= pieces[at].offset + pieces[at].size_bytes:
            return None
        piece = pieces[at]
        address = piece.address + offset - piece.offset
        if piece.process is None:
            return f"shared memory, offset {address}"
        mapping = self._describe(piece.process.pid, address)
        return f"process {piece.process.pid} ({printable(piece.process.comm)}), {mapping}, {address:#x}"

    @cached_property
    def _pieces(self) -> dict[str, list[_Piece]]:
        found: dict[str, list[_Piece]] = defaultdict(list)
        left = _MOST_PIECES
        try:
            files, self._threads = read_files(self._directory), read_threads(self._directory)
            for process in read_processes(self._directory):
                if has_memory(self._directory, process.pid):
                    mappings = self._mappings[process.pid] = read_mappings(self._directory, process.pid, files)
                    for mapping in mappings:
                        if mapping.file:
                            size_bytes = mapping.end - mapping.start
                            found[mapping.file].append(_Piece(mapping.file_offset, size_bytes, mapping.start, process))
                    pagemap = read_pagemap(self._directory, process.pid)
                    left -= len(mappings) + len(pagemap.runs)
                    if left < 0:
                        break
                    found[pagemap.pages_file.name] += _list_runs(pagemap.runs, process)
            for pagemap in read_shared_pagemaps(self._directory):
                found[pagemap.pages_file.name] += _list_runs(pagemap.runs, None)
        except ArchiveError:
            return {}
        return {file: sorted(pieces, key=lambda piece: piece.offset) for file, pieces in found.items()}

    def _describe(self, pid: int, address: int) -> str:
        mapping = next((one for one in self._mappings[pid] if one.start <= address < one.end), None)
        if mapping is None:
            return "no mapping"
        if mapping.status & VmaStatus.HEAP:
            return "[heap]"
        if mapping.status & VmaStatus.STACK or mapping.grows_down:
            return "[stack]"
        if mapping.file and mapping.file.removeprefix("/") not in _MEMORY_FILES:
            return printable(mapping.file)
        thread = next((one for one in self._threads[pid] if one.has_stack(mapping.start, mapping.end)), None)
        if thread is not None:
            return f"[stack of thread {thread.tid}]"
        return "shared memory" if mapping.status & VmaStatus.ANON_SHARED else "anonymous memory"


def _list_runs(runs: Iterable[PageRun], process: Process | None) -> Iterator[_Piece]:
    for run in runs:
        if run.offset is not None:
            yield _Piece(run.offset, run.end - run.start, run.start, process)
