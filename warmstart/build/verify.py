"""Verify that an image restores.

A CRI-O with an empty store restores it RESTORES times, in pods with other addresses than the build's. A restore counts
if the restorer reports it, the readiness probe succeeds, and the process is the dumped one. An image that restores
itself must do so in pods without privileges on a runtime that does not restore, and must start cold if WARMSTART=off is
set.
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

# The bridge of a CRI-O outlives it, so each CRI-O has addresses of its own.
SUBNETS = {Restorer.RUNTIME: "10.89.0.0/24", Restorer.SELF: "10.89.1.0/24"}
RESTORES = 2
LIMIT_S = 60.0
# This variable tells the launcher not to restore.
COLD = ("WARMSTART", "off")
LOG_LINES = 1000
LOG_S = 5.0

_Result = TypeVar("_Result")

#: Decides whether a pulled image may run. Takes its layout, its source and the recipe in its annotations, and returns
#: the recipe to use. Raises PrivilegeError if the image asks for privileges that the user does not grant.
Decide = Callable[[Path, Source, Recipe], Recipe]


@dataclass(frozen=True)
class Restore:
    """A successful restore.

    Attributes:
        address: the pod's IP address.
        runtime_s: seconds from the request to create the container until the runtime reported it as started.
        first_success_s: seconds from the same request until the readiness probe first succeeded.
        restorer: the restorer.
        launcher_ms: duration of the restore by the launcher's own clock; None if the runtime restored.
    """

    address: str
    runtime_s: float
    first_success_s: float
    restorer: Restorer = Restorer.RUNTIME
    launcher_ms: int | None = None

    @property
    def how(self) -> str:
        """Describe the restorer in a phrase."""
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
    """Restore an image from an empty store, RESTORES times by each restorer.

    Args:
        session: session for the CRI-O.
        layout: layout of the image.
        image_name: name of the image in the store.
        container: container of the pod, with at least one probe.
        identity: identity of the dumped process; see `warmstart.dump.criu.fingerprint`.
        progress: progress reporter.
        restorers: restorers to try.
        restrictions: restrictions of the dumped threads, which the restored ones must have.

    Raises:
        VerifyError: the image did not restore, or the running process is not the dumped one.
        ImageError: the image could not be read.
    """
    if Restorer.SELF in restorers:
        # The image has the recipe's command, after the launcher's.
        container = replace(container, command=(), args=())
    restores: list[Restore] = []
    for restorer in restorers:
        by_runtime = restorer is Restorer.RUNTIME
        name = "verify" if by_runtime else "verify-self"
        with start_engine(session, name, subnet=SUBNETS[restorer], restore=by_runtime) as engine:
            progress.note("importing the image into an empty store")
            engine.import_image(layout, image_name, progress.note)
            pod = _Pod(engine, image_name, container, identity, restorer, restrictions or {})
            for number in range(RESTORES):
                progress.note(f"restore {number + 1} of {RESTORES}")
                restores.append(pod.run(f"verify-{number}", _check_restore))
            if not by_runtime:
                progress.note("cold start")
                cold = replace(pod, container=replace(container, env=(*container.env, COLD)))
                cold.run("verify-cold", _check_cold_start)
    return tuple(restores)


def check_links(layout: Path, name: str) -> None:
    """Refuse an image with links that redirect the mounts of its container, before a runtime gets it.

    Raises:
        ImageError: the image has such links, or a layer is broken.
        ArchiveError: its checkpoint is broken.
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
    """Verify an existing image, as `verify_image` does.

    Args:
        source: location of the image.
        cache: cache directory of the tools.
        access: registries without TLS, and the credentials file.
        progress: progress reporter.
        network: network of the restored containers.
        decide: decides whether the image may run, and returns its recipe.

    Raises:
        ImageError: the image does not exist, or was not built by warmstart.
        PrivilegeError: the image asks for privileges that the user does not grant.
        VerifyError: the image does not restore.
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
    """A pod to start, and the expected state of its container."""

    engine: LocalEngine
    image_name: str
    container: Container
    identity: str
    restorer: Restorer
    restrictions: Mapping[int, Restrictions]

    def run(self, name: str, check: Callable[[_Pod, CriContainer, float], _Result]) -> _Result:
        """Start the pod, wait until its probe succeeds, and call `check` with the seconds that this took."""
        try:
            with self.engine.cri.start(self.container, self.image_name, name) as running:
                wait_first_success(running, first_probe(self.container), limit_s=LIMIT_S)
                return check(self, running, time.monotonic() - running.requested_at)
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
    """Return the duration of the restore in the launcher's log.

    Raises:
        VerifyError: the launcher started the application cold.
    """
    line = _await_launcher(running)
    if match := RESTORED.match(line):
        return int(match[1])
    raise VerifyError(f"the image started cold instead of restoring itself: {line}", details=running.log_tail(10))


def _await_launcher(running: CriContainer) -> str:
    """Return the launcher's log line about its start. Other processes write the log, so it may lag behind.

    Raises:
        VerifyError: there is no such line after LOG_S.
    """
    deadline = time.monotonic() + LOG_S
    while time.monotonic() < deadline:
        for line in running.log_tail(LOG_LINES):
            if RESTORED.match(line) or COLD_START.match(line):
                return line
        time.sleep(0.02)
    raise VerifyError("the launcher logged neither a restore nor a cold start", details=running.log_tail(10))


def read_identities(proc: Path, pid: int) -> set[str]:
    """Identities of the first process and its children; with the launcher as the first, the application is a child."""
    return {read_identity(proc, each) for each in (pid, *list_children(proc, pid))}


def _check_cold_start(pod: _Pod, running: CriContainer, first_success_s: float) -> None:
    del pod, first_success_s
    if RESTORED.match(_await_launcher(running)):
        raise VerifyError("the image restored itself although WARMSTART=off was set", details=running.log_tail(10))


def _verify_error(error: WarmstartError) -> VerifyError:
    brief = f"the image did not restore: {error.brief}"
    hint = "nothing was published; run again with --keep to inspect it, and see docs/troubleshooting.md"
    return VerifyError(brief, details=error.details, hint=hint)
