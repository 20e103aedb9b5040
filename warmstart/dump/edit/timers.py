"""Let periodic timers go on that had expired when they were dumped.

The kernel sets such a timer anew only when its descriptor is read. Until then /proc/PID/fdinfo shows no next
expiration, and CRIU restores a timer that is not set (`parse_timerfd` in `criu/proc_parse.c`): a read returns the
expirations so far, and the next one waits for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import edit_image


def restart_timers(directory: Path) -> int:
    """Let each expired periodic timer (timerfd_create(2)) of a dump expire again one interval after the restore.

    Returns:
        Number of these timers.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    return edit_image(directory / "files.img", protos.File, _restart)


def _restart(file: Any) -> bool:
    timer = file.tfd
    if file.type != FileType.TIMER or not timer.ticks or timer.vsec or timer.vnsec:
        return False
    if not (timer.isec or timer.insec):  # it has expired once and for all
        return False
    timer.vsec, timer.vnsec = timer.isec, timer.insec
    return True
