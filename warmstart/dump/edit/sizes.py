"""Let open files have another size at a restore, if they are expected to.

CRIU refuses an open file whose size has changed (`validate_file` in `criu/files-reg.c`). A log on a volume that
outlives the container, such as an emptyDir, has grown when the container is restarted. Writes with O_APPEND go to its
end, whatever its size is. And each pod has its own /etc/hosts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image

#: Files that a runtime or the kubelet makes for each pod.
FILES_OF_POD = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"})


def clear_sizes_of_pod(directory: Path) -> None:
    """Make a dump restore with any sizes of the files that each pod has its own of.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    edit_image(directory / "files.img", protos.File, _clear_size_of_pod)


def _clear_size_of_pod(file: Any) -> bool:
    name = "/" + os.fsdecode(file.reg.name).strip("/")
    if file.type != FileType.REGULAR or name not in FILES_OF_POD or not file.reg.HasField("size"):
        return False
    file.reg.ClearField("size")
    return True


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
