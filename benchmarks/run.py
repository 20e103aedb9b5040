"""What restoring gains, in one run on one machine, beside what is aimed at: `make bench`.

The table of all comes last. Pages with plots, and all figures as JSON, are left in build/bench. A machine that is busy
with something else gives other ratios: the load average is part of what is printed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click
from cold_cache import AT_MOST, compare_caches
from command import cache_option, run_command
from link import compare_pulls
from own_cost import CASES, OURS, measure_in_turn
from packing import Packed, pack_in_turn, pack_upstream
from rich.console import Console
from rich.table import Table
from self import Comparison, compare_restorers

from warmstart.bench.measure import Burst, measure_burst
from warmstart.bench.page import write_page
from warmstart.bench.report import find_verdict, make_bench_document
from warmstart.bench.requests import REQUEST_S
from warmstart.bench.result import COLD, MAPPED, PLAIN, Bench, Load, Series
from warmstart.bench.run import Subject, find_traffic, make_images, measure, open_session
from warmstart.build.base import find_source
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.services import open_companions
from warmstart.cli.terminal import TerminalListener
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes, format_seconds
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.image.layout import read_image
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import perform
from warmstart.recipe.load import load_recipe, with_restorers
from warmstart.recipe.model import Hooks, HttpGet, Recipe, Restorer

TOP = Path(__file__).parents[1]
SPRING, SMALL = TOP / "examples/java-app/recipe.yaml", TOP / "recipes/go/recipe.yaml"
SUBNET = "10.92.0.0/24"
REQUESTS, REPLICAS, AT_ONCE = 100, 8, 32
PARTS = ("spring", "large", "self", "cold-cache", "packing", "at-once", "own-cost")
READ_ALL = HttpGet(8080, "/live-data/checksum")


@dataclass(frozen=True)
class Row:
    """One line of the table: what, what is aimed at, what was measured, and whether that is it."""

    what: str
    target: str
    value: str
    ok: bool


@dataclass(frozen=True)
class Run:
    """How this run measures: starts of each way, whom it tells, and where it leaves what it found."""

    rounds: int
    options: BuildOptions
    console: Console
    directory: Path

    def progress(self) -> Progress:
        """Steps that are shown as they happen."""
        return Progress(TerminalListener(self.console, verbose=True))

    def keep(self, name: str, bench: Bench) -> None:
        """Leave a page and the figures."""
        self.console.print(f"{name}: {find_verdict(bench)}", style="bold")
        write_page(self.directory / f"{name}.html", bench)
        (self.directory / f"{name}.json").write_text(json.dumps(make_bench_document(bench), indent=1))


def measure_spring(run: Run) -> tuple[list[Row], Bench]:
    """The Spring Boot example, with the memory of a middling service."""
    recipe, load, progress = with_live_data(80, 384, "1Gi"), Load(run.rounds, requests=REQUESTS), run.progress()
    with open_subject(recipe, load, run, progress) as (context, subject):
        session, bench = context.session, measure(context, subject, load)
        run.keep("spring", bench)
        rows = [*list_start_rows(bench), list_latency_row(bench)]
        with progress.step("pull and start"):
            cold_s, restored_s = compare_pulls(session, subject, max(3, run.rounds // 4), progress.note)
        with progress.step("pack as upstream"):
            theirs = pack_upstream(session, subject.archive, recipe.name)
        packing = list_packing_rows(f"Spring Boot, {format_bytes(bench.pages_bytes)}", theirs, describe_ours(subject))
    what = f"pull over 1 Gb/s and restore ({format_seconds(restored_s)}) ÷ pull and cold ({format_seconds(cold_s)})"
    return [*rows, Row(what, "< 1", *judge(restored_s / cold_s, below=1)), *packing], bench


def measure_packing(run: Run) -> list[Row]:
    """What the example's image costs to make, beside an image of the same application as others make it."""
    recipe = load_recipe(SPRING)
    theirs, ours = find_median(pack_in_turn(recipe, run.options, run.progress(), run.rounds))
    few = max(3, run.rounds // 4)
    theirs_as_it_comes, _ = find_median(pack_in_turn(as_it_comes(recipe), run.options, run.progress(), few))
    return [
        *list_packing_rows("checkpoint", theirs, ours),
        # The bytes alone: the two were not packed in turn.
        *list_packing_rows("checkpoint without the recipe's preparations", theirs_as_it_comes, ours)[:1],
    ]


def measure_own_cost(run: Run) -> list[Row]:
    """What a build of the example takes besides the application's start and warm-up, the pull and the push."""
    rows = []
    for case in CASES:
        [seconds] = measure_in_turn([OURS], case, max(3, run.rounds // 4))
        value, ok = judge(median(seconds), at_most=case.limit_s)
        rows.append(
            Row(f"own cost, {case.name} ({min(seconds):.2f}–{max(seconds):.2f}), s", f"≤ {case.limit_s:g}", value, ok)
        )
    return rows


def find_median(pairs: list[tuple[Packed, Packed]]) -> tuple[Packed, Packed]:
    """The upstream's image and ours of the pair with the median of the ratios in time."""
    ours, theirs = sorted(pairs, key=lambda pair: pair[1].seconds / pair[0].seconds)[len(pairs) // 2]
    return theirs, ours


def describe_ours(subject: Subject) -> Packed:
    """What our image adds to its base image, and the time that it took to make it of the checkpoint."""
    cold, restored = subject.candidates[0], subject.candidates[-1]
    base = {layer.digest for layer in read_image(cold.layout).manifest.layers}
    added = (layer for layer in read_image(restored.layout).manifest.layers if layer.digest not in base)
    return Packed(sum(layer.size_bytes for layer in added), restored.pack_s)


def measure_large(run: Run, spring: Bench) -> list[Row]:
    """The same with a heap of 2 GB: how long a restore takes, and what many replicas take of the node."""
    recipe, load, progress = with_live_data(1900, 2800, "4Gi"), Load(max(3, run.rounds // 2)), run.progress()
    with open_subject(recipe, load, run, progress) as (context, subject):
        session, bench = context.session, measure(context, subject, load)
        run.keep("large", bench)
        with progress.step(f"{REPLICAS} replicas"), start_engine(session, "replicas", subnet=SUBNET) as engine:
            import_images(engine, subject, COLD, MAPPED)
            ready = start_at_once(engine, subject, MAPPED, REPLICAS)
            read = start_at_once(engine, subject, MAPPED, REPLICAS, on_ready=read_all)
            cold = start_at_once(engine, subject, COLD, 1)
        with progress.step("pack as upstream"):
            theirs = pack_upstream(session, subject.archive, recipe.name)
        packing = list_packing_rows("2 GB heap", theirs, describe_ours(subject))
    plain_s, mapped_s = find(bench, PLAIN).total.median, find(bench, MAPPED).total.median
    one = cold.memory.proportional_bytes
    rows = [
        Row("2 GB heap: plain dump ÷ mapped", "≥ 8", *judge(plain_s / mapped_s, at_least=8)),
        Row(
            f"mapped: 2 GB ({format_seconds(mapped_s)}) ÷ 200 MB",
            "≤ 1.3",
            *judge(mapped_s / find(spring, MAPPED).total.median, at_most=1.3),
        ),
    ]
    for when, burst in (("ready", ready), ("all of the heap read", read)):
        what = f"{REPLICAS} replicas, {when} ({describe(burst)}): memory of all ÷ one cold process"
        rows.append(Row(what, "≤ 2", *judge(burst.memory.proportional_bytes / one, at_most=2)))
    return rows + packing


def measure_self(run: Run) -> list[Row]:
    """Images that restore themselves: the memory of a middling service, and a heap of 2 GB."""
    rows: list[Row] = []
    for name, recipe in (("self", with_live_data(80, 384, "1Gi")), ("self-large", with_live_data(1900, 2800, "4Gi"))):
        compared = compare_restorers(recipe, run.options, run.rounds, run.progress())
        compared.write(run.directory / f"{name}.json")
        rows += list_self_rows(compared)
    return rows


def list_self_rows(compared: Comparison) -> list[Row]:
    """How an image that restores itself compares."""
    cold_s, runtime_s, self_s = compared.medians
    what, launcher = f"restores itself, {format_bytes(compared.pages_bytes)}", compared.launcher_ms
    cold_row = f"{what}: cold ({format_seconds(cold_s)}) ÷ restored ({format_seconds(self_s)})"
    launcher_row = f"{what}: launcher's start → application runs ({launcher.smallest:.0f}–{launcher.largest:.0f}), ms"
    return [
        Row(cold_row, "≥ 15", *judge(cold_s / self_s, at_least=15)),
        Row(launcher_row, "≤ 60", *judge(launcher.median, at_most=60)),
        Row(
            f"{what}: restored ÷ restored by the runtime ({format_seconds(runtime_s)})",
            "≤ 1.3",
            *judge(self_s / runtime_s, at_most=1.3),
        ),
    ]


def measure_cold_cache(run: Run) -> list[Row]:
    """Images that restore themselves, after the page cache was dropped: the example, and twice its memory."""
    rows = []
    for recipe in (load_recipe(SPRING), with_live_data(120, 384, "1Gi")):
        caches = compare_caches(recipe, run.options, run.rounds, run.progress())
        pair = f"{format_seconds(caches.dropped.spread.median)} ÷ {format_seconds(caches.kept.spread.median)}"
        what = f"restores itself, {format_bytes(caches.pages_bytes)}: page cache dropped ÷ kept ({pair})"
        rows.append(Row(what, f"≤ {AT_MOST:g}", *judge(caches.ratio, at_most=AT_MOST)))
    return rows


def measure_at_once(run: Run) -> list[Row]:
    """A small service, restored many times at once."""
    recipe, progress = load_recipe(SMALL), run.progress()
    with open_subject(recipe, Load(), run, progress) as (context, subject):
        way = subject.candidates[-1].way.name
        with progress.step(f"{AT_ONCE} replicas"), start_engine(context.session, "replicas", subnet=SUBNET) as engine:
            import_images(engine, subject, way)
            burst = start_at_once(engine, subject, way, AT_ONCE)
    what = f"{AT_ONCE} restores of a small service at once ({describe(burst)}): failures"
    return [Row(what, "0", str(len(burst.failures)), not burst.failures)]


@contextlib.contextmanager
def open_subject(recipe: Recipe, load: Load, run: Run, progress: Progress) -> Iterator[tuple[BuildContext, Subject]]:
    """The images of a recipe that the runtime restores, on a node of their own."""
    source, recipe = find_source(recipe), with_restorers(recipe, [Restorer.RUNTIME])
    with open_session(source, run.options, progress) as session:
        context = BuildContext(recipe, run.options, progress, session)
        with open_companions(context) as companions:
            yield context, make_images(context, source, companions, find_traffic(recipe, load))


def import_images(engine: LocalEngine, subject: Subject, *ways: str) -> None:
    """Bring the images of some ways into the engine's store."""
    for candidate in subject.candidates:
        if candidate.way.name in ways:
            engine.import_image(candidate.layout, candidate.way.image)


def start_at_once(
    engine: LocalEngine,
    subject: Subject,
    name: str,
    replicas: int,
    on_ready: Callable[[CriContainer], object] = lambda _: None,
) -> Burst:
    """Start replicas in one of the ways."""
    way = next(candidate.way for candidate in subject.candidates if candidate.way.name == name)
    return measure_burst(engine, way, subject.recipe.container, replicas, on_ready=on_ready)


def read_all(running: CriContainer) -> None:
    """Have the application read and check all of its live data."""
    outcome = perform(running, READ_ALL, TimeLimit(REQUEST_S))
    assert outcome.ok, outcome.seen


def with_live_data(size_mb: int, heap_mb: int, limit: str) -> Recipe:
    """The Spring Boot example with so much more live data, in a heap that it fits into."""
    return load_recipe(SPRING, overrides=list_live_data(size_mb, heap_mb, limit))


def list_live_data(size_mb: int, heap_mb: int, limit: str) -> list[str]:
    """The same as overrides of its recipe."""
    document = json.loads(load_recipe(SPRING).document)
    java_options = re.sub(r"-Xmx\S+", f"-Xmx{heap_mb}m", document["container"]["env"][0]["value"])
    return [
        f"container.args=[--live-data.size-mb={size_mb}]",
        f"container.env[0].value={java_options}",
        f"container.resources.limits.memory={limit}",
    ]


def as_it_comes(recipe: Recipe) -> Recipe:
    """The recipe without what it does to have a small checkpoint."""
    container = replace(recipe.container, env=())
    return replace(recipe, container=container, before_checkpoint=(), hooks=Hooks.NONE)


def list_start_rows(bench: Bench) -> list[Row]:
    """How the ways of starting compare."""
    cold_s, plain_s, mapped_s = (find(bench, name).total.median for name in (COLD, PLAIN, MAPPED))
    what = f"Spring Boot, {format_bytes(bench.pages_bytes)}"
    return [
        Row(
            f"{what}: cold ({format_seconds(cold_s)}) ÷ restored ({format_seconds(mapped_s)})",
            "≥ 12, aim 15",
            *judge(cold_s / mapped_s, at_least=12),
        ),
        Row(
            f"{what}: plain dump ({format_seconds(plain_s)}) ÷ mapped",
            "≥ 2",
            *judge(plain_s / mapped_s, at_least=2),
        ),
    ]


def list_latency_row(bench: Bench) -> Row:
    """How requests after a restore compare with those to the process that was dumped."""
    restored, dumped = find(bench, MAPPED).first[-1], bench.warmed_first[-1]
    pair = f"{format_seconds(restored.p99_s)} ÷ {format_seconds(dumped.p99_s)}"
    what = f"p99 of the first {REQUESTS} requests: restored ÷ in the dumped process ({pair})"
    return Row(what, "≤ 1.5", *judge(restored.p99_s / dumped.p99_s, at_most=1.5))


def list_packing_rows(what: str, theirs: Packed, ours: Packed) -> list[Row]:
    """How an image of a checkpoint FROM scratch compares with ours."""
    sizes = f"{format_bytes(theirs.size_bytes)} ÷ {format_bytes(ours.size_bytes)}"
    times = f"{format_seconds(theirs.seconds)} ÷ {format_seconds(ours.seconds)}"
    bytes_ratio, time_ratio = theirs.size_bytes / ours.size_bytes, theirs.seconds / ours.seconds
    return [
        Row(f"{what}: FROM scratch, gzip ÷ ours, bytes ({sizes})", "≥ 2", *judge(bytes_ratio, at_least=2)),
        Row(f"{what}: FROM scratch, gzip ÷ ours, time to pack ({times})", "≥ 5", *judge(time_ratio, at_least=5)),
    ]


def describe(burst: Burst) -> str:
    """When the last replica was ready."""
    return f"all after {format_seconds(burst.ready_s[-1])}"


def find(bench: Bench, name: str) -> Series:
    """A series that must be there."""
    series = bench.find(name)
    assert series is not None
    return series


def judge(
    value: float, at_least: float = -math.inf, at_most: float = math.inf, below: float = math.inf
) -> tuple[str, bool]:
    """A ratio as text, and whether it is within its bounds."""
    return f"{value:.2f}", at_least <= value <= at_most and value < below


def make_table(rows: list[Row]) -> Table:
    """All rows."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "target", "measured"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row("[green]✓[/green]" if row.ok else "[red]✗[/red]", row.what, row.target, row.value)
    return table


@click.command()
@click.option("-n", "--rounds", type=click.IntRange(2), default=20, show_default=True, help="Starts of each way.")
@cache_option
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only these parts.")
def main(rounds: int, cache_dir: Path, only: tuple[str, ...]) -> None:
    """Measure everything, and print it beside what is aimed at."""
    directory = TOP / "build/bench"
    directory.mkdir(parents=True, exist_ok=True)
    run = Run(rounds, BuildOptions(cache_dir.absolute()), Console(), directory)
    began, load_before = datetime.now(UTC), os.getloadavg()[0]
    rows: list[Row] = []
    if not only or {"spring", "large"} & {*only}:
        rows, spring = measure_spring(run)
    if not only or "large" in only:
        rows += measure_large(run, spring)
    if not only or "self" in only:
        rows += measure_self(run)
    if not only or "cold-cache" in only:
        rows += measure_cold_cache(run)
    if not only or "packing" in only:
        rows += measure_packing(run)
    if not only or "at-once" in only:
        rows += measure_at_once(run)
    if not only or "own-cost" in only:
        rows += measure_own_cost(run)
    run.console.print(make_table(rows))
    run.console.print(
        f"{began:%Y-%m-%d %H:%M} UTC, load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    )
    (directory / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    run_command(main)
