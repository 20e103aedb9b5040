"""Build with a container in a cluster: it is warmed up and checkpointed there; the rest is as in every build.

Processes on the node are out of reach. A build on this machine examines them while they run; here the same facts are
read afterwards from their dump and the layers of their image.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from warmstart import __version__
from warmstart.build.assemble import edit_dump, make_layout, open_container, read_archive
from warmstart.build.base import BaseImage, fetch_base, find_source, share_layers
from warmstart.build.context import BuildContext, BuildOptions, open_context
from warmstart.build.pipeline import verify_and_publish
from warmstart.build.publish import check_output
from warmstart.build.result import BuildCandidate, BuildResult, EditedDump, RuntimeCheckpoint, WarmState
from warmstart.core.cpu import find_features
from warmstart.core.errors import PreflightError
from warmstart.core.progress import Progress
from warmstart.dump.archive.archive import DUMP_LOG, Archive
from warmstart.dump.criu.contents import Socket, TcpState, read_sockets
from warmstart.dump.criu.fingerprint import find_identity
from warmstart.dump.criu.log import find_version
from warmstart.engine.cluster import make_build_pod, make_pod_name, start_pod
from warmstart.image.annotations import Provenance
from warmstart.image.executables import find_programs
from warmstart.kube.client import Cluster
from warmstart.kube.helper import open_helper
from warmstart.pods.build_pod import check_recipe, make_build_spec
from warmstart.pods.checkpoint import CLOSING_S, CheckpointOptions, FetchedCheckpoint, take_with
from warmstart.probe.readiness import find_limit_s
from warmstart.probe.warmup import run_steps
from warmstart.recipe.load import with_restorers
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.privileges import require_recipe_privileges

_CONNECTED = frozenset(TcpState) - {TcpState.CLOSE, TcpState.LISTEN}


@dataclass(frozen=True)
class PodRun:
    """The result of a build's pod.

    Attributes:
        taken: its checkpoint.
        cold_s: seconds until it was ready, as coarse as the period of its probe.
        cpu_features: of its node; see `WarmState`.
    """

    taken: FetchedCheckpoint
    cold_s: float
    cpu_features: tuple[str, ...]


@dataclass(frozen=True)
class ClusterTarget:
    """Where the container of a build runs.

    Attributes:
        cluster: the cluster; the pod is in its namespace.
        checkpoint: how the checkpoint is taken.
    """

    cluster: Cluster
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


def build_in_cluster(recipe: Recipe, options: BuildOptions, place: ClusterTarget, progress: Progress) -> BuildResult:
    """Build the image of a recipe, as `build_image` does, on a cluster.

    Raises:
        WarmstartError: a step failed; nothing was published, and nothing is left behind.
    """
    require_recipe_privileges(recipe, options.allowed)
    source = find_source(recipe)
    if recipe.restore_is_default and not recipe.needs_self:
        recipe = with_restorers(recipe, (Restorer.RUNTIME,))
    check_recipe(recipe, source.kind)
    check_output(recipe.image, options.output, access=options.access)
    with open_context(recipe, options, progress) as context:
        base = fetch_base(context, source)
        with share_layers(context, base) as stores:
            return verify_and_publish(context, make_restored(context, place, base), base, stores)


def make_restored(context: BuildContext, place: ClusterTarget, base: BaseImage) -> BuildCandidate:
    """Make an image that the runtime restores."""
    ran = run_and_checkpoint(context, place, base)
    archive = read_archive(context, ran.taken.archive)
    warm = learn(context, archive, base, ran)
    dumped = RuntimeCheckpoint(ran.taken.archive, warm, has_tmp=False)
    with open_container(context.session, context.workspace) as container:
        dump = edit_dump(context, dumped, archive)
        provenance = describe(context, place.cluster, ran.taken.pod.node, archive, warm, dump)
        layout = make_layout(context, container, dumped, archive, dump, base, provenance)
    return BuildCandidate(layout, warm, dump, provenance)


def run_and_checkpoint(context: BuildContext, place: ClusterTarget, base: BaseImage) -> PodRun:
    """Run the pod, bring it to the state it is to be restored in, and fetch its checkpoint."""
    recipe, progress = context.recipe, context.progress
    name = make_pod_name(recipe.name)
    made = make_build_spec(recipe, pin(base), name)
    manifest = make_build_pod(made.spec, name, place.cluster.namespace)
    with contextlib.ExitStack() as pod:
        with progress.step("start"):
            running = pod.enter_context(start_pod(place.cluster, manifest, made.secret))
        with progress.step("ready"):
            cold_s = running.await_ready(find_limit_s(recipe.container))
        with progress.step("warm up"):
            run_steps(running, recipe.warmup, on_progress=lambda p: progress.note(f"{p.done} of {p.step.repeat}"))
            run_steps(running, recipe.before_checkpoint, field="beforeCheckpoint")
        # Connections of the warm-up may still be closing.
        time.sleep(CLOSING_S)
        how = replace(place.checkpoint, timeout_s=context.options.checkpoint_timeout_s)
        container, archive = running.pod.find_container(running.name), context.workspace / "checkpoint.tar"
        with progress.step("helper"):
            helper = pod.enter_context(open_helper(place.cluster, running.pod.node, how.errand, writable=not how.keep))
            cpu_features = find_features(helper.read_cpuinfo())
        return PodRun(take_with(helper, running.pod, container, archive, how, progress), cold_s, cpu_features)


def pin(base: BaseImage) -> str:
    """Return the name of the base image with its digest."""
    assert base.source.reference is not None
    return str(replace(base.source.reference, tag=None, digest=base.digest))


def learn(context: BuildContext, archive: Archive, base: BaseImage, ran: PodRun) -> WarmState:
    """Examine the dump and the image instead of the running container.

    Raises:
        PreflightError: connections were open, and the recipe does not allow to close them.
    """
    with context.progress.step("preflight"):
        connected = [one for one in read_sockets(archive.checkpoint_dir) if is_connected(one)]
        if connected and not context.recipe.close_tcp and not context.options.force:
            details = [f"{one.source} to {one.destination}" for one in connected]
            brief = f"{len(connected)} connections were open at the checkpoint"
            hint = "close them before the checkpoint, or set `tcp: close` in the recipe"
            raise PreflightError(brief, details=details, hint=hint)
        identity, programs = find_identity(archive.checkpoint_dir), find_programs(archive, base.layout)
        return WarmState(identity, ran.cold_s, programs, ran.cpu_features)


def is_connected(one: Socket) -> bool:
    """Whether a TCP socket has a peer that still knows of it."""
    return one.kind == socket.SOCK_STREAM and one.state in _CONNECTED


def describe(
    context: BuildContext, cluster: Cluster, node_name: str, archive: Archive, warm: WarmState, dump: EditedDump
) -> Provenance:
    """Return the provenance for the image."""
    node = cluster.request("GET", f"/api/v1/nodes/{quote(node_name, safe='')}").at("status", "nodeInfo")
    log = archive.find(DUMP_LOG)
    return Provenance(
        version=__version__,
        criu=(log and find_version(log.read_text(errors="replace"))) or "that of the node",
        runtime=node.at("containerRuntimeVersion").text().replace("://", " "),
        kernel=node.at("kernelVersion").text(),
        architecture=node.at("architecture").text(),
        identity=warm.identity,
        recipe=context.recipe.document,
        edits=json.dumps(dump.edits),
    )
