#!/usr/bin/env python3
"""Compare restores with the JVM's own caches, AppCDS and the AOT cache of JDK 25: `make bench-java`.

    benchmarks/java_caches.py [RECIPE] [--set PATH=VALUE]... [--rounds N] [--output FILE]

The recipe's warm-up trains each cache, which becomes a layer on the base image. A JVM that cannot use its cache fails
to start, by -Xshare:on and -XX:AOTMode=on. The ways take turns; when one is ready, it gets the requests of the warm-up.
"""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
from command import cache_option, run_command
from rich.console import Console
from self import make_image
from table import describe_spread, format_table

from warmstart.bench.measure import Way
from warmstart.bench.result import COLD, SELF, Bench, Load
from warmstart.bench.run import IMAGE, Candidate, Subject, measure, open_session
from warmstart.build.base import BaseImage, fetch_base, find_source
from warmstart.build.cold_start import COLD as NO_RESTORE
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.result import BuildCandidate
from warmstart.cli.terminal import TerminalListener
from warmstart.core.errors import AppError
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes, format_seconds
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.engine.target import State
from warmstart.image.annotations import created_now
from warmstart.image.compose import Run, add_layers, pack_file
from warmstart.image.layout import read_image
from warmstart.probe.diagnosis import describe_end, read_log_end
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.probe.warmup import run_steps
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Mount, Recipe, Restorer

TOP = Path(__file__).parents[1]
SPRING, JDK_25 = TOP / "examples/java-app/recipe.yaml", TOP / "build/images/java-app-25.tar"
SUBNET = "10.98.0.0/24"
REQUESTS = 100
# The JVM reads the first one, which recipes set. The program `java` reads the second one, which the image sets.
TOOL_OPTIONS, JAVA_OPTIONS = "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"
OUT = "/out"
END_S, POLL_S = 120.0, 0.1
CHUNK_BYTES = 1 << 20

RUNTIME, SELF_AOT, FALLBACK, FALLBACK_AOT = "runtime", "self-aot", "fallback", "fallback-aot"
APPCDS, AOT = "appcds", "aot"
LABELS = {
    COLD: "cold",
    APPCDS: "cold, AppCDS",
    AOT: "cold, AOT cache",
    RUNTIME: "restored by CRI-O",
    SELF: "restored by itself",
    SELF_AOT: "restored by itself, with the AOT cache",
    FALLBACK: "cold, by the launcher",
    FALLBACK_AOT: "cold, by the launcher, with the AOT cache",
}
COLUMNS = (
    *("", "first answer", "range", "starts", "cold ÷ this", "processor time until then"),
    *(f"first {REQUESTS} requests", "their processor time", "layers added", "memory of its own"),
)


@dataclass(frozen=True)
class Cache:
    """A cache of the JVM.

    Attributes:
        way: the way of starting that uses it.
        path: path of its file in the image.
        training: JVM option of the run that writes it into OUT when it ends.
        use: JVM options of a start that fails without it.
    """

    way: str
    path: str
    training: str
    use: str


CACHES = (
    Cache(APPCDS, "/app.jsa", f"-XX:ArchiveClassesAtExit={OUT}/app.jsa", "-XX:SharedArchiveFile=/app.jsa -Xshare:on"),
    Cache(AOT, "/app.aot", f"-XX:AOTCacheOutput={OUT}/app.aot", "-XX:AOTCache=/app.aot -XX:AOTMode=on"),
)


@dataclass(frozen=True)
class TrainedImage:
    """A base image with a cache.

    Attributes:
        base: the image.
        file_bytes: size of the cache.
        training_s: seconds of the run that wrote it.
        classes: number of classes that a start has loaded at its first answer.
        cached: number of those that came from the cache or the JDK's own.
    """

    base: BaseImage
    file_bytes: int
    training_s: float
    classes: int
    cached: int


@dataclass(frozen=True)
class FallbackWay(Way):
    """A cold start by the launcher of an image that restores itself."""

    def prepare(self, container: Container) -> Container:
        """See `Way.prepare`."""
        return replace(container.run_by_image(), env=(*container.env, NO_RESTORE))


def compare_caches(recipe: Recipe, options: BuildOptions, rounds: int, progress: Progress) -> dict[str, Any]:
    """Make the images and start them in turn; return the result as a document.

    Raises:
        WarmstartError: a step failed, a JVM did not write or use its cache, or one of the ways never succeeded.
    """
    source = find_source(recipe)
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        base = fetch_base(context, source)
        with start_engine(session, "training", subnet=SUBNET) as engine:
            engine.import_image(base.layout, f"{IMAGE}:{COLD}")
            trained = {cache.way: train(context, engine, base, cache) for cache in CACHES}
        restored = {
            RUNTIME: make_restored(context, base, RUNTIME, Restorer.RUNTIME),
            SELF: make_restored(context, base, SELF, Restorer.SELF),
            SELF_AOT: make_restored(context, trained[AOT].base, SELF_AOT, Restorer.SELF),
        }
        candidates = list_candidates(base, trained, restored)
        bench = measure(context, Subject(recipe.name, recipe, candidates, 0), Load(rounds, requests=REQUESTS))
        return describe_run(bench, trained, {name: image.dump.pages_bytes for name, image in restored.items()})


