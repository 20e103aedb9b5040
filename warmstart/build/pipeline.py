"""From a recipe to an image that was seen to restore: the pipeline, as a list of its steps."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmstart.build.assemble import (
    annotate,
    describe,
    edit_dump,
    edit_launched,
    make_layout,
    pack_launched,
    read_archive,
)
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.launched import (
    LauncherContainer,
    Place,
    await_application,
    find_working_dir,
    make_place,
    wrap_container,
)
from warmstart.build.publish import check_output, describe_output, publish_image
from warmstart.build.result import (
    BaseImage,
    BuildCandidate,
    BuildResult,
    RuntimeCheckpoint,
    SelfCheckpoint,
    WarmState,
    make_document,
)
from warmstart.build.verify import Restore, check_links, read_launcher_ms, verify_image
from warmstart.core.cpu import read_features
from warmstart.core.errors import AppError
from warmstart.core.linux import open_in_root
from warmstart.core.progress import Progress
from warmstart.core.reference import Reference, Source, Transport, parse_source
from warmstart.core.undo import undoing
from warmstart.core.workspace import open_workspace
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.edit.programs import Program, read_programs
from warmstart.dump.preflight.check import check_processes, raise_on_errors
from warmstart.dump.preflight.self import check_launched
from warmstart.dump.proc.restrictions import read_restrictions
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import (
    HostRuntime,
    LocalEngine,
    connect_engine,
    find_access,
    find_binds,
    find_host_runtime,
    start_engine,
)
from warmstart.image.annotations import Provenance
from warmstart.image.compose import Layer, add_layers
from warmstart.image.layout import find_partials, read_image
from warmstart.image.manifest import check_platform
from warmstart.image.mount_points import Links, add_layer, check_image
from warmstart.image.open import open_image
from warmstart.image.selfrestore.pack import (
    ENTRYPOINT,
    MEMORY,
    MEMORY_OF_RUNTIME,
    find_run,
    pack_changes,
)
from warmstart.image.skopeo import copy_image, find_image
from warmstart.node.launcher import ensure_launcher
from warmstart.node.network import connect_network
from warmstart.node.session import enter
from warmstart.node.tree import ensure_tree
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success, wait_ready
from warmstart.probe.warmup import run_steps
from warmstart.recipe.model import Container, Recipe, Restorer
from warmstart.recipe.privileges import require_host_privileges

SUBNET = "10.88.0.0/24"
CLOSING_S = 3.0
# Where images are kept with their layers not compressed.
PLAIN_LAYERS = (Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON, Transport.DOCKER_ARCHIVE)


def build_image(recipe: Recipe, options: BuildOptions, progress: Progress) -> BuildResult:
    """Build the image of a recipe.

    Raises:
        WarmstartError: a step failed; nothing was published, and nothing is left behind.
    """
    require_host_privileges(recipe.container.security_context, options.allowed)
    source = find_source(recipe)
    check_output(recipe.image, options.output, access=options.access)
    with open_workspace("build", keep_evidence=options.keep) as workspace:
        by_itself = Restorer.SELF in recipe.restore
        with progress.step("tools"):
            tree = ensure_tree(options.cache, progress.note, progress.warn)
            if by_itself:
                ensure_launcher(options.cache, progress.note)
            host = find_host_runtime(options.runtime_endpoint) if options.runtime_endpoint else None
        binds = [*find_binds(source), *(host.binds if host else ())]
        leftovers = find_partials(options.output.path) if options.output.path else ()
        with (
            enter(tree, workspace, binds=binds, leftovers=leftovers) as node,
            connect_network(node, options.network) as session,
        ):
            context = BuildContext(recipe, options, progress, session)
            base = fetch_base(context, source)
            with open_engine(context, host) as engine:
                made = make_self_restoring(context, engine, base) if by_itself else make_restored(context, engine, base)
            return verify_and_publish(context, made, base)


def verify_and_publish(context: BuildContext, made: BuildCandidate, base: BaseImage) -> BuildResult:
    """Restore an image that was made, and publish it if that works."""
    target, output = context.recipe.image, context.options.output
    restores = see_it_restore(context, made)
    destination, image = describe_output(output, target), read_image(made.layout)
    built = BuildResult(str(target), destination, made.warm.cold_s, restores, made.dump, image, base, made.provenance)
    publish(context, made.layout, built, target)
    return built


def make_restored(context: BuildContext, engine: LocalEngine, base: BaseImage) -> BuildCandidate:
    """Make an image that the runtime restores."""
    dumped = run_and_checkpoint(context, engine, base)
    archive = read_archive(context, dumped.archive)
    dump = edit_dump(context, dumped, archive)
    provenance = describe(context, engine, dumped.warm, dump)
    return BuildCandidate(make_layout(context, dumped, archive, dump, base, provenance), dumped.warm, dump, provenance)


def make_self_restoring(context: BuildContext, engine: LocalEngine, base: BaseImage) -> BuildCandidate:
    """Make an image that restores itself; where the runtime is to restore it, too, also one that it can restore."""
    layout = context.workspace / "layout"
    launched = run_and_dump(context, engine, base, layout)
    dump = edit_launched(context, launched)
    provenance = describe(context, engine, launched.warm, dump)
    with context.progress.step("image"):
        layers = pack_launched(launched, dump, layout)
        add_layers(
            base.layout, layout, layers, launched.run, annotate(base, launched.warm, provenance), context.recipe.labels
        )
    if Restorer.RUNTIME in context.recipe.restore:
        add_checkpoint(context, engine, base, launched, layers, provenance)
    return BuildCandidate(layout, launched.warm, dump, provenance)


def add_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    provenance: Provenance,
) -> None:
    """Add to an image that restores itself what the runtime restores: the checkpoint of a container that it restored.

    Memory that is mapped from the image is not in that checkpoint, but for what has changed since.
    """
    dumped = restore_and_checkpoint(context, engine, launched)
    archive = read_archive(context, dumped.archive)
    dump = edit_dump(context, dumped, archive, MEMORY_OF_RUNTIME)
    make_layout(context, dumped, archive, dump, base, provenance, layers, launched.run)


def open_engine(context: BuildContext, host: HostRuntime | None) -> contextlib.AbstractContextManager[LocalEngine]:
    """What runs the container: the host's CRI-O where one was named, else one of our own."""
    if host is None:
        criu_options = ["tcp-established"] if context.recipe.close_tcp else []
        return start_engine(context.session, "build", subnet=SUBNET, criu_options=criu_options)
    return connect_engine(context.session, host)


