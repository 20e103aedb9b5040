"""Read the programs that a dump's processes execute from the layers of their container's image.

This replaces a look into /proc (`warmstart.dump.edit.programs.read_programs`) if the container is out of reach, as on
a cluster's node. A file that is not at the path in the dump is left out and treated as unknown.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Source, Transport
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, walk_layer
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import has_memory, read_files, read_mappings, read_memory, read_processes
from warmstart.dump.criu.entries import decode, read_only_entry
from warmstart.dump.edit.programs import Program, keeps_no_zeros, read_program
from warmstart.image.layout import Readable
from warmstart.image.open import open_image

_MOST_OF_A_FILE = 1 << 30
_MOST_OF_ALL_FILES = 8 << 30
_MOST_OF_AN_ENVIRONMENT = 1 << 20


def find_programs(checkpoint: Path, changes: Path | None, layout: Path) -> dict[str, Program]:
    """Return programs by their path in the container, as `read_programs` does.

    Args:
        checkpoint: directory of the dump.
        changes: tar of the files that the container changed; None if there are none.
        layout: layout of the container's image.

    Raises:
        ArchiveError: the dump cannot be parsed.
        ImageError: the image is broken.
    """
    users = _find_users(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        files = _Files(set(users), Path(scratch))
        for tar in _list_tars(changes, layout):
            if files.is_complete:
                break
            with tar as content:
                files.collect(content)
        found: dict[str, Program] = {}
        for path, file in files.found.items():
            with contextlib.suppress(ValueError, struct.error):
                keeps = all(users[path])
                found[path] = replace(read_program(file), go_keeps_no_zeros=keeps)
    return found


def _find_users(directory: Path) -> dict[str, list[bool]]:
    """Map each executable file to one flag per process that maps it: whether its Go runtime keeps no zeros."""
    users: dict[str, list[bool]] = {}
    files = read_files(directory)
    for process in read_processes(directory):
        if not has_memory(directory, process.pid):
            continue
        keeps = keeps_no_zeros(_read_environment(directory, process.pid))
        mappings = read_mappings(directory, process.pid, files)
        executed = {one.file for one in mappings if one.file and one.prot & mmap.PROT_EXEC}
        for path in executed:
            users.setdefault(path, []).append(keeps)
    return users


def _read_environment(directory: Path, pid: int) -> bytes:
    """Return the environment as in /proc/PID/environ; empty if the dump does not hold it."""
    path = directory / f"mm-{pid}.img"
    mm = decode(path, read_only_entry(path), protos.Mm)
    size = mm.mm_env_end - mm.mm_env_start
    if not 0 < size <= _MOST_OF_AN_ENVIRONMENT:
        return b""
    return read_memory(directory, pid, mm.mm_env_start, size) or b""


def _list_tars(changes: Path | None, layout: Path) -> Iterator[contextlib.AbstractContextManager[Readable]]:
    """Yield the container's changed files, then the layers from the top: the first match is the file it executed."""
    if changes is not None:
        yield changes.open("rb")
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in reversed(opened.image.manifest.layers):
            yield opened.open_layer(layer)


class _Files:
    """Copies of a container's files in a directory of ours; `found` maps paths in the container to copies."""

    def __init__(self, missing: set[str], scratch: Path) -> None:
        self._paths = missing
        self._scratch = scratch
        self._left_bytes = _MOST_OF_ALL_FILES
        self.found: dict[str, Path] = {}

    @property
    def is_complete(self) -> bool:
        """Whether all files were found."""
        return not self._paths - set(self.found)

    def collect(self, content: Readable) -> None:
        """Copy the missing files that are in this tar."""
        missing = self._paths - set(self.found)
        tar = StreamedTar(content, "a layer of the image")
        try:
            for member in walk_layer(tar):
                path = f"/{member.name}"
                if path in missing:
                    self._take(tar, member, path)
        except ArchiveError as error:
            raise ImageError(error.brief) from error

    def _take(self, tar: StreamedTar, member: Member, path: str) -> None:
        self._left_bytes -= member.size_bytes
        if member.kind is not Kind.FILE or member.size_bytes > _MOST_OF_A_FILE or self._left_bytes < 0:
            # A link, most often. A file of this name in a lower layer was not executed.
            self._paths.discard(path)
            self.found.pop(path, None)
            return
        file = self.found.get(path, self._scratch / str(len(self.found)))
        with file.open("wb") as out:
            out.writelines(tar.read_content(member))
        self.found[path] = file
