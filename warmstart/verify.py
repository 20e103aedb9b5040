"""Seeing an image restore before anybody else has to.

It is restored by a CRI-O that has never seen the base image, in pods with other addresses than the build's, more than
once. A restore counts when the runtime says that it restored, the readiness probe succeeds, and the process is the one
that was dumped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import AppError, EngineError, ImageError, VerifyError, WarmstartError
from warmstart.core.steps import Steps
from warmstart.core.workspace import open_workspace
from warmstart.dump.identity import read_identity
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, find_access, find_binds, start_engine
from warmstart.image.annotations import read_provenance
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.reference import Source, parse_reference
from warmstart.image.skopeo import copy_image
from warmstart.node.network import Network, connect_network
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree
from warmstart.probe import wait_first_success
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Container, Probe

SUBNET = "10.89.0.0/24"
RESTORES = 2
LIMIT_S = 60.0


@dataclass(frozen=True)
class Restore:
    """One restore that was seen.

    Attributes:
        address: the pod's IP address.
        runtime_s: seconds from the request to create the container until the runtime said that it runs.
        first_success_s: seconds from the same moment until the readiness probe first succeeded.
    """

    address: str
    runtime_s: float
    first_success_s: float


def verify_image(
    session: Session,
    layout: Path,
    image_name: str,
    container: Container,
    identity: str,
    steps: Steps,
) -> tuple[Restore, ...]:
    """Restore an image on an empty store, RESTORES times.

    Args:
        session: where to run the CRI-O that restores.
        layout: where the image is.
        image_name: the name it has, or is to have.
        container: what the pod is to ask for; it has at least one probe.
        identity: of the process that was dumped; see `warmstart.dump.identity`.
        steps: is told how far it is.

    Raises:
        VerifyError: it did not restore, or what runs is not the process that was dumped.
        ImageError: it could not be read.
    """
    with start_engine(session, "verify", subnet=SUBNET) as engine:
        steps.note("bringing the image to an empty store")
        engine.import_image(layout, image_name, steps.note)
        return tuple(
            _restore_once(engine, image_name, container, identity, number, steps) for number in range(RESTORES)
        )


def verify_source(
    source: Source,
    cache: Path,
    plain_http: Sequence[str],
    auth_file: Path | None,
    steps: Steps,
    network: Network = Network.NONE,
) -> tuple[Restore, ...]:
    """Restore an image that warmstart made earlier, from wherever it is now, as `verify_image` does.

    Args:
        source: where it is.
        cache: the directory of the tree of tools.
        plain_http: registries (HOST:PORT) to speak to without TLS.
        auth_file: the file of credentials; the usual ones when None.
        steps: is told how far it is.
        network: what the restored containers reach.

    Raises:
        ImageError: it is not there, or warmstart did not make it.
        VerifyError: it does not restore.
    """
    if source.path is not None:
        # The node's programs do not run in the current directory.
        source = replace(source, path=source.path.absolute())
    with open_workspace("verify") as workspace:
        with steps.step("tools"):
            tree = ensure_tree(cache, steps.note)
        with enter(tree, workspace, binds=find_binds(source)) as node, connect_network(node, network) as session:
            layout = workspace / "layout"
            access = find_access(session, source, plain_http, auth_file)
            with steps.step("pull"):
                copy_image(session, str(source), f"oci:{layout}", access=access, on_line=steps.note)
            image = read_image(layout)
            check_platform(image.config.platform, str(source))
            provenance = read_provenance(image.manifest.annotations)
            if provenance is None:
                raise ImageError(f"{source} has no record of how it was built; warmstart did not make it")
            recipe = parse_recipe(provenance.recipe, f"the recipe in {source}")
            name = str(source.reference or parse_reference(recipe.image_name))
            with steps.step("verify"):
                return verify_image(session, layout, name, recipe.container, provenance.identity, steps)


def _restore_once(
    engine: LocalEngine, image_name: str, container: Container, identity: str, number: int, steps: Steps
) -> Restore:
    steps.note(f"restore {number + 1} of {RESTORES}")
    try:
        with engine.cri.start(container, image_name, f"verify-{number}") as running:
            return _see_it_run(engine, running, container, identity)
    except (AppError, EngineError) as error:
        raise _verify_error(error) from error


def _see_it_run(engine: LocalEngine, running: CriContainer, container: Container, identity: str) -> Restore:
    probe = first_probe(container)
    wait_first_success(running, probe, limit_s=LIMIT_S)
    first_success_s = time.monotonic() - running.started
    if not running.restored:
        raise VerifyError("the runtime started the image cold instead of restoring it")
    try:
        found = read_identity(engine.cri.proc, running.pid)
    except OSError as error:
        raise VerifyError("the restored process ended right after its first answer") from error
    if found != identity:
        raise VerifyError("what runs is not the process that was dumped, but a new one")
    return Restore(running.address, running.running - running.started, first_success_s)


def first_probe(container: Container) -> Probe:
    """The probe whose first success is the end of a start: readiness, else startup; a recipe has one of them."""
    probe = container.readiness_probe or container.startup_probe
    assert probe is not None
    return probe


def _verify_error(error: WarmstartError) -> VerifyError:
    brief = f"the image did not restore: {error.brief}"
    hint = "nothing was published; look at it with --keep, and at docs/troubleshooting.md"
    return VerifyError(brief, details=error.details, hint=hint)
