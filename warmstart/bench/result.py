"""What a benchmark has measured: frozen, with the few figures that stand for many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from warmstart.bench.measure import Burst, Start, Way

COLD, PLAIN, MAPPED = "cold", "plain", "mapped"
# A restore that is not faster by half is not worth an image that has to be built and kept up.
WORTH_RATIO = 1.5


@dataclass(frozen=True)
class Load:
    """How much to measure.

    Attributes:
        rounds: starts of each way.
        replicas: start so many at once, too; 0 for none.
        requests: after each start, time so many requests; 0 for none.
    """

    rounds: int = 20
    replicas: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Spread:
    """Many figures in five. Percentiles are figures that were measured (nearest rank), not between two."""

    median: float
    p95: float
    p99: float
    smallest: float
    largest: float

    @staticmethod
    def of(figures: Sequence[float]) -> Spread:
        """The spread of at least one figure."""
        ordered = sorted(figures)

        def rank(share: float) -> float:
            return ordered[math.ceil(share * len(ordered)) - 1]

        return Spread(median(ordered), rank(0.95), rank(0.99), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Latency:
    """How long requests took, in seconds: of each batch of first requests a figure, and of these the median.

    Attributes:
        first_s: the first request.
        p50_s: half of the batch took no longer.
        p99_s: 99 of 100 took no longer.
    """

    first_s: float
    p50_s: float
    p99_s: float

    @staticmethod
    def of(batches: Sequence[Sequence[float]]) -> Latency | None:
        """The latency in batches that are not empty; None where there are none."""
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
    """What one way of starting was seen to take.

    Attributes:
        way: how.
        layers: the compressed size of each layer of the image in bytes, by digest.
        pack_s: seconds that it took to make the image of the checkpoint; 0 where that was not done.
        import_s: seconds until the image was in the node's store, where the layers of the way before were already.
        starts: those that succeeded, at least one.
        failures: why others did not.
        burst: many at once; None when not asked for, or not possible.
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
        """From the request to create the container until the probe succeeded, in seconds."""
        return Spread.of([start.total_s for start in self.starts])

    def median_of(self, step: str) -> float:
        """The median of one attribute of the starts, such as `create_s`, or of their memory, such as `file_bytes`."""
        figures: list[float] = [getattr(s if hasattr(s, step) else s.memory, step) for s in self.starts]
        return median(figures)

    @property
    def latency(self) -> Latency | None:
        """Of the first requests."""
        return Latency.of([start.requests_s for start in self.starts])


@dataclass(frozen=True)
class Machine:
    """Where it was measured; `load` is the load average of one minute before and after."""

    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    runtime: str
    criu: str
    load: tuple[float, float]


@dataclass(frozen=True)
class Bench:
    """All that was measured.

    Attributes:
        subject: of what: a recipe's name, or an image's.
        began: when.
        machine: where.
        load: how much was asked for.
        series: by way of starting, the cold one first.
        dumped_requests_s: the same requests in the process that was dumped, right after that, in as many batches.
        pages_bytes: the memory that was dumped.
        notes: what was left out, and why.
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
        """The series of a way, if there is one."""
        return next((series for series in self.series if series.way.name == name), None)

    @property
    def cold(self) -> Series:
        """The series of cold starts."""
        return self.series[0]

    @property
    def best(self) -> Series:
        """The restored series that is the fastest."""
        return min(self.series[1:], key=lambda series: series.total.median)

    @property
    def ratio(self) -> float:
        """How many times faster the best restored start is than a cold one, by their medians."""
        return self.cold.total.median / self.best.total.median

    @property
    def is_worth_it(self) -> bool:
        """Whether restoring gains anything to speak of."""
        return self.ratio >= WORTH_RATIO

    def added_bytes(self, series: Series) -> int:
        """The compressed size of the layers that an image has beside those of the cold one."""
        if series is self.cold:
            return 0
        return sum(size for digest, size in series.layers.items() if digest not in self.cold.layers)

    @property
    def dumped_latency(self) -> Latency | None:
        """Of requests to the process that was dumped."""
        return Latency.of(self.dumped_requests_s)
