"""Measure cold and restored starts in turn on the embedded node.

All ways of starting share one CRI-O and one period, and each round begins with a different way, so that disturbances
affect all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from warmstart.bench.measure import Burst, Start, Way, measure_burst, measure_start, read_available_bytes, time_requests
from warmstart.bench.result import COLD, MAPPED, PLAIN, Bench, Load, Machine, Series
from warmstart.build import assemble
from warmstart.build.base import BaseImage, fetch_base, find_source
from warmstart.build.beside import ALONE, Beside
from warmstart.build.checkpoint import run_and_checkpoint
from warmstart.build.container import open_engine, with_hooks
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.result import EditedDump, RuntimeCheckpoint
from warmstart.build.services import open_companions
from warmstart.build.warm_image import Decide, WarmImage, make_absolute, pull_warm_image
from warmstart.core.errors import ImageError, RecipeError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source, parse_reference
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, find_binds, start_engine
from warmstart.image.compose import take_apart
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import ENTRYPOINT
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.probe.readiness import first_probe
from warmstart.recipe.load import with_ports
from warmstart.recipe.model import HttpGet, Mapped, Probe, Recipe, Restorer
from warmstart.recipe.privileges import require_recipe_privileges

SUBNET = "10.90.0.0/24"
IMAGE = "localhost/warmstart/bench"
# Replicas are started at once only if they need no more than this share of the available memory.
SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True)
class Candidate:
    """An image to start: its way of starting, its layout directory, and the seconds it took to pack."""

    way: Way
    layout: Path
    pack_s: float = 0.0


@dataclass(frozen=True)
class Subject:
    """An application to measure, and its images, the one of the cold start first.

    `archive` is the runtime's checkpoint archive, if this run made one. `beside` is the company of its containers. The
    other attributes are as in `Bench`.
    """

    name: str
    recipe: Recipe
    candidates: Sequence[Candidate]
    pages_bytes: int
    dumped_requests_s: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    archive: Path | None = None
    beside: Beside = ALONE


def bench_recipe(recipe: Recipe, options: BuildOptions, load: Load, progress: Progress) -> Bench:
    """Compare cold starts of a recipe with restores of one checkpoint, both unchanged and with its memory mapped.

    Nothing is published.

    Raises:
        WarmstartError: a step failed, or one of the ways of starting never succeeded.
    """
    require_recipe_privileges(recipe, options.allowed)
    source = find_source(recipe)
    action = find_request(recipe) if load.requests else None
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        with open_companions(context) as companions:
            with companions.run() as beside:
                subject = make_images(replace(context, beside=beside), source, load, action)
            with companions.run() as beside:
                return measure(session, replace(subject, beside=beside), load, progress)


def bench_source(
    source: Source,
    options: BuildOptions,
    load: Load,
    progress: Progress,
    *,
    decide: Decide,
    secrets: Sequence[str] = (),
) -> Bench:
    """Compare restores of an image built by warmstart with cold starts of its base image.

    Raises:
        ImageError: the image does not exist, or warmstart did not make it.
        PrivilegeError: the image requests more than the user allows.
        RecipeError: the value of a secret is missing, or its file cannot be read.
        WarmstartError: a step failed, or one of the ways of starting never succeeded.
    """
    source = make_absolute(source)
    with open_session(source, options, progress) as session:
        image = pull_warm_image(session, source, options.access, progress, decide=decide, secrets=secrets)
        subject = find_subject(image)
        context = BuildContext(subject.recipe, options, progress, session)
        with open_companions(context) as companions, companions.run() as beside:
            return measure(session, replace(subject, beside=beside), load, progress)


@contextlib.contextmanager
def open_session(source: Source, options: BuildOptions, progress: Progress) -> Iterator[Session]:
    """Open the embedded node, with access to the files of `source`."""
    with open_node(
        "bench",
        options.cache,
        progress,
        network=options.network,
        binds=find_binds(source),
        keep_evidence=options.keep,
    ) as session:
        yield session


def make_images(context: BuildContext, source: Source, load: Load, action: HttpGet | None) -> Subject:
    """Run and checkpoint a recipe's container, time requests to it, and make images from this one checkpoint."""
    recipe, base = context.recipe, fetch_base(context, source)
    context = with_hooks(context, base.layout)
    batches: list[tuple[float, ...]] = []

    def time_batches(running: CriContainer) -> None:
        if action is not None:
            with context.progress.step("requests"):
                batches.extend(time_requests(running, action, load.requests) for _ in range(load.rounds))

    with open_engine(context, None) as engine:
        dumped = run_and_checkpoint(context, engine, base, time_batches)
        plain, dump = _make_image(context, engine, base, dumped, PLAIN)
        candidates, notes = [Candidate(Way(COLD, f"{IMAGE}:{COLD}"), base.layout), plain], []
        if recipe.mapped is not Mapped.NONE:
            mapped, dump = _make_image(context, engine, base, dumped, MAPPED)
            if dump.memory_file:
                candidates.append(mapped)
        if len(candidates) == 2:
            notes.append(f"no memory is mapped: {', '.join(_find_reasons(dump))}")
    recipe = with_ports(recipe, dumped.warm.ports)
    return Subject(
        recipe.name, recipe, candidates, dump.pages_bytes, tuple(batches), tuple(notes), archive=dumped.archive
    )


