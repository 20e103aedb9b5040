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
from functools import partial
from pathlib import Path

from warmstart.bench.measure import NO_TRAFFIC, Burst, Start, Traffic, Way, measure_burst, measure_start
from warmstart.bench.memory import read_available_bytes
from warmstart.bench.page_cache import drop_page_cache
from warmstart.bench.requests import Requests
from warmstart.bench.result import COLD, MAPPED, PLAIN, SELF, Bench, Load, Machine, Series
from warmstart.build import assemble
from warmstart.build.base import BaseImage, fetch_base, find_source
from warmstart.build.beside import ALONE, Beside
from warmstart.build.checkpoint import run_and_checkpoint
from warmstart.build.container import open_engine, run_warmup, with_hooks
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.kernel_state import Differences, find_losses
from warmstart.build.pipeline import first_of, make_candidate
from warmstart.build.result import EditedDump, RuntimeCheckpoint
from warmstart.build.services import Companions, open_companions
from warmstart.build.warm_image import Decide, WarmImage, make_absolute, pull_warm_image
from warmstart.core.errors import PreflightError, RecipeError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source, parse_reference
from warmstart.dump.archive.archive import DUMP_LOG
from warmstart.dump.state.compare import describe
from warmstart.dump.state.model import KernelState
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, find_binds, start_engine
from warmstart.image.compose import take_apart
from warmstart.image.layout import read_image
from warmstart.image.packer import Packer
from warmstart.image.selfrestore.pack import ENTRYPOINT
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.load import with_ports
from warmstart.recipe.model import HttpGet, Mapped, Probe, Recipe, Restorer, Step
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

    `archive` is the runtime's checkpoint archive, if this run made one. `beside` is the company of its containers.
    `state` is the kernel state before the checkpoint. The other attributes are as in `Bench`; `warmed` has the requests
    to the dumped process.
    """

    name: str
    recipe: Recipe
    candidates: Sequence[Candidate]
    pages_bytes: int
    warmed: tuple[Requests, ...] = ()
    notes: tuple[str, ...] = ()
    archive: Path | None = None
    beside: Beside = ALONE
    state: KernelState = field(default_factory=KernelState)


def bench_recipe(recipe: Recipe, options: BuildOptions, load: Load, progress: Progress) -> Bench:
    """Compare cold starts of a recipe with restores by each of its restorers.

    The runtime restores one checkpoint, both unchanged and with its memory mapped. Nothing is published.

    Raises:
        WarmstartError: a step failed, or one of the ways of starting never succeeded.
    """
    require_recipe_privileges(recipe, options.allowed)
    source = find_source(recipe)
    traffic = find_traffic(recipe, load)
    _announce(load, progress)
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        with open_companions(context) as companions:
            subject = make_images(context, source, companions, traffic)
            with companions.run() as beside:
                return measure(context, replace(subject, beside=beside), load)


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
    _announce(load, progress)
    with open_session(source, options, progress) as session:
        image = pull_warm_image(session, source, options.access, progress, decide=decide, secrets=secrets)
        subject = find_subject(image)
        context = BuildContext(subject.recipe, options, progress, session)
        with open_companions(context) as companions, companions.run() as beside:
            return measure(context, replace(subject, beside=beside), load)


def _announce(load: Load, progress: Progress) -> None:
    """Warn of the consequences for the machine, and fail at once if the page cache cannot be dropped."""
    if load.cold_cache:
        drop_page_cache()
        progress.warn("the page cache of the whole machine is dropped before each start, which slows others down")


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


@dataclass(frozen=True)
class TakenCheckpoint:
    """A checkpoint by the runtime, its base image, and the engine that has taken it."""

    context: BuildContext
    engine: LocalEngine
    base: BaseImage
    dumped: RuntimeCheckpoint


@contextlib.contextmanager
def take_checkpoint(
    context: BuildContext, base: BaseImage, on_dumped: Callable[[CriContainer], object] = lambda _: None
) -> Iterator[TakenCheckpoint]:
    """Run and checkpoint a recipe's container.

    Args:
        context: of the build, with the agents of hooks.
        base: the base image.
        on_dumped: called with the container after the checkpoint, while it still runs.
    """
    with open_engine(context, None) as engine:
        yield TakenCheckpoint(context, engine, base, run_and_checkpoint(context, engine, base, on_dumped))


def make_images(context: BuildContext, source: Source, companions: Companions, traffic: Traffic) -> Subject:
    """Make an image for each of the recipe's restorers, and for the runtime a second one if memory can be mapped.

    Args:
        context: of the build, with the recipe.
        source: its base image.
        companions: its services and init containers.
        traffic: requests to send to the process that the runtime has dumped.
    """
    base = fetch_base(context, source)
    context = with_hooks(context, base.layout)
    cold = Candidate(Way(COLD, f"{IMAGE}:{COLD}"), base.layout)
    subject = Subject(context.recipe.name, context.recipe, [cold], 0)
    if Restorer.RUNTIME in context.recipe.restore:
        subject = _add_restored(context, base, companions, traffic, subject)
    if Restorer.SELF in context.recipe.restore:
        subject = _add_self_restoring(context, base, companions, subject)
    return subject


def _add_restored(
    context: BuildContext, base: BaseImage, companions: Companions, traffic: Traffic, subject: Subject
) -> Subject:
    """Run and checkpoint the container, send requests to it, and make images from this one checkpoint."""
    warmed: list[Requests] = []

    def send(running: CriContainer) -> None:
        with context.progress.step("requests"):
            warmed.append(traffic.run(running))

    notes = list(subject.notes)
    # Hooks have prepared the dumped process for its end: it may serve nobody any more.
    on_dumped = send if traffic.count and not context.hooks else lambda _: None
    with companions.run() as beside, take_checkpoint(replace(context, beside=beside), base, on_dumped) as taken:
        plain, dump = make_image(taken, PLAIN)
        added = [plain]
        if context.recipe.mapped is not Mapped.NONE:
            mapped, dump = make_image(taken, MAPPED)
            if dump.memory_layer:
                added.append(mapped)
    if added == [plain]:
        notes.append(f"no memory is mapped: {', '.join(_find_reasons(dump))}")
    return replace(
        subject,
        recipe=with_ports(subject.recipe, taken.dumped.warm.ports),
        candidates=[*subject.candidates, *added],
        pages_bytes=dump.pages_bytes,
        warmed=tuple(warmed),
        notes=tuple(notes),
        archive=taken.dumped.archive,
        state=taken.dumped.warm.state,
    )


def _add_self_restoring(context: BuildContext, base: BaseImage, companions: Companions, subject: Subject) -> Subject:
    """Make an image that restores itself. If it cannot, and the recipe does not ask for it, note the reason."""
    directory = context.workspace / SELF
    directory.mkdir()
    own = replace(
        context,
        recipe=replace(
            context.recipe, restore=(Restorer.SELF,), image=parse_reference(f"{IMAGE}:{SELF}"), restore_is_default=False
        ),
        session=replace(context.session, workspace=directory),
    )
    began = time.monotonic()
    try:
        with open_engine(own, None) as engine, contextlib.ExitStack() as undo:
            image = make_candidate(own, engine, base, companions, undo)
    except PreflightError as refused:
        if not context.recipe.restore_is_default or Restorer.RUNTIME not in context.recipe.restore:
            raise
        return replace(subject, notes=(*subject.notes, f"the image does not restore itself: {first_of(refused)}"))
    way = Way(SELF, f"{IMAGE}:{SELF}", image.warm.identity, Restorer.SELF)
    return replace(
        subject,
        recipe=with_ports(subject.recipe, image.warm.ports),
        candidates=[*subject.candidates, Candidate(way, image.layout, time.monotonic() - began)],
        pages_bytes=subject.pages_bytes or image.dump.pages_bytes,
    )


def find_traffic(recipe: Recipe, load: Load) -> Traffic:
    """Return the requests to send: the HTTP requests of the warm-up in turn, else that of the probe.

    Requests that are also done after a restore are left out: a warm-up that rehearses them is no reason to time them.

    Raises:
        RecipeError: the recipe has no HTTP request, and some are to be sent.
    """
    if not load.requests:
        return NO_TRAFFIC
    probe = first_probe(recipe.container)
    last = [probe.action] if isinstance(probe, Probe) else []
    rehearsed = [step.action for step in recipe.after_restore if isinstance(step, Step)]
    steps = [step.action for step in recipe.warmup if step.action not in rehearsed]
    actions = [action for action in steps or last if isinstance(action, HttpGet)]
    if actions:
        return Traffic(actions, load.requests, load.idle_s)
    raise RecipeError(
        f"the recipe {recipe.name} has no HTTP request to time",
        hint="omit --requests, or add an httpGet to its warmup",
    )


def find_subject(image: WarmImage) -> Subject:
    """Return the subject of an image built by warmstart, restored by the runtime if both can."""
    source, layout, provenance = image.source, image.layout, image.provenance
    base = layout.with_name("base")
    take_apart(layout, base, ENTRYPOINT)
    edits = json.loads(provenance.edits)
    restorer = Restorer.RUNTIME if Restorer.RUNTIME in image.restorers else Restorer.SELF
    by_runtime = MAPPED if edits["mappedBytes"] else PLAIN
    name = by_runtime if restorer is Restorer.RUNTIME else SELF
    restored = Way(name, image.name, provenance.identity, restorer)
    candidates = [Candidate(Way(COLD, f"{IMAGE}:{COLD}"), base), Candidate(restored, layout)]
    return Subject(str(source), image.recipe, candidates, edits["dumpedBytes"], state=image.state)


def measure(context: BuildContext, subject: Subject, load: Load) -> Bench:
    """Start each image in turn for the requested rounds, then start its replicas at once.

    Raises:
        WarmstartError: one of the ways never succeeded.
    """
    context = replace(context, recipe=subject.recipe, beside=subject.beside)
    session, progress = context.session, context.progress
    began, load_before = datetime.now(UTC), os.getloadavg()[0]
    traffic, warmed = find_traffic(subject.recipe, load), list(subject.warmed)
    with start_engine(session, "bench", subnet=SUBNET) as engine:
        with progress.step("import"):
            import_s = [_time(engine.import_image, c.layout, c.way.image, progress.note) for c in subject.candidates]
        tallies = [_Tally(candidate.way) for candidate in subject.candidates]
        with progress.step("starts"):
            for number in range(load.rounds):
                turn = number % len(tallies)
                for tally in (*tallies[turn:], *tallies[:turn]):
                    progress.note(f"round {number + 1} of {load.rounds}: {tally.way.name}")
                    if load.cold_cache:
                        drop_page_cache()
                    tally.start(engine, subject, f"{tally.way.name}-{number}", traffic)
                if number < load.warmed:
                    progress.note(f"round {number + 1} of {load.rounds}: warm up")
                    warmed.append(_warm_up(context, engine, tallies[0].way, traffic, f"warmed-{number}"))
        for tally in tallies:
            tally.check()
        losses = dict.fromkeys(line for tally in tallies for line in describe(tally.losses or ()))
        notes = [*subject.notes, *(f"not everything is restored: {line}" for line in losses)]
        with progress.step("replicas") if load.replicas else contextlib.nullcontext():
            bursts = [_start_many(engine, tally, subject, load, notes) for tally in tallies]
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
    return Bench(subject.name, began, machine, load, series, tuple(warmed), subject.pages_bytes, tuple(notes))


def _warm_up(context: BuildContext, engine: LocalEngine, way: Way, traffic: Traffic, name: str) -> Requests:
    """Start the application cold, warm it up as for a checkpoint, and send requests to it."""
    container = context.recipe.container
    with context.beside.start(engine, container, way.image, name) as running:
        wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
        run_warmup(context, running, 1)
        return traffic.run(running)


@dataclass
class _Tally:
    """The results of one way of starting so far."""

    way: Way
    starts: list[Start] = field(default_factory=list)
    failures: list[WarmstartError] = field(default_factory=list)
    losses: Differences | None = None

    def start(self, engine: LocalEngine, subject: Subject, name: str, traffic: Traffic) -> None:
        """Start once more. Record a failure and continue."""
        try:
            start = measure_start(
                engine,
                self.way,
                subject.recipe.container,
                name,
                traffic=traffic,
                beside=subject.beside,
                examine=partial(self._examine, subject.state),
            )
            self.starts.append(start)
        except WarmstartError as error:
            self.failures.append(error)

    def _examine(self, before: KernelState, running: CriContainer) -> None:
        """Compare the kernel state of the first container that was restored with the one before the checkpoint."""
        if self.losses is None and self.way.restorer is Restorer.RUNTIME:
            with contextlib.suppress(OSError):  # it has ended
                self.losses = find_losses(before, running.engine.proc, running.pid, exact=True)

    def check(self) -> None:
        """Raise the first failure if there was no success."""
        if not self.starts:
            raise self.failures[0]


def _start_many(engine: LocalEngine, tally: _Tally, subject: Subject, load: Load, notes: list[str]) -> Burst | None:
    replicas = load.replicas
    if not replicas:
        return None
    needed_bytes = replicas * max(start.memory.anonymous_bytes for start in tally.starts)
    if needed_bytes > SHARE_OF_MEMORY * read_available_bytes():
        notes.append(
            f"{replicas} replicas at once, {tally.way.name}: left out, since they need {needed_bytes / 2**30:.1f} GiB"
        )
        return None
    if load.cold_cache:
        drop_page_cache()
    return measure_burst(engine, tally.way, subject.recipe.container, replicas, beside=subject.beside)


def make_image(taken: TakenCheckpoint, name: str) -> tuple[Candidate, EditedDump]:
    """Make the image PLAIN or MAPPED of a checkpoint in a directory of that name, and leave the checkpoint as it is."""
    context, dumped = taken.context, taken.dumped
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
    archive = assemble.read_archive(own, own_archive, dumped.completion)
    began = time.monotonic()
    with assemble.open_container(own.session, directory) as container, Packer() as packer:
        dump = assemble.edit_dump(own, packer, dumped, archive)
        provenance = assemble.describe(own, taken.engine, archive.find(DUMP_LOG), dumped.warm, dump)
        layout = assemble.make_layout(own, container, dumped, archive, dump, taken.base, provenance)
    pack_s = time.monotonic() - began
    for path in (archive.root, directory / "addition", directory / "buildah"):
        shutil.rmtree(path)
    way = Way(name, f"{IMAGE}:{name}", dumped.warm.identity, Restorer.RUNTIME)
    return Candidate(way, layout, pack_s), dump


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
