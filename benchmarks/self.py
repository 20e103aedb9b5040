"""What an image that restores itself gains, beside a cold start and a restore by the runtime: measured in turn."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from warmstart.bench.result import Spread
from warmstart.bench.run import open_session
from warmstart.build import pipeline as build
from warmstart.build.base import BaseImage, fetch_base, find_source
from warmstart.build.beside import ALONE, Beside
from warmstart.build.container import open_engine
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.result import BuildCandidate
from warmstart.build.services import open_companions
from warmstart.build.verify import read_identities, read_launcher_times
from warmstart.core.errors import VerifyError
from warmstart.core.progress import Progress
from warmstart.core.reference import parse_reference
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.model import Container, Recipe, Restorer

SUBNET = "10.93.0.0/24"
IMAGE = "localhost/warmstart/bench"


@dataclass
class Starts:
    """Starts in one way.

    Attributes:
        image: what is started.
        container: what its pods ask for.
        identity: of the process that a restore brings back; empty for a cold start.
        restorer: who restores; None for a cold start.
        beside: the company of the containers.
        seconds: from the request to create the container until its probe succeeded, of each start.
        launcher_ms: how long the launcher took, by its own line in the log, of each start.
    """

    image: str
    container: Container
    identity: str = ""
    restorer: Restorer | None = None
    beside: Beside = ALONE
    seconds: list[float] = field(default_factory=list)
    launcher_ms: list[int] = field(default_factory=list)

    def start(self, engine: LocalEngine, name: str) -> None:
        """Start once more, and see that it was in this way."""
        with self.beside.start(engine, self.container, self.image, name) as running:
            wait_first_success(running, first_probe(self.container), limit_s=find_limit_s(self.container))
            self.seconds.append(time.monotonic() - running.requested_at)
            if self.restorer is Restorer.SELF:
                self.launcher_ms.append(read_launcher_times(running).restore_ms)
            self._check(engine, running)

    def _check(self, engine: LocalEngine, running: CriContainer) -> None:
        if running.restored != (self.restorer is Restorer.RUNTIME):
            raise VerifyError(f"{self.image} was restored instead of started cold, or the reverse")
        if self.identity and self.identity not in read_identities(engine.proc, running.pid):
            raise VerifyError(f"the running process is not the one dumped into {self.image}")


@dataclass(frozen=True)
class Comparison:
    """How an application starts in each way, and the memory that its dump held."""

    pages_bytes: int
    cold: Starts
    runtime: Starts
    itself: Starts

    @property
    def medians(self) -> tuple[float, float, float]:
        """Seconds of a cold start, a restore by the runtime, one by the image itself."""
        cold, runtime, itself = (Spread.of(starts.seconds).median for starts in (self.cold, self.runtime, self.itself))
        return cold, runtime, itself

    @property
    def launcher_ms(self) -> Spread:
        """How long the launcher took."""
        return Spread.of(self.itself.launcher_ms)

    def write(self, path: Path) -> None:
        """Leave all figures as JSON."""
        ways: Sequence[Starts] = (self.cold, self.runtime, self.itself)
        figures = [{name: asdict(starts)[name] for name in ("image", "seconds", "launcher_ms")} for starts in ways]
        path.write_text(json.dumps({"pagesBytes": self.pages_bytes, "ways": figures}, indent=1))


def compare_restorers(recipe: Recipe, options: BuildOptions, rounds: int, progress: Progress) -> Comparison:
    """Make an image for each restorer, and start both and the base image in turn, `rounds` times each.

    Raises:
        WarmstartError: a step failed, or an image was not started as it was to be.
    """
    source = find_source(recipe)
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        base = fetch_base(context, source)
        made = {restorer: make_image(context, base, restorer) for restorer in Restorer}
        ways = [Starts(f"{IMAGE}:cold", recipe.container)]
        for restorer in Restorer:
            container = recipe.container
            if restorer is Restorer.SELF:
                container = container.run_by_image()
            ways.append(Starts(f"{IMAGE}:{restorer}", container, made[restorer].warm.identity, restorer))
        with start_engine(session, "restorers", subnet=SUBNET) as engine, progress.step("starts"):
            layouts = (base.layout, *(each.layout for each in made.values()))
            for way, layout in zip(ways, layouts, strict=True):
                engine.import_image(layout, way.image)
            start_in_turn(engine, ways, rounds, progress)
        cold, runtime, itself = ways
        return Comparison(made[Restorer.SELF].dump.pages_bytes, cold, runtime, itself)


def start_in_turn(engine: LocalEngine, ways: Sequence[Starts], rounds: int, progress: Progress) -> None:
    """Start each way once in a round, and begin each round with another one."""
    for number in range(rounds):
        progress.note(f"round {number + 1} of {rounds}")
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            way.start(engine, f"start-{number}")


def make_image(context: BuildContext, base: BaseImage, restorer: Restorer) -> BuildCandidate:
    """Make the image for one restorer, in a directory of its own."""
    directory = context.workspace / restorer
    directory.mkdir()
    own = replace(
        context,
        recipe=replace(context.recipe, restore=(restorer,), image=parse_reference(f"{IMAGE}:{restorer}")),
        session=replace(context.session, workspace=directory),
    )
    with open_companions(own) as companions, open_engine(own, None) as engine, contextlib.ExitStack() as undo:
        return build.make_candidate(own, engine, base, companions, undo)
