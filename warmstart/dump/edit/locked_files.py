"""Let the owner of a file open it again at a restore, if its mode does not.

A lock file is often made with mode 0400 and stays open for writing. An image that restores itself has no privilege to
open it so. The launcher makes it readable and writable for its owner meanwhile (`launcher/src/seed.c`), and CRIU, which
refuses a file whose mode has changed (`validate_file` in `criu/files-reg.c`), must not know the mode.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image

_NEEDED = {os.O_RDONLY: stat.S_IRUSR, os.O_WRONLY: stat.S_IWUSR, os.O_RDWR: stat.S_IRUSR | stat.S_IWUSR}


def unlock_files(directory: Path) -> tuple[str, ...]:
    """Make a dump restore with any modes of the files that their owners could not open, and return their paths.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    paths: list[str] = []

    def unlock(file: Any) -> bool:
        if file.type != FileType.REGULAR or not _is_locked(file.reg):
            return False
        paths.append("/" + os.fsdecode(file.reg.name).lstrip("/"))
        file.reg.ClearField("mode")
        return True

    edit_image(directory / "files.img", protos.File, unlock)
    return tuple(dict.fromkeys(paths))


def _is_locked(file: Any) -> bool:
    if not file.HasField("mode") or not stat.S_ISREG(file.mode) or file.flags & os.O_PATH:
        return False
    needed = _NEEDED.get(file.flags & os.O_ACCMODE, 0)
    return bool(needed & ~file.mode)
