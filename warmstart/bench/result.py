"""The results of a benchmark, and the few figures that summarize them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from warmstart.bench.measure import Burst, Start, Way

COLD, PLAIN, MAPPED = "cold", "plain", "mapped"
# A restore below this ratio is not worth an image that must be built and maintained.
WORTH_RATIO = 1.5


@dataclass(frozen=True)
class Load:
    """The amount of measurements.

    Attributes:
        rounds: number of starts of each way.
        replicas: number of replicas to also start at once; 0 for none.
        requests: number of requests to time after each start; 0 for none.
    """

    rounds: int = 20
    replicas: int = 0
    requests: int = 0


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
class Latency:
    """The latency of requests, in seconds: the median over all batches of a figure of each batch.

    Attributes:
        first_s: latency of the first request.
        p50_s: 50th percentile of the batch.
        p99_s: 99th percentile of the batch.
    """

    first_s: float
    p50_s: float
    p99_s: float

    @staticmethod
    def of(batches: Sequence[Sequence[float]]) -> Latency | None:
        """Return the latency in batches that are not empty; None if there are none."""
        spreads = [Spread.of(batch) for batch in batches if batch]
        if not spreads:
            return None
        return Latency(
            median(batch[0] for batch in batches if batch),
            median(spread.median for spread in spreads),
            median(spread.p99 for spread in spreads),
        )


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

    @property
    def latency(self) -> Latency | None:
        """The latency of the first requests."""
        return Latency.of([start.requests_s for start in self.starts])


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
        dumped_requests_s: the same requests to the dumped process, right after the dump, in as many batches.
        pages_bytes: size of the dumped memory.
        notes: omitted measurements, with reasons.
    """

    subject: str
    began: datetime
    machine: Machine
    load: Load
    series: tuple[Series, ...]
    dumped_requests_s: tuple[tuple[float, ...], ...]
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

    @property
    def dumped_latency(self) -> Latency | None:
        """The latency of requests to the dumped process."""
        return Latency.of(self.dumped_requests_s)