def find_request(recipe: Recipe) -> HttpGet:
    """Return the request to time: the first HTTP request of the warm-up, else that of the probe.

    Raises:
        RecipeError: the recipe has no HTTP request.
    """
    probe = first_probe(recipe.container)
    last = [probe.action] if isinstance(probe, Probe) else []
    for action in [*(step.action for step in recipe.warmup), *last]:
        if isinstance(action, HttpGet):
            return action
    raise RecipeError(
        f"the recipe {recipe.name} has no HTTP request to time",
        hint="omit --requests, or add an httpGet to its warmup",
    )


def find_subject(image: WarmImage) -> Subject:
    """Return the subject of an image built by warmstart.

    Raises:
        ImageError: the runtime does not restore it.
    """
    source, layout, provenance = image.source, image.layout, image.provenance
    if Restorer.RUNTIME not in image.restorers:
        hint = "run `warmstart bench` with the recipe instead: the runtime then restores its checkpoint"
        raise ImageError(f"cannot measure {source}: it only restores itself", hint=hint)
    base = layout.with_name("base")
    take_apart(layout, base, ENTRYPOINT)
    edits = json.loads(provenance.edits)
    restored = Way(MAPPED if edits["mappedBytes"] else PLAIN, image.name, provenance.identity)
    candidates = [Candidate(Way(COLD, f"{IMAGE}:{COLD}"), base), Candidate(restored, layout)]
    return Subject(str(source), image.recipe, candidates, edits["dumpedBytes"])


def measure(session: Session, subject: Subject, load: Load, progress: Progress) -> Bench:
    """Start each image in turn for the requested rounds, then start its replicas at once.

    Raises:
        WarmstartError: one of the ways never succeeded.
    """
    began, load_before = datetime.now(UTC), os.getloadavg()[0]
    action = find_request(subject.recipe) if load.requests else None
    with start_engine(session, "bench", subnet=SUBNET) as engine:
        with progress.step("import"):
            import_s = [_time(engine.import_image, c.layout, c.way.image, progress.note) for c in subject.candidates]
        tallies = [_Tally(candidate.way) for candidate in subject.candidates]
        with progress.step("starts"):
            for number in range(load.rounds):
                turn = number % len(tallies)
                for tally in (*tallies[turn:], *tallies[:turn]):
                    progress.note(f"round {number + 1} of {load.rounds}: {tally.way.name}")
                    tally.start(engine, subject, f"{tally.way.name}-{number}", load.requests, action)
        for tally in tallies:
            tally.check()
        notes = list(subject.notes)
        with progress.step("replicas") if load.replicas else contextlib.nullcontext():
            bursts = [_start_many(engine, tally, subject, load.replicas, notes) for tally in tallies]
        machine = _describe_machine(session, engine, load_before)
    series = tuple(
        Series(
            way=candidate.way,
            layers={layer.digest: layer.size_bytes for layer in read_image(candidate.layout).manifest.layers},
            pack_s=candidate.pack_s,
            import_s=seconds,
            starts=tuple(tally.starts),
            failures=tuple(error.brief for error in tally.failures),
            burst=burst,
        )
        for candidate, seconds, tally, burst in zip(subject.candidates, import_s, tallies, bursts, strict=True)
    )
    return Bench(
        subject.name, began, machine, load, series, subject.dumped_requests_s, subject.pages_bytes, tuple(notes)
    )