def train(context: BuildContext, engine: LocalEngine, base: BaseImage, cache: Cache) -> TrainedImage:
    """Have a container write a cache, add it to the base image, and start that once to see where classes come from."""
    container, out = context.recipe.container, context.workspace / cache.way
    out.mkdir()
    out.chmod(0o777)  # for the container's user
    began = time.monotonic()
    with (
        context.progress.step(f"train {cache.way}"),
        run_ready(engine, give_room(container), f"{IMAGE}:{COLD}", cache.training, out) as running,
    ):
        run_steps(running, context.recipe.warmup)
        state = end(running)
        file = out / Path(cache.path).name
        if not file.is_file():
            brief = f"the JVM ended with {describe_end(state)}, and has not written its cache"
            raise AppError(brief, details=read_log_end(running))
    training_s = time.monotonic() - began
    image = add_cache(base, file, cache, context.workspace / f"with-{cache.way}")
    engine.import_image(image.layout, f"{IMAGE}:{cache.way}")
    with (
        context.progress.step(f"check {cache.way}"),
        run_ready(engine, container, f"{IMAGE}:{cache.way}", f"-Xlog:class+load:file={OUT}/classes", out),
    ):
        classes, cached = count_classes((out / "classes").read_text())
    return TrainedImage(image, file.stat().st_size, training_s, classes, cached)


@contextmanager
def run_ready(engine: LocalEngine, container: Container, image: str, option: str, out: Path) -> Iterator[CriContainer]:
    """Run a container that is ready, for the length of a `with` block.

    Args:
        engine: where it runs.
        container: container of the recipe.
        image: name of the image in the engine.
        option: another option of the JVM.
        out: directory that the container has as OUT.
    """
    container = replace(add_option(container, option), mounts=(*container.mounts, Mount(OUT, out)))
    with engine.cri.start(container, image, "training") as running:
        wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
        yield running


def give_room(container: Container) -> Container:
    """Return the container with twice the memory: another JVM makes the AOT cache before the trained one has ended."""
    resources = container.resources
    limit_bytes = resources.memory_limit_bytes and 2 * resources.memory_limit_bytes
    return replace(container, resources=replace(resources, memory_limit_bytes=limit_bytes))


def add_option(container: Container, option: str) -> Container:
    """Return the container with one more option of the JVM."""
    env = dict(container.env)
    env[TOOL_OPTIONS] = f"{env.get(TOOL_OPTIONS, '')} {option}".lstrip()
    return replace(container, env=tuple(env.items()))


def end(running: CriContainer) -> State:
    """End the first process by SIGTERM, and wait until it has ended."""
    running.exec(["sh", "-c", "kill 1"], END_S)
    deadline = time.monotonic() + END_S
    while not (state := running.state()).exited:
        if time.monotonic() > deadline:
            raise AppError(f"the JVM still runs {END_S:g} s after SIGTERM", details=read_log_end(running))
        time.sleep(POLL_S)
    return state


def count_classes(log: str) -> tuple[int, int]:
    """Return the number of classes in a log of `class+load`, and the number of those from a cache."""
    return len(re.findall(r" source: ", log)), len(re.findall(r" source: shared objects file", log))


def add_cache(base: BaseImage, file: Path, cache: Cache, layout: Path) -> BaseImage:
    """Make an image whose program `java` uses a cache."""
    entry = tarfile.TarInfo(cache.path.lstrip("/"))
    entry.size, entry.mode = file.stat().st_size, 0o644
    with file.open("rb") as content:
        layer = pack_file(entry, iter(partial(content.read, CHUNK_BYTES), b""), layout)
    config = read_image(base.layout).config
    run = Run(config.entrypoint, config.cmd, config.user, ((JAVA_OPTIONS, cache.use),))
    image = add_layers(base.layout, layout, [layer], run, created_now(), {})
    return replace(base, digest=image.manifest.descriptor.digest, layout=layout, layers=base.layers + 1)


def make_restored(context: BuildContext, base: BaseImage, name: str, restorer: Restorer) -> BuildCandidate:
    """Make an image that is restored, in a directory with this name."""
    directory = context.workspace / f"make-{name}"
    directory.mkdir()
    own = replace(context, session=replace(context.session, workspace=directory))
    return make_image(own, base, restorer)


