"""Tell from batches of attempts whether an application has become as fast as it gets.

A just-in-time compiler works in waves: code gets faster when it has run often enough, and then for a while it does
not. So one batch that is no better than the last says little. The application is steady once some batches in a row
bring no gain, neither in latency nor in processor time. Processor time counts all threads, among them compilers and
collectors: while they work, it is high, so that it still falls later.

A wave may also come after that. HotSpot compiles a method once it has run some thousand times, so those that run once
for a request are all due at about the same request. If the checkpoint is taken just before, each container that is
restored from it compiles the same methods in its first requests. So the compilers must have little left to do, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Batches in a row that must bring no gain.
WINDOW = 4
#: A gain is at least this share of the best value before.
GAIN = 0.05
#: The largest share of the processor time of these batches that compilers may use.
COMPILING = 0.1


@dataclass(frozen=True)
class Batch:
    """Some attempts of a step.

    Attributes:
        attempts: their number.
        latency_s: median of their durations.
        cpu_s: processor time of the whole container for each of them.
        compiling_s: the part of it that just-in-time compilers used.
    """

    attempts: int
    latency_s: float
    cpu_s: float
    compiling_s: float = 0.0

    def __str__(self) -> str:
        compiling = f", {self.compiling_s * 1000:.1f} ms of it to compile" if self.compiling_s else ""
        return f"{self.latency_s * 1000:.1f} ms and {self.cpu_s * 1000:.1f} ms of processor time each{compiling}"


def is_steady(batches: Sequence[Batch]) -> bool:
    """Tell whether the last batches brought no gain, and compilers had little to do in them."""
    measures: tuple[Callable[[Batch], float], ...] = (lambda batch: batch.latency_s, lambda batch: batch.cpu_s)
    return (
        len(batches) > WINDOW
        and not any(_gains([measure(batch) for batch in batches]) for measure in measures)
        and not _compiles(batches[-WINDOW:])
    )


def _compiles(batches: Sequence[Batch]) -> bool:
    """Tell whether compilers used more than their share."""
    return sum(batch.compiling_s for batch in batches) > COMPILING * sum(batch.cpu_s for batch in batches)


def _gains(values: Sequence[float]) -> bool:
    """Tell whether the best of the last values is clearly below the best of those before."""
    return min(values[-WINDOW:]) < min(values[:-WINDOW]) * (1 - GAIN)
