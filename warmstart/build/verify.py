"""Seeing an image restore before anybody else has to.

It is restored by a CRI-O that has never seen the base image, in pods with other addresses than the build's, more than
once. A restore counts when who restores says that it did, the readiness probe succeeds, and the process is the one that
was dumped. An image that restores itself is seen to do so where the runtime does not restore, in pods that are granted
nothing, and to start cold when it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from warmstart.core.errors import AppError, EngineError, ImageError, VerifyError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source, Transport
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.proc.container import list_children
from warmstart.dump.proc.restrictions import Restrictions, find_lost, read_restrictions
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, find_access, find_binds, start_engine
from warmstart.image.annotations import read_provenance
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.mount_points import check_opened
from warmstart.image.open import open_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.selfrestore.pack import COLD_START, RESTORED
from warmstart.image.skopeo import copy_image
from warmstart.node.network import Network
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Container, Recipe, Restorer

# The bridge of a CRI-O outlives it, so each has addresses of its own.
SUBNETS = {Restorer.RUNTIME: "10.89.0.0/24", Restorer.SELF: "10.89.1.0/24"}
RESTORES = 2
LIMIT_S = 60.0
# What tells the launcher not to restore.
COLD = ("WARMSTART", "off")
LOG_LINES = 1000
LOG_S = 5.0

_Seen = TypeVar("_Seen")

#: Decides on a pulled image, before any of it runs: given its layout, where it is from, and the recipe that it claims,
#: returns the recipe to run it by. Raises PrivilegeError for an image that asks for more than its user allows.
Decide = Callable[[Path, Source, Recipe], Recipe]


@dataclass(frozen=True)
class Restore:
    """One restore that was seen.

    Attributes:
        address: the pod's IP address.
        runtime_s: seconds from the request to create the container until the runtime said that it runs.
        first_success_s: seconds from the same moment until the readiness probe first succeeded.
        restorer: who restored.
        launcher_ms: how long the launcher took, by its own clock; None where the runtime restored.
    """

    address: str
    runtime_s: float
    first_success_s: float
    restorer: Restorer = Restorer.RUNTIME
    launcher_ms: int | None = None

    @property
    def how(self) -> str:
        """Who restored, in words."""
        return "restored" if self.launcher_ms is None else f"restored itself in {self.launcher_ms} ms"


def verify_image(
    session: Session,
    layout: Path,
    image_name: str,
    container: Container,
    identity: str,
    progress: Progress,
    restorers: Sequence[Restorer] = (Restorer.RUNTIME,),
    restrictions: Mapping[int, Restrictions] | None = None,
) -> tuple[Restore, ...]:
    """Restore an image on an empty store, RESTORES times by each restorer.

    Args:
        session: where to run the CRI-O that restores.
        layout: where the image is.
        image_name: the name it has, or is to have.
        container: what the pod is to ask for; it has at least one probe.
        identity: of the process that was dumped; see `warmstart.dump.criu.fingerprint`.
        steps: is told how far it is.
        restorers: who is to restore it.
        restrictions: of the threads that were dumped; none may be lost.

    Raises:
        VerifyError: it did not restore, or what runs is not the process that was dumped.
        ImageError: it could not be read.
    """
    if Restorer.SELF in restorers:
        # What the recipe says of the command is in the image, behind the launcher.
        container = replace(container, command=(), args=())
    seen: list[Restore] = []
    for restorer in restorers:
        by_runtime = restorer is Restorer.RUNTIME
        name = "verify" if by_runtime else "verify-self"
        with start_engine(session, name, subnet=SUBNETS[restorer], restore=by_runtime) as engine:
            progress.note("importing the image into an empty store")
            engine.import_image(layout, image_name, progress.note)
            pod = _Pod(engine, image_name, container, identity, restorer, restrictions or {})
            for number in range(RESTORES):
                progress.note(f"restore {number + 1} of {RESTORES}")
                seen.append(pod.see(f"verify-{number}", _check_restore))
            if not by_runtime:
                progress.note("cold start")
                cold = replace(pod, container=replace(container, env=(*container.env, COLD)))
                cold.see("verify-cold", _check_cold_start)
    return tuple(seen)


def check_links(layout: Path, name: str) -> None:
    """Refuse an image in which links lead the mounts of its container elsewhere, before a runtime sees it.

    Raises:
        ImageError: they do, or a layer is broken.
        ArchiveError: the checkpoint in it is broken.
    """
    with (
        open_image(Source(Transport.OCI, path=layout)) as opened,
        TemporaryDirectory(dir=layout.parent, prefix="links-") as scratch,
    ):
        check_opened(opened, Path(scratch), name)


def verify_source(
    source: Source,
    cache: Path,
    access: RegistryAccess,
    progress: Progress,
    network: Network = Network.NONE,
    *,
    decide: Decide,
) -> tuple[Restore, ...]:
    """Restore an image that warmstart made earlier, from wherever it is now, as `verify_image` does.

    Args:
        source: where it is.
        cache: the directory of the tree of tools.
        access: registries without TLS, and the file of credentials.
        steps: is told how far it is.
        network: what the restored containers reach.
        decide: decides whether it may run, and by which recipe.

    Raises:
        ImageError: it is not there, or warmstart did not make it.
        PrivilegeError: it asks for more than its user allows.
        VerifyError: it does not restore.
    """
    if source.path is not None:
        # The node's programs do not run in the current directory.
        source = replace(source, path=source.path.absolute())
    with open_node("verify", cache, progress, binds=find_binds(source), network=network) as session:
        layout = session.workspace / "layout"
        skopeo_access = find_access(session, source, access)
        with progress.step("pull"):
            copy_image(session, str(source), f"oci:{layout}", access=skopeo_access, on_line=progress.note)
        image = read_image(layout)
        check_platform(image.config.platform, str(source))
        provenance = read_provenance(image.manifest.annotations)
        if provenance is None:
            raise ImageError(f"{source} was not built by warmstart: it has no build record")
        recipe = decide(layout, source, parse_recipe(provenance.recipe, f"the recipe in {source}"))
        name = str(source.reference or recipe.image)
        with progress.step("verify"):
            check_links(layout, name)
            return verify_image(session, layout, name, recipe.container, provenance.identity, progress, recipe.restore)


@dataclass(frozen=True)
class _Pod:
    """A pod before it is started: where, of which image, what it asks for, and what is to be seen of it."""

    engine: LocalEngine
    image_name: str
    container: Container
    identity: str
    restorer: Restorer
    restrictions: Mapping[int, Restrictions]

    def see(self, name: str, look: Callable[[_Pod, CriContainer, float], _Seen]) -> _Seen:
        """Start it, wait until its probe succeeds, and look at it."""
        try:
            with self.engine.cri.start(self.container, self.image_name, name) as running:
                wait_first_success(running, first_probe(self.container), limit_s=LIMIT_S)
                return look(self, running, time.monotonic() - running.requested_at)
        except (AppError, EngineError) as error:
            raise _verify_error(error) from error


def _check_restore(pod: _Pod, running: CriContainer, first_success_s: float) -> Restore:
    launcher_ms = None
    if pod.restorer is Restorer.SELF:
        launcher_ms = read_launcher_ms(running)
    elif not running.restored:
        raise VerifyError("the runtime started the image cold instead of restoring it")
    try:
        found = read_identities(pod.engine.proc, running.pid)
        restrictions = read_restrictions(pod.engine.proc, running.pid)
    except OSError as error:
        raise VerifyError("the restored process ended right after its first answer") from error
    if pod.identity not in found:
        raise VerifyError("the running process is not the dumped one: the application was started anew")
    if lost := find_lost(pod.restrictions, restrictions, exact=pod.restorer is Restorer.RUNTIME):
        raise VerifyError(
            f"the restored process has fewer restrictions than before the checkpoint: {lost[0]}", details=lost[1:]
        )
    runtime_s = running.started_at - running.requested_at
    return Restore(running.address, runtime_s, first_success_s, pod.restorer, launcher_ms)


def read_launcher_ms(running: CriContainer) -> int:
    """How long the launcher says that it took.

    Raises:
        VerifyError: it started the application cold.
    """
    said = _await_launcher(running)
    if match := RESTORED.match(said):
        return int(match[1])
    raise VerifyError(f"the image started cold instead of restoring itself: {said}", details=running.log_tail(10))


def _await_launcher(running: CriContainer) -> str:
    """What the launcher says that it did. The log may be behind: other processes write it.

    Raises:
        VerifyError: it says nothing.
    """
    deadline = time.monotonic() + LOG_S
    while time.monotonic() < deadline:
        for line in running.log_tail(LOG_LINES):
            if RESTORED.match(line) or COLD_START.match(line):
                return line
        time.sleep(0.02)
    raise VerifyError("the launcher logged neither a restore nor a cold start", details=running.log_tail(10))


def read_identities(proc: Path, pid: int) -> set[str]:
    """Of the first process and of its children, of which one is the application where the first is the launcher."""
    return {read_identity(proc, each) for each in (pid, *list_children(proc, pid))}


def _check_cold_start(pod: _Pod, running: CriContainer, first_success_s: float) -> None:
    del pod, first_success_s
    if RESTORED.match(_await_launcher(running)):
        raise VerifyError("the image restored itself although WARMSTART=off was set", details=running.log_tail(10))


def _verify_error(error: WarmstartError) -> VerifyError:
    brief = f"the image did not restore: {error.brief}"
    hint = "nothing was published; run again with --keep to inspect it, and see docs/troubleshooting.md"
    return VerifyError(brief, details=error.details, hint=hint)
