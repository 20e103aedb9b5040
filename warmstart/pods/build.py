"""Build with a container in a cluster: it is warmed up and checkpointed there; the rest is as in every build.

Processes on the node are out of reach. A build on this machine examines them while they run; here the same facts are
read afterwards from their dump and the layers of their image.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from warmstart import __version__
from warmstart.build.assemble import describe as describe_local
from warmstart.build.assemble import edit_dump, edit_launched, make_layout, open_container, read_archive
from warmstart.build.base import BaseImage, fetch_base, find_source, share_layers
from warmstart.build.beside import ALONE
from warmstart.build.checkpoint import find_image_run
from warmstart.build.container import SelfRefusedError, open_engine, refusing_self, run_warmup, with_hooks
from warmstart.build.context import BuildContext, BuildOptions, open_context
from warmstart.build.early_cold_start import EarlyColdStart
from warmstart.build.kernel_state import require_kept_by_runtime
from warmstart.build.lazy import check_lazy
from warmstart.build.pipeline import LaunchedParts, complete_self_restoring, verify_and_publish, without_self
from warmstart.build.publish import check_output
from warmstart.build.result import (
    BuildCandidate,
    BuildResult,
    EditedDump,
    RuntimeCheckpoint,
    SelfCheckpoint,
    WarmState,
)
from warmstart.build.services import Companions, open_companions
from warmstart.core.cpu import find_features
from warmstart.core.errors import PreflightError
from warmstart.core.progress import Progress
from warmstart.dump.archive.archive import DUMP_LOG, ROOTFS_DIFF
from warmstart.dump.criu.contents import Socket, TcpState, read_sockets
from warmstart.dump.criu.fingerprint import find_identity
from warmstart.dump.criu.log import read_version
from warmstart.engine.cluster import KubernetesContainer, make_build_pod, make_pod_name, start_pod
from warmstart.engine.local import LocalEngine
from warmstart.engine.target import Target
from warmstart.image.annotations import Provenance
from warmstart.image.compose import pack_layer
from warmstart.image.executables import find_programs
from warmstart.image.layout import read_image
from warmstart.image.packer import Packer
from warmstart.image.selfrestore.claim import claim_state
from warmstart.image.selfrestore.manifest_lines import check_steps
from warmstart.image.selfrestore.pack import CHANGES, DIRECTORY, SEEDED, pack_programs
from warmstart.image.selfrestore.unpack import unpack
from warmstart.kube.client import Cluster
from warmstart.kube.helper import open_helper
from warmstart.kube.pods import Pod
from warmstart.node.launcher import LauncherPrograms, ensure_launcher
from warmstart.pods.build_pod import BuildPod, check_recipe, make_build_spec
from warmstart.pods.checkpoint import CLOSING_S, CheckpointOptions, FetchedCheckpoint, take_with
from warmstart.pods.hooks import PodHooks, list_agents, run_hooks, with_variables
from warmstart.pods.launched import Delivery, PodSecurityError, await_application, explaining_refusal, wrap_spec
from warmstart.pods.services import run_services
from warmstart.probe.readiness import find_limit_s
from warmstart.probe.warmup import StepResult
from warmstart.recipe.model import Hooks, Recipe, Restorer
from warmstart.recipe.privileges import require_recipe_privileges

_CONNECTED = frozenset(TcpState) - {TcpState.CLOSE, TcpState.LISTEN}


@dataclass(frozen=True)
class Warmed:
    """How an application was warmed up.

    Attributes:
        cold_s: seconds until it was ready, as coarse as the period of its probe.
        steps: results of the steps of its warm-up.
    """

    cold_s: float
    steps: tuple[StepResult, ...]


@dataclass(frozen=True)
class PodRun:
    """The result of a build's pod.

    Attributes:
        taken: its checkpoint.
        warmed: how it was warmed up.
        cpu_features: of its node; see `WarmState`.
    """

    taken: FetchedCheckpoint
    warmed: Warmed
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
    check_lazy(recipe, options)
    source = find_source(recipe)
    containers = [recipe.container, *(one.container for one in recipe.companions)]
    check_recipe(recipe, {one.image: find_source(recipe, one).kind for one in containers})
    check_output(recipe.image, options.output, access=options.access, signer=options.signer)
    by_itself = Restorer.SELF in recipe.restore
    with open_context(recipe, options, progress, with_launcher=by_itself) as context:
        base = fetch_base(context, source)
        context = with_hooks(context, base.layout) if by_itself else context
        with (
            share_layers(context, base) as stores,
            open_companions(context) as companions,
            contextlib.ExitStack() as undo,
        ):
            engine = undo.enter_context(open_engine(context, None, stores)) if by_itself else None
            candidate = make_candidate(context, place, base, engine, companions, undo)
            return verify_and_publish(context, candidate, base, stores, engine, companions)


def make_candidate(
    context: BuildContext,
    place: ClusterTarget,
    base: BaseImage,
    engine: LocalEngine | None,
    companions: Companions,
    undo: contextlib.ExitStack,
) -> BuildCandidate:
    """Make an image for the recipe's restorers, or for the runtime alone if the recipe leaves that open.

    Args:
        context: of the build.
        place: where the pod runs.
        base: the base image.
        engine: restores an image that restores itself; only for such a recipe.
        companions: the recipe's services and init containers.
        undo: as for `complete_self_restoring`.
    """
    recipe = context.recipe
    if engine is not None:
        try:
            return make_self_restoring(context, place, base, engine, companions, undo)
        except (SelfRefusedError, PodSecurityError) as refused:
            if not recipe.restore_is_default or recipe.needs_self or not isinstance(recipe.hooks, Hooks):
                raise
            context = replace(without_self(context, refused), hooks=None)
    if recipe.hooks is Hooks.AUTO:
        context.progress.warn("no hooks are called: in a cluster, they need an image that restores itself")
    candidate = make_restored(context, place, base, companions)
    return replace(candidate, restorers=context.recipe.restore)


def make_restored(
    context: BuildContext, place: ClusterTarget, base: BaseImage, companions: Companions
) -> BuildCandidate:
    """Make an image that the runtime restores."""
    images = name_images(context, base, companions)
    with run_services(context, place.cluster, images) as beside:
        ran = run_and_checkpoint(replace(context, beside=beside), place, images)
    archive = read_archive(context, ran.taken.archive)
    warm = learn(context, archive.checkpoint_dir, archive.find(ROOTFS_DIFF), base, ran.warmed, ran.cpu_features)
    require_kept_by_runtime(ran.taken.state, force=context.options.force)
    warm = replace(warm, state=ran.taken.state)
    dumped = RuntimeCheckpoint(ran.taken.archive, warm, has_tmp=False)
    with open_container(context.session, context.workspace) as container, Packer() as packer:
        dump = edit_dump(context, packer, dumped, archive)
        provenance = describe(context, place.cluster, ran.taken.pod.node, archive.find(DUMP_LOG), warm, dump)
        layout = make_layout(context, container, dumped, archive, dump, base, provenance)
    return BuildCandidate(layout, warm, dump, provenance)


def make_self_restoring(
    context: BuildContext,
    place: ClusterTarget,
    base: BaseImage,
    engine: LocalEngine,
    companions: Companions,
    undo: contextlib.ExitStack,
) -> BuildCandidate:
    """Make an image that restores itself, and that the runtime can restore too if the recipe asks for both.

    The runtime's checkpoint is that of this machine: of the image when it has restored itself here.
    """
    layout, recipe = context.workspace / "layout", context.recipe
    with refusing_self(recipe):
        check_steps(recipe.after_restore)
    files = ensure_launcher(context.options.cache, context.progress.note)
    with context.progress.step("image"):
        programs = pack_programs(files.directory, layout)
    images = name_images(context, base, companions)
    with run_services(context, place.cluster, images) as beside:
        launched, node = run_and_dump(replace(context, beside=beside), place, base, files, images)
    with contextlib.ExitStack() as failed:
        early = EarlyColdStart(context, engine, base, layout, programs, launched.run, failed)
        # With services, it begins with the new ones of the verification.
        cold = None if recipe.companions else early.settle(launched)
        dump = edit_launched(context, undo.enter_context(Packer()), launched)
        undo.push(failed.pop_all())

    def describer(now: BuildContext) -> Provenance:
        log = launched.directory / DUMP_LOG
        if Restorer.RUNTIME in now.recipe.restore:
            return describe_local(now, engine, log, launched.warm, dump)
        return describe(now, place.cluster, node, log, launched.warm, dump)

    by_runtime = Restorer.RUNTIME in recipe.restore
    parts = LaunchedParts(launched, dump, programs, describer, cold)
    with companions.run() if by_runtime else contextlib.nullcontext(ALONE) as beside:
        return complete_self_restoring(replace(context, beside=beside), engine, base, parts, undo)


def name_images(context: BuildContext, base: BaseImage, companions: Companions) -> dict[str, str]:
    """Return the names of the recipe's images for the cluster, with their digests, by their names in the recipe."""
    images = {context.recipe.container.image: base, **companions.images}
    return {name: pin(image) for name, image in images.items()}