def find_source(recipe: Recipe) -> Source:
    """Where the base image is; a relative path starts at the recipe's directory.

    Raises:
        ImageReferenceError: the recipe's container.image is not understood.
    """
    source = parse_source(recipe.container.image)
    if source.path is None or recipe.source is None:
        return source
    return Source(source.kind, path=recipe.source.parent.absolute() / source.path, image=source.image)


def fetch_base(context: BuildContext, source: Source) -> BaseImage:
    """Bring the base image into the workspace, its blobs as they are where it comes from."""
    session, layout = context.session, context.workspace / "base"
    access = find_access(session, source, context.options.access)
    # Asked for zstd, skopeo would compress anew, into other blobs, what has been compressed with gzip.
    plain = source.kind in PLAIN_LAYERS
    with context.progress.step("pull"):
        digest = find_image(session, str(source), access=access)
        pinned = pin_source(source, digest)
        copy_image(session, str(pinned), f"oci:{layout}", access=access, zstd=plain, on_line=context.progress.note)
        image = read_image(layout)
        check_platform(image.config.platform, str(source))
        check_base(layout, str(source))
    return BaseImage(source, digest, layout, len(image.manifest.layers))


def check_base(layout: Path, name: str) -> None:
    """Refuse a base image in which links lead the mounts of a container elsewhere.

    Raises:
        ImageError: they do, or a layer is broken.
    """
    links = Links()
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            add_layer(links, opened, layer)
    check_image(links, name)


