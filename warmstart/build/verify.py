"""Verify an image: restore it before anyone else has to.

It is restored under other IP addresses than the build's, more than once. A restore counts if the restorer reports it,
the readiness probe succeeds, and the process is the one that was dumped. An image that restores itself must do so in
pods without privileges, where the runtime does not restore; and it must start cold when that is asked for.

The image is complete in itself. All its blobs are checked against their digests, and the CRI-O that restores it knows
no other image: a restore that secretly needs the base image fails with "image not known". Unpacked layers may come from
the cache, where they lie by the digests of their content; the name of an image never leads to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from warmstart.build.beside import ALONE, Beside
from warmstart.build.cold_start import ColdStart, observe_cold_start
from warmstart.build.kernel_state import Differences, find_losses, judge_losses
from warmstart.build.launcher_report import LauncherTimes, await_launcher, read_launcher_times
from warmstart.core.errors import AppError, EngineError, VerifyError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source, Transport
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.proc.container import list_children
from warmstart.dump.state.model import KernelState
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.image.cache.blobs import BlobCache
from warmstart.image.mount_points import check_opened
from warmstart.image.open import open_image
from warmstart.image.selfrestore.pack import HOOK
from warmstart.node.crio import PAUSE_IMAGE
from warmstart.probe.readiness import restored_probe, wait_first_success
from warmstart.recipe.model import Container, Recipe, Restorer, Step

# The bridge of a CRI-O outlives it, so each has addresses of its own.
SUBNET = "10.89.0.0/24"
SELF_SUBNET = "10.89.1.0/24"
RESTORES = 2
LIMIT_S = 60.0
# In addition to the time limits of its steps.
HOOK_S = 10.0


@dataclass(frozen=True)
class Restore:
    """One restore.

    Attributes:
        address: the pod's IP address.
        runtime_s: seconds from the request to create the container until the runtime reported it as running.
        first_success_s: seconds from the same moment until the readiness probe first succeeded.
        restorer: who restored.
        launcher_ms: milliseconds that the launcher took, by its own clock; None if the runtime restored.
        hooks_ms: the same of the application's hooks after it; None if it has none.
    """

    address: str
    runtime_s: float
    first_success_s: float
    restorer: Restorer = Restorer.RUNTIME
    launcher_ms: int | None = None
    hooks_ms: int | None = None

    @property
    def how(self) -> str:
        """Describe who restored."""
        return "restored" if self.launcher_ms is None else f"restored itself in {self.launcher_ms} ms"


@dataclass(frozen=True)
class Subject:
    """An image to be verified.

    Attributes:
        layout: the OCI layout that holds it.
        name: its name, now or once it is published.
        container: what the pod asks for; it has at least one probe.
        identity: of the dumped process; see `warmstart.dump.criu.fingerprint`.
        restorers: who must restore it.
        state: kernel state of the application before the checkpoint.
        beside: the company of the container.
        hook_limit_s: time limit of the hook with which a pod does the steps after a restore by the runtime; 0 for none.
        force: whether to accept an application that is restored with a changed state, if it is not less restricted.
    """

    layout: Path
    name: str
    container: Container
    identity: str
    restorers: Sequence[Restorer] = (Restorer.RUNTIME,)
    state: KernelState = field(default_factory=KernelState)
    beside: Beside = ALONE
    hook_limit_s: float = 0.0
    force: bool = False


def find_hook_limit_s(recipe: Recipe, restorers: Sequence[Restorer]) -> float:
    """Return the time limit of the hook for an image; 0 if it has no steps, or no launcher that could do them."""
    if not recipe.after_restore or Restorer.SELF not in restorers:
        return 0.0
    return HOOK_S + sum(step.timeout_s for step in recipe.after_restore if isinstance(step, Step))


def verify_image(
    subject: Subject, engine: LocalEngine, progress: Progress, cold: ColdStart | None = None
) -> tuple[Restore, ...]:
    """Restore an image RESTORES times by each restorer.

    Args:
        subject: the image.
        engine: a CRI-O that restores, and has only this image.
        progress: progress reporter.
        cold: a cold start of this image that has begun already; None to begin one here.

    Raises:
        VerifyError: it did not restore or start, or another process runs than the one that was dumped.
    """
    restores: list[Restore] = []
    with ExitStack() as ended:
        if Restorer.SELF in subject.restorers:
            if cold is None:
                opener = partial(open_plain_engine, engine, subject.restorers)
                cold = ended.enter_context(
                    observe_cold_start(opener, subject.name, subject.container, beside=subject.beside)
                )
            # The image's config has the recipe's command, behind the launcher.
            container = subject.container.run_by_image()
            restores += _Pod(cold.engine(), subject, container, Restorer.SELF).restore(progress)
        if Restorer.RUNTIME in subject.restorers:
            require_sole_image(engine, subject.name)
            restores += _Pod(engine, subject, subject.container, Restorer.RUNTIME).restore(progress)
        if cold is not None:
            progress.note("cold start")
            cold.wait()
    return tuple(sorted(restores, key=lambda restore: subject.restorers.index(restore.restorer)))


@contextmanager
def open_plain_engine(engine: LocalEngine, restorers: Sequence[Restorer]) -> Iterator[LocalEngine]:
    """Open an engine that starts images as they are, and finds those of another engine too.

    Args:
        engine: the other engine.
        restorers: who restores the image; without the runtime, it has no checkpoint that an engine would restore.
    """
    if Restorer.RUNTIME not in restorers:
        yield engine
        return
    stores = (*engine.stores, engine.root)
    with start_engine(engine.session, "verify-self", subnet=SELF_SUBNET, restore=False, stores=stores) as plain:
        # An import here must not use layers that are being imported there at the same moment.
        yield replace(plain, stores=engine.stores)


def require_sole_image(engine: LocalEngine, name: str) -> None:
    """Check that a CRI-O knows one image only, so that a restore cannot use another.

    Raises:
        VerifyError: it knows others.
    """
    others = sorted({*engine.cri.list_images()} - {name, PAUSE_IMAGE})
    if others:
        raise VerifyError(f"cannot verify {name}: the runtime also knows {', '.join(others)}")


def check_content(layout: Path, name: str, known: BlobCache | None = None) -> None:
    """Check an image before a runtime sees it: its digests, and the links that its mounts lead through.

    Args:
        layout: the layout that holds it.
        name: its name in errors.
        known: lists of layers that were read before.

    Raises:
        ImageError: a blob is missing or damaged, or links lead the mounts of its container elsewhere.
        ArchiveError: the checkpoint in it is broken.
    """
    with (
        open_image(Source(Transport.OCI, path=layout)) as opened,
        TemporaryDirectory(dir=layout.parent, prefix="links-") as scratch,
    ):
        check_opened(opened, Path(scratch), name, known)


@dataclass(frozen=True)
class _Pod:
    """A pod of the image, before it is started."""

    engine: LocalEngine
    subject: Subject
    container: Container
    restorer: Restorer

    def restore(self, progress: Progress) -> list[Restore]:
        restores: list[Restore] = []
        losses: list[Differences] = []
        for number in range(RESTORES):
            progress.note(f"restore {number + 1} of {RESTORES}")
            # Only losses of all restores count.
            before = self.subject.state if all(losses) else KernelState()
            restore, lost = self._restore(f"verify-{number}", before)
            restores.append(restore)
            losses.append(lost)
        who = "the runtime" if self.restorer is Restorer.RUNTIME else "the launcher"
        judge_losses(losses, who, progress, force=self.subject.force)
        return restores

    def _restore(self, name: str, before: KernelState) -> tuple[Restore, Differences]:
        """Restore once, and return the losses against the state before the checkpoint."""
        try:
            with self.subject.beside.start(self.engine, self.container, self.subject.name, name) as running:
                if self.restorer is Restorer.RUNTIME and self.subject.hook_limit_s:
                    run_hook(running, self.subject.hook_limit_s)
                sign = restored_probe(self.container)
                if self.restorer is Restorer.SELF:
                    await_launcher(running, sign)
                ready = wait_first_success(running, sign, limit_s=LIMIT_S)
                first_success_s = ready.at - running.requested_at
                times = self._check_restorer(running)
                losses = self._check_process(running, before)
        except (AppError, EngineError) as error:
            brief = f"the image did not restore: {error.brief}"
            hint = "nothing was published; run again with --keep to inspect it, and see docs/troubleshooting.md"
            raise VerifyError(brief, details=error.details, hint=hint) from error
        runtime_s = running.started_at - running.requested_at
        restored = Restore(running.address, runtime_s, first_success_s, self.restorer)
        if times:
            restored = replace(restored, launcher_ms=times.restore_ms, hooks_ms=times.hooks_ms)
        return restored, losses

    def _check_restorer(self, running: CriContainer) -> LauncherTimes | None:
        """Return the launcher's times; None if the runtime restored."""
        if self.restorer is Restorer.SELF:
            return read_launcher_times(running)
        if not running.restored:
            raise VerifyError("the runtime started the image cold instead of restoring it")
        return None

    def _check_process(self, running: CriContainer, before: KernelState) -> Differences:
        """Check that it is the dumped process, and return the losses of its state."""
        proc, pid = self.engine.proc, running.pid
        try:
            found = read_identities(proc, pid)
            losses = find_losses(before, proc, pid, exact=self.restorer is Restorer.RUNTIME)
        except OSError as error:
            raise VerifyError("the restored process ended right after its first answer") from error
        if self.subject.identity not in found:
            raise VerifyError("the running process is not the dumped one: the application was started anew")
        return losses


def run_hook(running: CriContainer, limit_s: float) -> None:
    """Do the steps after a restore by the runtime as the pod's hook does.

    Raises:
        AppError: a step failed.
    """
    try:
        result = running.exec(HOOK, limit_s)
    except TimeoutError as error:
        raise AppError(f"the steps after the restore took longer than {limit_s:g} s") from error
    if result.exit_code:
        lines = result.stderr.splitlines() or [f"the hook ended with exit status {result.exit_code}"]
        raise AppError(lines[0].removeprefix("warmstart: "), details=lines[1:])


def read_identities(proc: Path, pid: int) -> set[str]:
    """Return the identities of the init process and its children.

    With the launcher as init, the application is a child. A child that has ended has no identity.

    Raises:
        OSError: the init process has ended.
    """
    found = {read_identity(proc, pid)}
    for child in list_children(proc, pid):
        with suppress(OSError):
            found.add(read_identity(proc, child))
    return found