def run_and_dump(
    context: BuildContext, place: ClusterTarget, base: BaseImage, files: LauncherPrograms, images: Mapping[str, str]
) -> tuple[SelfCheckpoint, str]:
    """Run the pod under the launcher, bring it to the state it is to be restored in, and fetch the launcher's dump.

    Args:
        context: of the build.
        place: where the pod runs.
        base: the base image.
        files: the launcher and its CRIU.
        images: names of the images for the cluster, by those in the recipe.

    Returns:
        The dump, and the name of the node.
    """
    recipe, progress, config = context.recipe, context.progress, read_image(base.layout).config
    made = make_build_spec(with_variables(context), make_pod_name(recipe.name), images, context.beside.hosts)
    delivery, stream = Delivery(place.cluster, files, list_agents(context)), context.workspace / "launched.tar"
    with contextlib.ExitStack() as pod:
        with context.beside.explaining():
            wrapped = wrap_spec(made, recipe, config, place.checkpoint.errand.image)
            with explaining_refusal(place.cluster.namespace):
                running = pod.enter_context(start(context, place.cluster, wrapped, delivery))
            launched = await_application(running, recipe, config)
            channel = PodHooks(container=running) if context.hooks else None
            asks = channel.asks_for_checkpoint if channel else lambda: False
            with progress.step("ready"):
                cold_s = launched.await_ready(recipe.container, asks)
            warmed = Warmed(cold_s, warm_up(context, launched, launched.identity.pid))
            time.sleep(CLOSING_S)
            hooks = run_hooks(context, channel)
        with progress.step("checkpoint"):
            launched.dump(context.options.checkpoint_timeout_s)
        with progress.step("fetch"):
            launched.fetch(stream)
    directory, changes = context.workspace / "launched", context.workspace / "changes.tar"
    with progress.step("read checkpoint"):
        changed = unpack(stream, context.workspace / "launcher-state", changes, base.layout, [DIRECTORY, *SEEDED])
        stream.unlink()
        claim_state(context.workspace / "launcher-state", directory)
        with changes.open("rb") as tar:
            layer = pack_layer(tar, context.workspace / "layout", CHANGES, recipe.compression)
    warm = learn(context, directory / "checkpoint", changes, base, warmed, delivery.cpu_features)
    environment = dict((*config.env, *recipe.container.env))
    run, warm = find_image_run(recipe, base), replace(warm, hooks=hooks)
    return SelfCheckpoint(directory, run, layer, not changed, warm, environment), running.pod.node


