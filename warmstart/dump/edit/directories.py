"""Frees a dump of the modes of the directories that are open in it.

CRIU restores a directory that a process is in, or has open, only where it has the mode that it had (`validate_file` in
criu/files-reg.c of https://github.com/checkpoint-restore/criu, 4.2). But that differs from place to place: containerd
makes the root of an image whose layers do not speak of it 0755, where CRI-O and Podman make it 0555, and a volume in
the place of /tmp is not what the image had there.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image


def forget_directory_modes(directory: Path) -> None:
    """Have the directories of a dump opened whatever their modes are.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    edit_image(directory / "files.img", protos.File, _forget_mode)


def _forget_mode(file: Any) -> bool:
    if file.type != FileType.REGULAR or not stat.S_ISDIR(file.reg.mode):
        return False
    file.reg.ClearField("mode")
    return True
