"""Report a benchmark as a verdict in a sentence, as tables, and as a complete JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from warmstart.bench.measure import Start
from warmstart.bench.result import COLD, MAPPED, PLAIN, SELF, Bench, First, Lead, Series, Spread
from warmstart.core.text import Section, format_bytes, format_seconds

LABELS = {COLD: "cold", PLAIN: "restored, plain", MAPPED: "restored, mapped", SELF: "restored by itself"}
WARMED = "warm, not restored"
# Threads that are shown, if they use at least this share of the processor time.
_SHOWN_THREADS, _SHOWN_SHARE = 2, 0.1
_SHORT_S = 0.1
_LAUNCHER = {"restore_ms": "restore", "hooks_ms": "hooks", "steps_ms": "after-restore steps"}
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
    if bench.load.cold_cache:
        pair += ", with an empty page cache"
    if not bench.is_worth_it:
        return f"Restoring is not worth it here: {pair}. Start this application as it is."
    verdict = f"A restored start is {bench.ratio:.1f} times as fast as a cold one: {pair}."
    if leads := bench.find_leads(bench.best):
        verdict += f" It stays ahead {_describe_end(leads[0])}."
    return verdict


def list_bench_sections(bench: Bench) -> tuple[Section, ...]:
    """Return the tables of everything measured, the most important first."""
    sections = [_starts(bench), _steps(bench), _memory(bench)]
    if any(start.launcher for series in bench.series for start in series.starts):
        sections.append(_launcher(bench))
    if bench.load.requests:
        sections += [_first(bench, number) for number in range(len(bench.cold.first))]
        sections.append(_leads(bench))
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
        ("page cache", "dropped before each start" if bench.load.cold_cache else "as the preceding starts left it"),
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
        "warmed": {
            "first": [asdict(first) for first in bench.warmed_first],
            "requests": [asdict(requests) for requests in bench.warmed],
        },
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
    if bench.load.cold_cache:
        title += ", with an empty page cache"
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


def _launcher(bench: Bench) -> Section:
    def cell(start: Start, name: str) -> int | None:
        return getattr(start.launcher, name) if start.launcher else None

    def row(series: Series) -> tuple[str, ...]:
        measured = ([ms for start in series.starts if (ms := cell(start, name)) is not None] for name in _LAUNCHER)
        return (LABELS[series.way.name], *(f"{median(ms):.0f} ms" if ms else "—" for ms in measured))

    rows = tuple(row(series) for series in bench.series if any(start.launcher for start in series.starts))
    return Section("What the launcher waits for, by its own clock (median)", ("", *_LAUNCHER.values()), rows)


def _first(bench: Bench, number: int) -> Section:
    """Return the table of the first 1, 10, 100, ... requests, by the position of this number."""
    warmed = bench.warmed_first[number : number + 1]

    def row(name: str, first: First) -> tuple[str, ...]:
        ratio = f"{first.cpu_s / warmed[0].cpu_s:.1f}" if warmed and warmed[0].cpu_s else "—"
        return (
            name,
            *map(_format_ms, (first.p50_s, first.p99_s, first.cpu_s)),
            ratio,
            f"{first.faults:.0f}",
            format_bytes(round(first.anonymous_bytes)),
            _describe_threads(first),
        )

    rows = [row(LABELS[series.way.name], series.first[number]) for series in bench.series]
    rows += [row(WARMED, first) for first in warmed]
    count = bench.cold.first[number].requests
    what = "The first request" if count == 1 else f"The first {count} requests, for each"
    idle = f", {bench.load.idle_s:g} s after the probe" if bench.load.idle_s else ""
    columns = ("", "p50", "p99", "processor", "ratio", "faults", "own after", "busiest threads")
    title = f"{what}{idle} (medians; ratio: of processor time, to {WARMED})"
    return Section(title, columns, tuple(rows))


def _describe_threads(first: First) -> str:
    busiest = list(first.threads_s.items())[:_SHOWN_THREADS]
    shares = [(name, seconds / first.cpu_s) for name, seconds in busiest if first.cpu_s]
    return ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= _SHOWN_SHARE) or "—"


def _format_ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < _SHORT_S else format_seconds(seconds)


def _leads(bench: Bench) -> Section:
    rows = []
    for series in bench.series[1:]:
        for what, lead in zip(("time", "processor time"), bench.find_leads(series) or (), strict=False):
            seconds = (f"{lead.ready_s:.2f} s", f"{lead.end_s:.2f} s")
            rows.append((f"{LABELS[series.way.name]}, {what}", *seconds, _describe_end(lead)))
    columns = ("", "when ready", f"after {bench.load.requests} requests", "stays ahead")
    return Section("The lead over a cold start (of medians)", columns, tuple(rows))


def _describe_end(lead: Lead) -> str:
    if lead.requests is None:
        return "for longer than was measured"
    if lead.requests == math.inf:
        return "for ever"
    digits = 2 - len(str(round(lead.requests)))
    return f"for about {round(lead.requests, min(0, digits)):,.0f} requests"


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
        "first": [asdict(first) for first in series.first],
        "lead": _document_leads(bench, series),
        "burst": asdict(series.burst) if series.burst else None,
    }


def _document_leads(bench: Bench, series: Series) -> dict[str, Any] | None:
    leads = bench.find_leads(series) if series is not bench.cold else None
    if leads is None:
        return None

    def document(lead: Lead) -> dict[str, Any]:
        for_ever = lead.requests == math.inf
        return {
            "readySeconds": lead.ready_s,
            "endSeconds": lead.end_s,
            "forEver": for_ever,
            "requests": None if for_ever else lead.requests,
        }

    return {"time": document(leads[0]), "processorTime": document(leads[1])}


def _spread(series: Series, name: str) -> Spread:
    return Spread.of([getattr(start, name) for start in series.starts])