def run_and_checkpoint(context: BuildContext, place: ClusterTarget, images: Mapping[str, str]) -> PodRun:
    """Run the pod, bring it to the state it is to be restored in, and fetch its checkpoint.

    Args:
        context: of the build.
        place: where the pod runs.
        images: names of the images for the cluster, by those in the recipe.
    """
    recipe, progress = context.recipe, context.progress
    made = make_build_spec(recipe, make_pod_name(recipe.name), images, context.beside.hosts)
    with contextlib.ExitStack() as pod:
        with context.beside.explaining():
            running = pod.enter_context(start(context, place.cluster, made))
            with progress.step("ready"):
                cold_s = running.await_ready(find_limit_s(recipe.container))
            warmed = Warmed(cold_s, warm_up(context, running))
        # Connections of the warm-up may still be closing.
        time.sleep(CLOSING_S)
        how = replace(place.checkpoint, timeout_s=context.options.checkpoint_timeout_s)
        container, archive = running.pod.find_container(running.name), context.workspace / "checkpoint.tar"
        with progress.step("helper"):
            helper = pod.enter_context(open_helper(place.cluster, running.pod.node, how.errand, writable=not how.keep))
            cpu_features = find_features(helper.read_cpuinfo())
        return PodRun(take_with(helper, running.pod, container, archive, how, progress), warmed, cpu_features)


