"""Cancel the parent-death signal: the parent of a restored first process exits after the restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import read_cores
from warmstart.dump.criu.entries import decode, edit_image, read_image


def clear_parent_death_signals(directory: Path) -> int:
    """Cancel the signal that the first process of a dump gets when its parent ends (PR_SET_PDEATHSIG).

    It would be sent as soon as CRIU has restored the process (`restore_pdeath_sig` in `criu/pie/restorer.c`). Other
    processes keep theirs, since their parents are restored with them.

    Returns:
        Number of its threads that had requested the signal.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    path = directory / "pstree.img"
    processes = (decode(path, entry, protos.Process) for entry in read_image(path))
    firsts = {process.pid for process in processes if process.ppid == 0}
    threads = [thread for pid, cores in read_cores(directory).items() if pid in firsts for thread in cores]
    return sum(edit_image(directory / f"core-{thread}.img", protos.Core, _clear_signal) for thread in threads)


def _clear_signal(core: Any) -> bool:
    has_signal = bool(core.thread_core.pdeath_sig)
    if has_signal:
        core.thread_core.ClearField("pdeath_sig")
    return has_signal
