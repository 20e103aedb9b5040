"""How long a dump took, as CRIU itself has counted it.

Source: `images/stats.proto` and `criu/stats.c` of https://github.com/checkpoint-restore/criu (4.2).
"""

from __future__ import annotations

from pathlib import Path

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import decode, read_only_entry


def read_frozen_s(stats_dump: Path) -> float:
    """The seconds for which CRIU held the processes frozen.

    Args:
        stats_dump: the file `stats-dump` that it wrote.

    Raises:
        ArchiveError: it is missing or not understood.
    """
    message = decode(stats_dump, read_only_entry(stats_dump), protos.Stats)
    microseconds: int = message.dump.freezing_time + message.dump.frozen_time
    return microseconds / 1e6