@contextlib.contextmanager
def start(
    context: BuildContext, cluster: Cluster, made: BuildPod, on_poll: Callable[[Pod], object] = lambda _: None
) -> Iterator[KubernetesContainer]:
    """Run the pod of a build for the length of a `with` block; `on_poll` is as for `start_pod`."""
    check = context.beside.check

    def poll(now: Pod) -> None:
        check()
        on_poll(now)

    manifest = make_build_pod(made.spec, made.name, cluster.namespace)
    with contextlib.ExitStack() as pod:
        with context.progress.step("start"):
            running = pod.enter_context(start_pod(cluster, manifest, made.secret, poll))
        yield replace(running, watch=check)


def warm_up(context: BuildContext, target: Target, inner_pid: int = 1) -> tuple[StepResult, ...]:
    """Bring a ready container to the state it is to be restored in; arguments as for `run_warmup`."""
    with context.progress.step("warm up"):
        return run_warmup(context, target, inner_pid)


def pin(base: BaseImage) -> str:
    """Return the name of the base image with its digest."""
    assert base.source.reference is not None
    return str(replace(base.source.reference, tag=None, digest=base.digest))


def learn(
    context: BuildContext,
    checkpoint: Path,
    changes: Path | None,
    base: BaseImage,
    warmed: Warmed,
    cpu_features: tuple[str, ...],
) -> WarmState:
    """Examine the dump and the image instead of the running container.

    Args:
        context: of the build.
        checkpoint: directory of the dump.
        changes: tar of the files that the container changed; None if there are none.
        base: the base image.
        warmed: how it was warmed up.
        cpu_features: see `WarmState`.

    Raises:
        PreflightError: connections were open, and the recipe does not allow to close them.
    """
    with context.progress.step("preflight"):
        connected = [one for one in read_sockets(checkpoint) if is_connected(one)]
        if connected and not context.recipe.close_tcp and not context.options.force:
            details = [f"{one.source} to {one.destination}" for one in connected]
            brief = f"{len(connected)} connections were open at the checkpoint"
            hint = "close them before the checkpoint, or set `tcp: close` in the recipe"
            raise PreflightError(brief, details=details, hint=hint)
        programs = find_programs(checkpoint, changes, base.layout)
        return WarmState(find_identity(checkpoint), warmed.cold_s, programs, cpu_features, warmup=warmed.steps)


def is_connected(one: Socket) -> bool:
    """Whether a TCP socket has a peer that still knows of it."""
    return one.kind == socket.SOCK_STREAM and one.state in _CONNECTED


def describe(
    context: BuildContext, cluster: Cluster, node_name: str, log: Path | None, warm: WarmState, dump: EditedDump
) -> Provenance:
    """Return the provenance for the image; `log` is that of the dump."""
    node = cluster.request("GET", f"/api/v1/nodes/{quote(node_name, safe='')}").at("status", "nodeInfo")
    return Provenance(
        version=__version__,
        criu=read_version(log) or "that of the node",
        runtime=node.at("containerRuntimeVersion").text().replace("://", " "),
        kernel=node.at("kernelVersion").text(),
        architecture=node.at("architecture").text(),
        identity=warm.identity,
        recipe=context.recipe.document,
        edits=json.dumps(dump.edits),
    )
