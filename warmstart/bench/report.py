"""Report a benchmark as a verdict in a sentence, as tables, and as a complete JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from warmstart.bench.result import COLD, MAPPED, PLAIN, Bench, Latency, Series, Spread
from warmstart.core.text import Section, format_bytes, format_seconds

LABELS = {COLD: "cold", PLAIN: "restored, plain", MAPPED: "restored, mapped"}
STEPS = {
    "sandbox_s": "pod sandbox",
    "create_s": "create",
    "start_s": "start or restore",
    "answer_s": "first answer",
}


def find_verdict(bench: Bench) -> str:
    """Return in a sentence or two whether restoring is worth it."""
    cold, best = bench.cold.total.median, bench.best.total.median
    pair = f"{format_seconds(cold)} cold, {format_seconds(best)} restored"
    if not bench.is_worth_it:
        return f"Restoring is not worth it here: {pair}. Start this application as it is."
    return f"A restored start is {bench.ratio:.1f} times as fast as a cold one: {pair}."


def list_bench_sections(bench: Bench) -> tuple[Section, ...]:
    """Return the tables of everything measured, the most important first."""
    sections = [_starts(bench), _steps(bench), _memory(bench)]
    if bench.load.requests:
        sections.append(_requests(bench))
    if any(series.burst for series in bench.series):
        sections.append(_replicas(bench))
    return tuple(sections)


def list_facts(bench: Bench) -> Section:
    """Return the machine, time and method of the benchmark."""
    machine = bench.machine
    rows = (
        ("measured", f"{bench.began:%Y-%m-%d %H:%M} UTC, {bench.load.rounds} rounds, each way once in a round"),
        ("machine", f"{machine.cores} × {machine.processor}, {format_bytes(machine.memory_bytes)}"),
        ("load average", f"{machine.load[0]:.1f} before, {machine.load[1]:.1f} after"),
        ("software", f"Linux {machine.kernel}, {machine.runtime}, CRIU {machine.criu}"),
        ("dumped memory", format_bytes(bench.pages_bytes)),
        *(("note", note) for note in bench.notes),
    )
    return Section("How it was measured", (), rows)


def make_bench_document(bench: Bench) -> Mapping[str, Any]:
    """Return everything for `--json`, with sizes in bytes and times in seconds."""
    return {
        "subject": bench.subject,
        "began": bench.began.isoformat(),
        "machine": asdict(bench.machine),
        "load": asdict(bench.load),
        "verdict": find_verdict(bench),
        "ratio": bench.ratio,
        "worthIt": bench.is_worth_it,
        "dumpedBytes": bench.pages_bytes,
        "series": [_document_series(bench, series) for series in bench.series],
        "dumpedProcess": _document_latency(bench.dumped_latency),
        "notes": list(bench.notes),
    }


def _starts(bench: Bench) -> Section:
    def row(series: Series) -> tuple[str, ...]:
        total = series.total
        return (
            LABELS[series.way.name],
            *map(format_seconds, (total.median, total.p95, total.smallest, total.largest)),
            f"{bench.cold.total.median / total.median:.1f} ×",
            f"{len(series.starts)}" + (f" and {len(series.failures)} failed" if series.failures else ""),
        )

    columns = ("", "median", "p95", "fastest", "slowest", "faster", "starts")
    title = "Time to the first success of the probe, from the request to create the container"
    return Section(title, columns, tuple(map(row, bench.series)))


def _steps(bench: Bench) -> Section:
    def row(series: Series) -> tuple[str, ...]:
        steps = (format_seconds(series.median_of(name)) for name in STEPS)
        added = bench.added_bytes(series) if series is not bench.cold else sum(series.layers.values())
        return (LABELS[series.way.name], format_bytes(added), format_seconds(series.import_s), *steps)

    columns = ("", "to fetch", "import", *STEPS.values())
    title = "What each step takes (median); to fetch and import beyond the base image, which the first row is"
    return Section(title, columns, tuple(map(row, bench.series)))


def _memory(bench: Bench) -> Section:
    def row(series: Series) -> tuple[str, ...]:
        names = ("anonymous_bytes", "file_bytes", "cgroup_bytes")
        return (LABELS[series.way.name], *(format_bytes(round(series.median_of(name))) for name in names))

    columns = ("", "its own", "shared file pages", "charged to its cgroup")
    return Section("Memory of one replica once it is ready (median)", columns, tuple(map(row, bench.series)))


def _requests(bench: Bench) -> Section:
    def row(name: str, latency: Latency | None) -> tuple[str, ...]:
        if latency is None:
            return (name, "—", "—", "—")
        return (name, *map(format_seconds, (latency.first_s, latency.p50_s, latency.p99_s)))

    rows = [row(LABELS[series.way.name], series.latency) for series in bench.series]
    if bench.dumped_latency:
        rows.append(row("in the process that was dumped", bench.dumped_latency))
    title = f"The first {bench.load.requests} requests after the probe (median of the batches)"
    return Section(title, ("", "first", "p50", "p99"), tuple(rows))


def _replicas(bench: Bench) -> Section:
    def row(series: Series) -> tuple[str, ...]:
        burst = series.burst
        if burst is None:
            return (LABELS[series.way.name], "left out", "—", "—", "—", "—")
        first = format_seconds(burst.ready_s[0]) if burst.ready_s else "—"
        last = format_seconds(burst.ready_s[-1]) if len(burst.ready_s) == bench.load.replicas else "never"
        available = burst.available_bytes[0] - burst.available_bytes[1]
        return (
            LABELS[series.way.name],
            first,
            last,
            str(len(burst.failures)),
            format_bytes(burst.memory.proportional_bytes),
            format_bytes(max(0, available)),
        )

    columns = ("", "first ready", "all ready", "failed attempts", "memory of all", "taken from the node")
    return Section(
        f"{bench.load.replicas} replicas at once; one that fails is started again",
        columns,
        tuple(map(row, bench.series)),
    )


def _document_series(bench: Bench, series: Series) -> dict[str, Any]:
    return {
        "way": series.way.name,
        "image": series.way.image,
        "totalSeconds": asdict(series.total),
        "stepSeconds": {name.removesuffix("_s"): asdict(_spread(series, name)) for name in STEPS},
        "memoryBytes": {
            "anonymous": series.median_of("anonymous_bytes"),
            "file": series.median_of("file_bytes"),
            "proportional": series.median_of("proportional_bytes"),
            "cgroup": series.median_of("cgroup_bytes"),
        },
        "addedBytes": bench.added_bytes(series),
        "packSeconds": series.pack_s,
        "importSeconds": series.import_s,
        "starts": [asdict(start) for start in series.starts],
        "failures": list(series.failures),
        "requests": _document_latency(series.latency),
        "burst": asdict(series.burst) if series.burst else None,
    }


def _document_latency(latency: Latency | None) -> dict[str, float] | None:
    return asdict(latency) if latency else None


def _spread(series: Series, name: str) -> Spread:
    return Spread.of([getattr(start, name) for start in series.starts])