def list_candidates(
    base: BaseImage, trained: Mapping[str, TrainedImage], restored: Mapping[str, BuildCandidate]
) -> list[Candidate]:
    """Return the images and their ways of starting, the cold one first."""

    def restoring(name: str, restorer: Restorer) -> Candidate:
        image = restored[name]
        return Candidate(Way(name, f"{IMAGE}:{name}", image.warm.identity, restorer), image.layout)

    return [
        Candidate(Way(COLD, f"{IMAGE}:{COLD}"), base.layout),
        *(Candidate(Way(name, f"{IMAGE}:{name}"), image.base.layout) for name, image in trained.items()),
        restoring(RUNTIME, Restorer.RUNTIME),
        restoring(SELF, Restorer.SELF),
        restoring(SELF_AOT, Restorer.SELF),
        Candidate(FallbackWay(FALLBACK, f"{IMAGE}:{SELF}"), restored[SELF].layout),
        Candidate(FallbackWay(FALLBACK_AOT, f"{IMAGE}:{SELF_AOT}"), restored[SELF_AOT].layout),
    ]


def describe_run(bench: Bench, trained: Mapping[str, TrainedImage], pages_bytes: Mapping[str, int]) -> dict[str, Any]:
    """Return everything measured as a document, with sizes in bytes and times in seconds."""
    return {
        "began": bench.began.isoformat(),
        "machine": asdict(bench.machine),
        "caches": {
            name: {
                "fileBytes": image.file_bytes,
                "trainingSeconds": image.training_s,
                "classes": image.classes,
                "fromCache": image.cached,
            }
            for name, image in trained.items()
        },
        "pagesBytes": dict(pages_bytes),
        "ways": {
            series.way.name: {
                "addedBytes": bench.added_bytes(series),
                "starts": [asdict(start) for start in series.starts],
                "failures": series.failures,
            }
            for series in bench.series
        },
    }


def list_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of the table: medians over all starts of all runs."""
    starts = {name: [start for run in runs for start in run["ways"][name]["starts"]] for name in LABELS}
    answers_s = {name: [find_answer_s(start) for start in found] for name, found in starts.items()}
    cold_s = median(answers_s[COLD])

    def row(name: str) -> tuple[str, ...]:
        requests = [start["requests"] for start in starts[name]]
        return (
            LABELS[name],
            *describe_spread(answers_s[name]),
            str(len(starts[name])),
            f"{cold_s / median(answers_s[name]):.1f}",
            format_seconds(median(start["cpu_s"] for start in starts[name])),
            format_seconds(median(sum(sent["durations_s"]) for sent in requests)),
            format_seconds(median(sent["uses"][-1]["cpu_s"] for sent in requests)),
            format_bytes(round(median(run["ways"][name]["addedBytes"] for run in runs))),
            format_bytes(round(median(start["memory"]["anonymous_bytes"] for start in starts[name]))),
        )

    return [row(name) for name in LABELS]


def find_answer_s(start: Mapping[str, float]) -> float:
    """Return the seconds from the request to create the container until its probe succeeded."""
    return start["create_s"] + start["start_s"] + start["answer_s"]


def list_facts(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines about the caches, the dumps and the machine."""
    lines = []
    for run in runs:
        load = run["machine"]["load"]
        lines.append(f"{run['began'][:16]} UTC, load average {load[0]:.1f} before, {load[1]:.1f} after")
        for name, cache in run["caches"].items():
            size, training = format_bytes(cache["fileBytes"]), format_seconds(cache["trainingSeconds"])
            classes = f"{cache['fromCache']} of {cache['classes']} classes from caches"
            lines.append(f"- {LABELS[name]}: {size}, trained in {training}, {classes}")
        lines += [f"- {LABELS[name]}: {format_bytes(size)} dumped" for name, size in run["pagesBytes"].items()]
        failed = {name: way["failures"] for name, way in run["ways"].items() if way["failures"]}
        lines += [f"- {LABELS[name]}: {len(errors)} failed, {errors[0]}" for name, errors in failed.items()]
    return lines


def read_runs(output: Path | None) -> list[dict[str, Any]]:
    """Return the runs that a file has already."""
    runs: list[dict[str, Any]] = json.loads(output.read_text()) if output and output.exists() else []
    return runs


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Starts of each way.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Add the run to those in this file.")
@cache_option
def main(recipe: Path | None, overrides: tuple[str, ...], rounds: int, output: Path | None, cache_dir: Path) -> None:
    """Compare the ways, and print a table of this run and those in the output file."""
    if recipe is None:
        recipe, overrides = SPRING, (f"container.image=oci-archive:{JDK_25}", *overrides)
    runs = read_runs(output)
    progress = Progress(TerminalListener(Console(stderr=True), verbose=True))
    options = BuildOptions(cache=cache_dir.absolute())
    runs.append(compare_caches(load_recipe(recipe, overrides=overrides), options, rounds, progress))
    if output is not None:
        output.write_text(json.dumps(runs, indent=1))
    click.echo(format_table(COLUMNS, list_rows(runs)))
    click.echo("\n".join(list_facts(runs)))


if __name__ == "__main__":
    run_command(main)