def pin_source(source: Source, digest: str) -> Source:
    """The very image that was found, where a name in a registry may soon stand for another one."""
    if source.kind is not Transport.REGISTRY or source.reference is None:
        return source
    return replace(source, reference=replace(source.reference, digest=digest))


def run_and_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    on_dumped: Callable[[CriContainer], object] = lambda _: None,
) -> RuntimeCheckpoint:
    """Start the container, bring it to the state it is to be restored in, and have the runtime take its checkpoint.

    `on_dumped` is called with the container when that is done; until then it goes on.
    """
    archive = context.workspace / "checkpoint.tar"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(context, engine, base.layout, context.recipe.container, undo)
            check_user(engine, running, context.recipe.container)
        warm = warm_up(context, engine, running)
        has_tmp = has_directory(engine.cri.proc / str(running.pid) / "root", "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
        on_dumped(running)
    return RuntimeCheckpoint(archive, warm, has_tmp)


def run_and_dump(context: BuildContext, engine: LocalEngine, base: BaseImage, layout: Path) -> SelfCheckpoint:
    """Start the container below the launcher, bring it to the state it is to be restored in, and have it dumped.

    What it has changed in its file system becomes a layer in `layout`, for that is gone with the container.
    """
    container, config = context.recipe.container, read_image(base.layout).config
    programs = ensure_launcher(context.options.cache, context.progress.note)
    place = Place(context.workspace / "launcher", context.workspace / "launcher-state")
    make_place(place, programs)
    directory = context.workspace / "launched"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(context, engine, base.layout, wrap_container(container, config, place), undo)
            launched = await_application(running, place, find_working_dir(container, config))
            check_user(engine, launched, container)
        warm = warm_up(context, engine, launched, launched.inner_pid)
        with context.progress.step("checkpoint"):
            launched.dump(context.options.checkpoint_timeout_s)
            changes = pack_changes(launched.take_out(directory), layout)
    return SelfCheckpoint(directory, programs, find_run(container, config), changes, warm)


def restore_and_checkpoint(context: BuildContext, engine: LocalEngine, launched: SelfCheckpoint) -> RuntimeCheckpoint:
    """Have the image in the workspace restore itself, and the runtime take the checkpoint of what runs then.

    Its clocks are the node's: a runtime cannot dump namespaces that the launcher would make to keep them.
    """
    archive = context.workspace / "checkpoint.tar"
    command = (*ENTRYPOINT[:-1], "--clocks", "node", *launched.run.entrypoint[len(ENTRYPOINT) - 1 :], *launched.run.cmd)
    container = replace(context.recipe.container, command=command, args=())
    with contextlib.ExitStack() as undo:
        with context.progress.step("restore"):
            running = start_container(context, engine, context.workspace / "layout", container, undo)
            wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
            read_launcher_ms(running)
        with context.progress.step("second preflight"):
            check_before_dump(context, engine, running)
        has_tmp = has_directory(engine.cri.proc / str(running.pid) / "root", "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("second checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
    # What was mapped from the image was found safe to be, and what has changed of it is so, too.
    programs = {**launched.warm.programs, f"/{MEMORY}": Program()}
    return RuntimeCheckpoint(archive, replace(launched.warm, programs=programs), has_tmp)


def has_directory(root: Path, path: str) -> bool:
    """Whether a container has a directory of that path; links lead where they lead in the container.

    Args:
        root: its root directory, a /proc/PID/root.
        path: absolute, in the container.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_in_root(top, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(top)
    return True


def start_container(
    context: BuildContext, engine: LocalEngine, layout: Path, container: Container, undo: contextlib.ExitStack
) -> CriContainer:
    """Start a container of the image in a layout; `undo` ends it, and makes the engine forget the image."""
    image = f"localhost/warmstart/base:{context.workspace.name}"
    undo.enter_context(undoing(partial(engine.cri.remove_image, image)))
    engine.import_image(layout, image, context.progress.note)
    return undo.enter_context(engine.cri.start(container, image, context.recipe.name))


def warm_up(
    context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer, inner_pid: int = 1
) -> WarmState:
    """Bring a container that was started to the state it is to be restored in; `inner_pid` is the application's."""
    recipe, progress = context.recipe, context.progress
    with progress.step("ready"):
        cold_s = await_ready(running, recipe.container)
    with progress.step("warm up"):
        run_steps(
            running, recipe.warmup, pid=inner_pid, on_progress=lambda p: progress.note(f"{p.done} of {p.step.repeat}")
        )
        run_steps(running, recipe.before_checkpoint, pid=inner_pid, field="beforeCheckpoint")
    with progress.step("preflight"):
        check_before_dump(context, engine, running)
        identity = read_identity(engine.cri.proc, running.pid)
        programs = read_programs(engine.cri.proc, running.pid)
        return WarmState(identity, cold_s, programs, read_features(), read_restrictions(engine.cri.proc, running.pid))


def check_user(engine: LocalEngine, running: CriContainer | LauncherContainer, container: Container) -> None:
    """Hold the container to its runAsNonRoot, which CRI leaves to whoever calls it.

    Raises:
        AppError: it runs as root all the same.
    """
    if container.security_context.run_as_non_root and (engine.cri.proc / str(running.pid)).stat().st_uid == 0:
        brief = "container.securityContext.runAsNonRoot is set, but the image's user is root"
        raise AppError(brief, hint="set runAsUser, or use an image with a user other than root")


def await_ready(running: CriContainer | LauncherContainer, container: Container) -> float:
    """Wait as the kubelet would; seconds from the request to create the container until its probe first succeeded.

    The probes' own periods are too coarse to measure with, so the first success is awaited on its own before.
    """
    wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
    cold_s = time.monotonic() - running.started
    wait_ready(running, container.startup_probe, container.readiness_probe, started=running.running)
    return cold_s


def check_before_dump(context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer) -> None:
    """Say what would keep the container from being dumped or restored.

    Connections of the probe and the warm-up may still be closing; those are given a moment.
    """
    deadline = time.monotonic() + CLOSING_S
    while True:
        findings = check_processes(
            engine.cri.proc, running.pid, pod_ips=[running.address], close_tcp=context.recipe.close_tcp
        )
        if isinstance(running, LauncherContainer):
            findings = (*findings, *check_launched(engine.cri.proc, running.pid))
        errors = [finding for finding in findings if finding.is_error]
        if time.monotonic() > deadline or not all(error.code.startswith("tcp-") for error in errors) or not errors:
            break
        time.sleep(0.1)
    for finding in findings:
        if not finding.is_error or context.options.force:
            context.progress.warn(str(finding))
    raise_on_errors(findings, force=context.options.force)


def see_it_restore(context: BuildContext, made: BuildCandidate) -> tuple[Restore, ...]:
    """Have a second CRI-O, with nothing in its store, restore the image."""
    recipe = context.recipe
    with context.progress.step("verify"):
        name = str(recipe.image)
        check_links(made.layout, name)
        return verify_image(
            context.session,
            made.layout,
            name,
            recipe.container,
            made.warm.identity,
            context.progress,
            recipe.restore,
            made.warm.restrictions,
        )


def publish(context: BuildContext, layout: Path, built: BuildResult, target: Reference) -> None:
    """Put the image where it is to go."""
    source = built.base.source
    with context.progress.step("publish"):
        publish_image(
            layout,
            built.image,
            target,
            context.options.output,
            context.progress,
            report=json.dumps(make_document(built, context.progress)).encode(),
            mount_from=source.reference if source.kind is Transport.REGISTRY else None,
            access=context.options.access,
        )
