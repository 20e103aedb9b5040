"""The results of a benchmark, and the few figures that summarize them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from statistics import median

from warmstart.bench.measure import Burst, Start, Way
from warmstart.bench.requests import Requests, Use

COLD, PLAIN, MAPPED, SELF = "cold", "plain", "mapped", "self"
# A trend of the lead goes on after the last requests if it is that of so many.
TREND_REQUESTS = 50
# A restore below this ratio is not worth an image that must be built and maintained.
WORTH_RATIO = 1.5


@dataclass(frozen=True)
class Load:
    """The amount of measurements.

    Attributes:
        rounds: number of starts of each way.
        replicas: number of replicas to also start at once; 0 for none.
        requests: number of requests to time after each start; 0 for none.
        idle_s: seconds to wait before the first of them.
        warmed: number of processes to warm up without a checkpoint, and to send the same requests.
        cold_cache: whether the page cache of the whole machine is dropped before each start.
    """

    rounds: int = 20
    replicas: int = 0
    requests: int = 0
    idle_s: float = 0.0
    warmed: int = 0
    cold_cache: bool = False


@dataclass(frozen=True)
class Spread:
    """Five figures that summarize many. Percentiles are measured figures (nearest rank), not interpolated."""

    median: float
    p95: float
    p99: float
    smallest: float
    largest: float

    @staticmethod
    def of(figures: Sequence[float]) -> Spread:
        """Return the spread of one or more figures."""
        ordered = sorted(figures)

        def rank(share: float) -> float:
            return ordered[math.ceil(share * len(ordered)) - 1]

        return Spread(median(ordered), rank(0.95), rank(0.99), ordered[0], ordered[-1])


@dataclass(frozen=True)
class First:
    """The first requests after a start: the median over all starts of each figure.

    Attributes:
        requests: their number.
        total_s: duration of all.
        p50_s: 50th percentile of their durations.
        p99_s: 99th percentile of their durations.
        cpu_s: processor time, per request.
        faults: minor page faults, per request.
        anonymous_bytes: private memory after them.
        threads_s: processor time by the name of the thread, per request, the busiest first.
    """

    requests: int
    total_s: float
    p50_s: float
    p99_s: float
    cpu_s: float
    faults: float
    anonymous_bytes: float
    threads_s: Mapping[str, float]

    @staticmethod
    def of(runs: Sequence[Requests]) -> tuple[First, ...]:
        """Return the figures of the first 1, 10, 100, ... requests in runs of the same length.

        Runs without requests are left out. Without any, there are no figures.
        """
        runs = [run for run in runs if run.uses]
        return tuple(
            _sum_up(uses, [run.durations_s[: uses[0].requests] for run in runs])
            for uses in zip(*(run.uses for run in runs), strict=True)
        )


def _sum_up(uses: Sequence[Use], durations_s: Sequence[Sequence[float]]) -> First:
    count, spreads = uses[0].requests, [Spread.of(batch) for batch in durations_s]
    names = {name for use in uses for name in use.threads_s}
    threads_s = {name: median(use.threads_s.get(name, 0.0) for use in uses) / count for name in names}
    return First(
        requests=count,
        total_s=median(sum(batch) for batch in durations_s),
        p50_s=median(spread.median for spread in spreads),
        p99_s=median(spread.p99 for spread in spreads),
        cpu_s=median(use.cpu_s for use in uses) / count,
        faults=median(use.faults for use in uses) / count,
        anonymous_bytes=median(use.anonymous_bytes for use in uses),
        threads_s=dict(sorted(threads_s.items(), key=lambda item: -item[1])),
    )


@dataclass(frozen=True)
class Lead:
    """A restored start's lead over a cold one, in seconds: of time for a client, or of processor time.

    Attributes:
        ready_s: lead when both are ready.
        end_s: lead after the measured requests.
        requests: number of requests after which the lead is used up, about; infinite if it is not used up, and None if
            the measured requests do not show it.
    """

    ready_s: float
    end_s: float
    requests: float | None

    @staticmethod
    def of(ready_s: float, gains: Sequence[tuple[int, float]]) -> Lead:
        """Return the lead.

        Args:
            ready_s: lead when both are ready.
            gains: number of the first requests, and the seconds that the lead grows by them; negative if it shrinks.
        """
        course = [(0, ready_s), *((count, ready_s + gain) for count, gain in gains)]
        (before, then), (count, end_s) = course[-2:]
        if ready_s < 0:
            return Lead(ready_s, end_s, 0.0)
        for (start, lead), (stop, next_lead) in pairwise(course):
            if next_lead < 0:
                return Lead(ready_s, end_s, start + (stop - start) * lead / (lead - next_lead))
        if end_s >= then:
            return Lead(ready_s, end_s, math.inf)
        if count - before < TREND_REQUESTS:
            return Lead(ready_s, end_s, None)
        return Lead(ready_s, end_s, count + (count - before) * end_s / (then - end_s))


@dataclass(frozen=True)
class Series:
    """The measurements of one way of starting.

    Attributes:
        way: way of starting.
        layers: compressed size of each layer of the image in bytes, by digest.
        pack_s: seconds to make the image of the checkpoint; 0 if it was not made.
        import_s: seconds to import the image into the node's store, after the layers of the preceding way.
        starts: successful starts, at least one.
        failures: errors of the other starts.
        burst: starts of many replicas at once; None if not requested or not possible.
    """

    way: Way
    layers: Mapping[str, int]
    pack_s: float
    import_s: float
    starts: tuple[Start, ...]
    failures: tuple[str, ...]
    burst: Burst | None

    @property
    def total(self) -> Spread:
        """The seconds from the request to create the container until the probe succeeded."""
        return Spread.of([start.total_s for start in self.starts])

    def median_of(self, step: str) -> float:
        """Return the median of an attribute of the starts (such as `create_s`) or their memory (`file_bytes`)."""
        figures: list[float] = [getattr(s if hasattr(s, step) else s.memory, step) for s in self.starts]
        return median(figures)

    @cached_property
    def first(self) -> tuple[First, ...]:
        """The first 1, 10, 100, ... requests."""
        return First.of([start.requests for start in self.starts])


@dataclass(frozen=True)
class Machine:
    """The machine of a benchmark; `load` is the one-minute load average before and after."""

    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    runtime: str
    criu: str
    load: tuple[float, float]


@dataclass(frozen=True)
class Bench:
    """A whole benchmark.

    Attributes:
        subject: name of the recipe or image.
        began: time of its start.
        machine: machine it ran on.
        load: requested amount of measurements.
        series: one for each way of starting, the cold one first.
        warmed: the same requests to processes that were not restored: to the dumped one, right after the dump, and to
            others that were warmed up in the same way.
        pages_bytes: size of the dumped memory.
        notes: omitted measurements, with reasons.
    """

    subject: str
    began: datetime
    machine: Machine
    load: Load
    series: tuple[Series, ...]
    warmed: tuple[Requests, ...]
    pages_bytes: int
    notes: tuple[str, ...]

    def find(self, name: str) -> Series | None:
        """Return the series of a way, if there is one."""
        return next((series for series in self.series if series.way.name == name), None)

    @property
    def cold(self) -> Series:
        """The series of cold starts."""
        return self.series[0]

    @property
    def best(self) -> Series:
        """The fastest restored series."""
        return min(self.series[1:], key=lambda series: series.total.median)

    @property
    def ratio(self) -> float:
        """The median of cold starts divided by the median of the best restored starts."""
        return self.cold.total.median / self.best.total.median

    @property
    def is_worth_it(self) -> bool:
        """Whether restoring is faster by WORTH_RATIO or more."""
        return self.ratio >= WORTH_RATIO

    def added_bytes(self, series: Series) -> int:
        """Return the compressed size of an image's layers that the cold one's image lacks."""
        if series is self.cold:
            return 0
        return sum(size for digest, size in series.layers.items() if digest not in self.cold.layers)

    @cached_property
    def warmed_first(self) -> tuple[First, ...]:
        """The first 1, 10, 100, ... requests to processes that were not restored."""
        return First.of(self.warmed)

    def find_leads(self, series: Series) -> tuple[Lead, Lead] | None:
        """Return the lead of a restored series over the cold one, in time and in processor time.

        None if no requests were measured.
        """
        cold, restored = self.cold.first, series.first
        if not cold or not restored:
            return None

        pairs = list(zip(cold, restored, strict=True))
        elapsed = [(one.requests, one.total_s - other.total_s) for one, other in pairs]
        used = [(one.requests, (one.cpu_s - other.cpu_s) * one.requests) for one, other in pairs]
        return (
            Lead.of(self.cold.total.median - series.total.median, elapsed),
            Lead.of(self.cold.median_of("cpu_s") - series.median_of("cpu_s"), used),
        )
