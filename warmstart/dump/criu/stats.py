"""Read CRIU's own timing of a dump.

Source: `images/stats.proto` and `criu/stats.c` of https://github.com/checkpoint-restore/criu (4.2).
"""

from __future__ import annotations

from pathlib import Path

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import decode, read_only_entry


def read_frozen_s(stats_dump: Path) -> float:
    """Return how long CRIU froze the processes, in seconds.

    Args:
        stats_dump: CRIU's file `stats-dump`.

    Raises:
        ArchiveError: the file is missing or not understood.
    """
    message = decode(stats_dump, read_only_entry(stats_dump), protos.Stats)
    microseconds: int = message.dump.freezing_time + message.dump.frozen_time
    return microseconds / 1e6
