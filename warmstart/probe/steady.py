"""Tell from batches of attempts whether an application has become as fast as it gets.

A just-in-time compiler works in waves: code gets faster when it has run often enough, and then for a while it does
not. So one batch that is no better than the last says little. The application is steady once some batches in a row
bring no gain, neither in latency nor in processor time. Processor time counts all threads, among them compilers and
collectors: while they work, it is high, so that it still falls later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Batches in a row that must bring no gain.
WINDOW = 4
#: A gain is at least this share of the best value before.
GAIN = 0.05


@dataclass(frozen=True)
class Batch:
    """Some attempts of a step.

    Attributes:
        attempts: their number.
        latency_s: median of their durations.
        cpu_s: processor time of the whole container for each of them.
    """

    attempts: int
    latency_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.latency_s * 1000:.1f} ms and {self.cpu_s * 1000:.1f} ms of processor time each"


def is_steady(batches: Sequence[Batch]) -> bool:
    """Tell whether the last batches brought no gain."""
    measures: tuple[Callable[[Batch], float], ...] = (lambda batch: batch.latency_s, lambda batch: batch.cpu_s)
    return len(batches) > WINDOW and not any(_gains([measure(batch) for batch in batches]) for measure in measures)


def _gains(values: Sequence[float]) -> bool:
    """Tell whether the best of the last values is clearly below the best of those before."""
    return min(values[-WINDOW:]) < min(values[:-WINDOW]) * (1 - GAIN)