@dataclass
class _Tally:
    """The results of one way of starting so far."""

    way: Way
    starts: list[Start] = field(default_factory=list)
    failures: list[WarmstartError] = field(default_factory=list)

    def start(self, engine: LocalEngine, subject: Subject, name: str, requests: int, action: HttpGet | None) -> None:
        """Start once more. Record a failure and continue."""
        try:
            start = measure_start(
                engine,
                self.way,
                subject.recipe.container,
                name,
                requests=requests,
                action=action,
                beside=subject.beside,
            )
            self.starts.append(start)
        except WarmstartError as error:
            self.failures.append(error)

    def check(self) -> None:
        """Raise the first failure if there was no success."""
        if not self.starts:
            raise self.failures[0]


def _start_many(engine: LocalEngine, tally: _Tally, subject: Subject, replicas: int, notes: list[str]) -> Burst | None:
    if not replicas:
        return None
    needed_bytes = replicas * max(start.memory.anonymous_bytes for start in tally.starts)
    if needed_bytes > SHARE_OF_MEMORY * read_available_bytes():
        notes.append(
            f"{replicas} replicas at once, {tally.way.name}: left out, since they need {needed_bytes / 2**30:.1f} GiB"
        )
        return None
    return measure_burst(engine, tally.way, subject.recipe.container, replicas, beside=subject.beside)


def _make_image(
    context: BuildContext, engine: LocalEngine, base: BaseImage, dumped: RuntimeCheckpoint, name: str
) -> tuple[Candidate, EditedDump]:
    """Make one image of a checkpoint in a separate directory, and leave the checkpoint unchanged."""
    directory = context.workspace / name
    directory.mkdir()
    own_archive = directory / dumped.archive.name
    os.link(dumped.archive, own_archive)
    own = replace(
        context,
        recipe=replace(
            context.recipe,
            image=parse_reference(f"{IMAGE}:{name}"),
            mapped=context.recipe.mapped if name == MAPPED else Mapped.NONE,
        ),
        session=replace(context.session, workspace=directory),
    )
    archive = assemble.read_archive(own, own_archive)
    began = time.monotonic()
    with assemble.open_container(own.session, directory) as container:
        dump = assemble.edit_dump(own, dumped, archive)
        provenance = assemble.describe(own, engine, dumped.warm, dump)
        layout = assemble.make_layout(own, container, dumped, archive, dump, base, provenance)
    pack_s = time.monotonic() - began
    for path in (archive.root, dump.memory_file, directory / "addition", directory / "buildah"):
        _discard(path)
    return Candidate(Way(name, f"{IMAGE}:{name}", dumped.warm.identity), layout, pack_s), dump


def _discard(path: Path | None) -> None:
    """Remove a file or directory early, since several copies of a heap would fill the disk."""
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink(missing_ok=True)


def _find_reasons(dump: EditedDump) -> list[str]:
    """Return the reasons memory was left in the dump, the most common first."""
    left: Counter[str] = Counter()
    for process in dump.memory.processes:
        left.update(process.left_bytes)
    return [reason for reason, _ in left.most_common()]


def _time(call: Callable[..., object], *arguments: object) -> float:
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def _describe_machine(session: Session, engine: LocalEngine, load_before: float) -> Machine:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    # Some architectures have no processor names here.
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return Machine(
        processor=names[0] if names else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        runtime=engine.cri.version(),
        criu=session.run(["criu", "--version"], timeout_s=10).stdout.split()[-1],
        load=(load_before, os.getloadavg()[0]),
    )
