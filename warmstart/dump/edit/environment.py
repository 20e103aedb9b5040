"""Add a descriptor for a restored application to read the environment of its new container.

The application's own environment is that of the build. The launcher knows the container's environment and passes it to
CRIU as a sealed memory file (memfd_create(2)). CRIU uses it in place of a regular file of the dump (`--inherit-fd`,
`open_path` in `criu/files-reg.c`). That file never existed: it is added here, with a descriptor for each process. So
the environment is complete, private to the container, immutable, and needs no writable directory. `/.warmstart/env`
is a link to the descriptor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.core.errors import CheckpointError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import Entry, decode, read_image, read_only_entry, write_image

# Also in launcher/src/environment.c, without the slash.
NAME = b"/.warmstart/environment"
LINK = "env"
FIRST = 100  # above the descriptors that most programs open before they are ready
_LIMIT = 7  # RLIMIT_NOFILE


def add_environment(directory: Path) -> int:
    """Add the descriptor to all processes of a dump. Return its number, the lowest from `FIRST` that is free in all.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
        CheckpointError: no number within the processes' limits is free.
    """
    tables = {path: list(read_image(path)) for path in sorted(directory.glob("fdinfo-*.img"))}
    used = {decode(path, entry, protos.Descriptor).fd for path, entries in tables.items() for entry in entries}
    number = next(number for number in range(FIRST, FIRST + len(used) + 1) if number not in used)
    if number >= _find_limit(directory):
        hint = "raise the limit of open files (RLIMIT_NOFILE) of the application"
        raise CheckpointError(f"no descriptor is left for the environment: number {number} is too high", hint=hint)
    identity = _add_file(directory / "files.img")
    descriptor = protos.Descriptor(id=identity, flags=0, type=FileType.REGULAR, fd=number)
    for path, entries in tables.items():
        write_image(path, [*entries, Entry(descriptor.SerializeToString())])
    return number


def link_environment(directory: Path, number: int) -> None:
    """Create the link to the descriptor for a restored application.

    Args:
        directory: future /.warmstart of the image.
        number: the descriptor.
    """
    link = directory / LINK
    link.unlink(missing_ok=True)
    link.symlink_to(f"/proc/self/fd/{number}")


def _add_file(path: Path) -> int:
    entries = list(read_image(path))
    identity = max((decode(path, entry, protos.File).id for entry in entries), default=0) + 1
    file: Any = protos.File(type=FileType.REGULAR, id=identity)
    file.reg.id, file.reg.flags, file.reg.pos, file.reg.name = identity, 0, 0, NAME
    owner = file.reg.fown
    owner.uid = owner.euid = owner.signum = owner.pid_type = owner.pid = 0
    write_image(path, [*entries, Entry(file.SerializeToString())])
    return identity


def _find_limit(directory: Path) -> int:
    """Return the lowest limit of open files among the processes."""
    path = directory / "pstree.img"
    limits = []
    for entry in read_image(path):
        core_path = directory / f"core-{decode(path, entry, protos.Process).pid}.img"
        limits += [
            each.cur
            for each in decode(core_path, read_only_entry(core_path), protos.Core).tc.limits.limits[_LIMIT:][:1]
        ]
    return min(limits, default=1 << 20)
