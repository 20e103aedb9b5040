"""Invented benchmark results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from warmstart.bench.measure import Burst, Start, Way
from warmstart.bench.memory import Memory
from warmstart.bench.requests import Requests, Use, find_ends
from warmstart.bench.result import Bench, Load, Machine, Series
from warmstart.recipe.model import Restorer

MIB = 1 << 20
BASE_LAYER = "sha256:base"
MACHINE = Machine("Processor 3000", 2, 8 << 30, "6.1", "cri-o 1.36.3", "4.2.1", (0.5, 1.5))


def make_start(total_s: float, own_mib: int = 100, requests_s: Sequence[float] = ()) -> Start:
    """Make a start of this duration: one tenth for creating the container, and one tenth for the first response."""
    memory = Memory(own_mib * MIB, 30 * MIB, (own_mib + 10) * MIB, (own_mib + 5) * MIB)
    return Start(0.05, total_s * 0.1, total_s * 0.8, total_s * 0.1, memory, total_s, make_requests(requests_s, own_mib))


def make_requests(durations_s: Sequence[float], own_mib: int = 100, share: float = 0.5) -> Requests:
    """Make requests of these durations; a share of it is processor time, most of it of a thread `server`."""
    uses = []
    for end in find_ends(len(durations_s)):
        cpu_s = share * sum(durations_s[:end])
        uses.append(Use(end, cpu_s, 10 * end, own_mib * MIB, {"server": cpu_s * 0.75, "timer": cpu_s * 0.01}))
    return Requests(tuple(durations_s), tuple(uses))


def make_series(name: str, starts: Sequence[Start], burst: Burst | None = None, failures: Sequence[str] = ()) -> Series:
    """Make the results for one way of starting."""
    layers = {BASE_LAYER: 50 * MIB} if name == "cold" else {BASE_LAYER: 50 * MIB, f"sha256:{name}": 20 * MIB}
    restorers = {"plain": Restorer.RUNTIME, "mapped": Restorer.RUNTIME, "self": Restorer.SELF}
    way = Way(name, f"localhost/bench:{name}", "" if name == "cold" else "identity", restorers.get(name))
    return Series(way, layers, 0.0 if name == "cold" else 1.5, 0.7, tuple(starts), tuple(failures), burst)


def make_bench(*series: Series, load: Load | None = None, **fields: object) -> Bench:
    """Make a whole benchmark."""
    return Bench(
        **{
            "subject": "app",
            "began": datetime(2025, 1, 2, 3, 4, tzinfo=UTC),
            "machine": MACHINE,
            "load": load or Load(rounds=len(series[0].starts)),
            "series": series,
            "warmed": (),
            "pages_bytes": 200 * MIB,
            "notes": (),
            **fields,
        }
    )


def make_full_bench(**fields: object) -> Bench:
    """Make a benchmark with three ways of starting, requests, replicas, and a failure."""
    requests = (0.02, 0.003, 0.002)
    memory = Memory(800 * MIB, 100 * MIB, 850 * MIB, 810 * MIB)
    burst = Burst((4.0, 5.0), (), memory, (6000 * MIB, 5000 * MIB))
    failed = Burst((0.5,), ("it did not",), memory, (6000 * MIB, 5900 * MIB))
    return make_bench(
        make_series("cold", [make_start(total_s, requests_s=requests) for total_s in (3.0, 3.2, 4.0)], burst),
        make_series("plain", [make_start(total_s, requests_s=requests) for total_s in (0.5, 0.6, 0.9)], burst),
        make_series("mapped", [make_start(total_s, 20, requests) for total_s in (0.2, 0.21)], failed, ["no restore"]),
        **{
            "load": Load(rounds=3, replicas=2, requests=3),
            "warmed": (make_requests(requests, share=0.25),),
            "notes": ("something was left out",),
            **fields,
        },
    )
