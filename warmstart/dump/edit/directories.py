"""Remove the modes of open directories from a dump.

CRIU restores an open or current directory only if its mode is unchanged (`validate_file` in criu/files-reg.c of
https://github.com/checkpoint-restore/criu, 4.2). But modes differ between nodes: if no layer of an image contains the
root directory, containerd creates it with mode 0755, CRI-O and Podman with 0555, or with 0755 if the layer above is in
Stargz Store. A volume mounted at /tmp may also have a different mode than the image's /tmp.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image


def clear_directory_modes(directory: Path) -> None:
    """Make a dump restore with any modes of its open directories.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    edit_image(directory / "files.img", protos.File, _clear_mode)


def _clear_mode(file: Any) -> bool:
    if file.type != FileType.REGULAR or not stat.S_ISDIR(file.reg.mode):
        return False
    file.reg.ClearField("mode")
    return True
