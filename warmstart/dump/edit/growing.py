"""Let files that an application appends to have any size at a restore.

CRIU refuses an open file whose size has changed (`validate_file` in `criu/files-reg.c`). A log on a volume that
outlives the container, such as an emptyDir, has grown when the container is restarted. Writes with O_APPEND go to its
end, whatever its size is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image


def clear_growing_sizes(directory: Path) -> None:
    """Make a dump restore with any sizes of the files that are open for appending.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    edit_image(directory / "files.img", protos.File, _clear_size)


def _clear_size(file: Any) -> bool:
    if file.type != FileType.REGULAR or not file.reg.flags & os.O_APPEND:
        return False
    file.reg.ClearField("size")
    return True
