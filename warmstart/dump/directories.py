"""Frees a dump of the modes of the directories that are open in it.

CRIU restores a directory that a process is in, or has open, only where it has the mode that it had (`validate_file` in
criu/files-reg.c of https://github.com/checkpoint-restore/criu, 4.2). But that differs from place to place: containerd
makes the root of an image whose layers do not speak of it 0755, where CRI-O and Podman make it 0555, and a volume in
the place of /tmp is not what the image had there.
"""

from __future__ import annotations

import stat
from pathlib import Path

from warmstart.dump import protos
from warmstart.dump.contents import FileType
from warmstart.dump.images import decode, read_image, write_image


def forget_directory_modes(directory: Path) -> None:
    """Have the directories of a dump opened whatever their modes are.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    path = directory / "files.img"
    entries = []
    for entry in read_image(path):
        file = decode(path, entry, protos.File)
        if file.type == FileType.REGULAR and stat.S_ISDIR(file.reg.mode):
            file.reg.ClearField("mode")
            entry = entry.replaced_by(file)
        entries.append(entry)
    write_image(path, entries)
