"""From a recipe to an image that was restored: the pipeline, as a list of its steps."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from warmstart.build.assemble import (
    annotate,
    describe,
    edit_dump,
    edit_launched,
    make_layout,
    open_container,
    pack_launched,
    read_archive,
)
from warmstart.build.base import BaseImage, fetch_base, find_source, share_layers
from warmstart.build.beside import ALONE
from warmstart.build.checkpoint import (
    find_image_run,
    restore_and_checkpoint,
    restore_and_look,
    run_and_checkpoint,
    run_and_dump,
)
from warmstart.build.cold_start import ColdStart
from warmstart.build.container import SelfRefusedError, import_image, open_engine, refusing_self, with_hooks
from warmstart.build.context import BuildContext, BuildOptions, open_context
from warmstart.build.early_cold_start import EarlyColdStart
from warmstart.build.key import find_inputs
from warmstart.build.lazy import check_lazy, make_lazy
from warmstart.build.leftovers import explaining_leftovers
from warmstart.build.publish import Signing, check_output, describe_output, publish_image
from warmstart.build.result import BuildCandidate, BuildResult, EditedDump, SelfCheckpoint, make_document
from warmstart.build.secrets import check_report, search_secrets
from warmstart.build.services import Companions, open_companions
from warmstart.build.statements import make_predicates
from warmstart.build.touched import separate_touched
from warmstart.build.verify import SUBNET as VERIFY_SUBNET
from warmstart.build.verify import Restore, Subject, check_content, find_hook_limit_s, verify_image
from warmstart.core.errors import CheckpointError, PreflightError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.dump.archive.archive import DUMP_LOG
from warmstart.dump.proc.touched import FilePart
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import (
    LocalEngine,
    find_binds,
    find_host_runtime,
    start_engine,
)
from warmstart.image.annotations import Provenance
from warmstart.image.compose import Layer, add_layers
from warmstart.image.encryption import encrypt_layers
from warmstart.image.layout import read_image
from warmstart.image.packer import Packer
from warmstart.image.selfrestore.manifest_lines import check_steps
from warmstart.image.selfrestore.pack import MEMORY_OF_RUNTIME, pack_programs, pack_read_ahead
from warmstart.node.launcher import ensure_launcher
from warmstart.recipe.load import with_ports, with_restorers
from warmstart.recipe.model import Container, Recipe, Restorer
from warmstart.recipe.privileges import require_recipe_privileges

# Less memory is read from a disk in a few milliseconds.
READ_AHEAD_BYTES = 32 << 20


def build_image(recipe: Recipe, options: BuildOptions, progress: Progress) -> BuildResult:
    """Build the image of a recipe.

    Raises:
        WarmstartError: a step failed; nothing was published, and nothing is left behind.
    """
    require_recipe_privileges(recipe, options.allowed)
    check_lazy(recipe, options)
    source = find_source(recipe)
    check_output(recipe.image, options.output, access=options.access, signer=options.signer)
    host = find_host_runtime(options.runtime_endpoint) if options.runtime_endpoint else None
    binds = [*find_binds(source), *(host.binds if host else ())]
    with open_context(recipe, options, progress, binds=binds, with_launcher=Restorer.SELF in recipe.restore) as context:
        for warning in list_volume_warnings(recipe) if host else ():
            progress.warn(warning)
        base = fetch_base(context, source)
        context = with_hooks(context, base.layout)
        with (
            share_layers(context, base) as stores,
            open_companions(context) as companions,
            open_engine(context, host, stores) as engine,
            contextlib.ExitStack() as undo,
        ):
            inputs = find_inputs(recipe, options, host.version if host else "")
            context = replace(context, inputs=replace(inputs, images=companions.digests))
            candidate = make_candidate(context, engine, base, companions, undo)
            own = None if engine.shared else engine
            return verify_and_publish(context, candidate, base, stores, own, companions)


def make_candidate(
    context: BuildContext, engine: LocalEngine, base: BaseImage, companions: Companions, undo: contextlib.ExitStack
) -> BuildCandidate:
    """Make an image for the recipe's restorers, or for one of them if the other cannot and the recipe asks for neither.

    `undo` is as for `make_self_restoring`.
    """
    if Restorer.SELF in context.recipe.restore:
        try:
            return make_self_restoring(context, engine, base, companions, undo)
        except SelfRefusedError as refused:
            context = without_self(context, refused)
    candidate = make_restored(context, engine, base, companions)
    return replace(candidate, restorers=context.recipe.restore)


def without_self(context: BuildContext, refused: WarmstartError) -> BuildContext:
    """Begin the image anew for the runtime alone, and warn of the reason; return the context of that."""
    context.progress.warn(f"the image will not restore itself, only the runtime restores it: {first_of(refused)}")
    shutil.rmtree(context.workspace / "layout", ignore_errors=True)
    return replace(context, recipe=with_restorers(context.recipe, [Restorer.RUNTIME]))


def first_of(error: WarmstartError) -> str:
    """Return the first of an error's details, which is a problem found by preflight, or its brief."""
    return next(iter(error.details), error.brief)


def list_volume_warnings(recipe: Recipe) -> list[str]:
    """Return a warning for each volume in memory, which a build on the host's runtime has on the disk."""
    pod = [recipe.container, *(one.container for one in recipe.init)]
    names = [name for container in pod for name in _list_in_memory(container)]
    names += [f"{name} of the service {one.name}" for one in recipe.services for name in _list_in_memory(one.container)]
    return [
        f"the volume {name} is on the disk during the build, on the host's runtime" for name in dict.fromkeys(names)
    ]


def _list_in_memory(container: Container) -> list[str]:
    return [mount.volume.name for mount in container.volume_mounts if mount.volume.in_memory]


def make_restored(
    context: BuildContext, engine: LocalEngine, base: BaseImage, companions: Companions
) -> BuildCandidate:
    """Make an image that the runtime restores."""
    with companions.run(engine if engine.shared else None) as beside:
        dumped = run_and_checkpoint(replace(context, beside=beside), engine, base)
    context = replace(context, recipe=with_ports(context.recipe, dumped.warm.ports))
    archive = read_archive(context, dumped.archive, dumped.completion)
    with open_container(context.session, context.workspace) as container, Packer() as packer:
        dump = edit_dump(context, packer, dumped, archive)
        provenance = describe(context, engine, archive.find(DUMP_LOG), dumped.warm, dump)
        layout = make_layout(context, container, dumped, archive, dump, base, provenance)
    return BuildCandidate(layout, dumped.warm, dump, provenance)


def make_self_restoring(
    context: BuildContext, engine: LocalEngine, base: BaseImage, companions: Companions, undo: contextlib.ExitStack
) -> BuildCandidate:
    """Make an image that restores itself, and that the runtime can restore too if the recipe asks for both.

    Its cold start begins as soon as that is possible, and goes on in the background until `undo` is closed.
    """
    layout = context.workspace / "layout"
    with contextlib.ExitStack() as services:
        host = engine if engine.shared else None
        context = replace(context, beside=services.enter_context(companions.run(host)))
        with refusing_self(context.recipe):
            check_steps(context.recipe.after_restore)
        files = ensure_launcher(context.options.cache, context.progress.note)
        with context.progress.step("image"):
            programs = pack_programs(files.directory, layout)
        with contextlib.ExitStack() as failed:
            run = find_image_run(context.recipe, base)
            early = EarlyColdStart(context, engine, base, layout, programs, run, failed)
            launched = run_and_dump(context, engine, base, layout, files, early.begin)
            context = replace(context, recipe=with_ports(context.recipe, launched.warm.ports))
            cold = early.settle(launched)
            dump = edit_launched(context, undo.enter_context(Packer()), launched)
            undo.push(failed.pop_all())
        log = launched.directory / DUMP_LOG
        describer = partial(describe, engine=engine, log=log, warm=launched.warm, dump=dump)
        parts = LaunchedParts(launched, dump, programs, describer, cold)
        return complete_self_restoring(context, engine, base, parts, undo)


@dataclass(frozen=True)
class LaunchedParts:
    """What an image that restores itself is made of.

    Attributes:
        launched: the launcher's dump.
        dump: the same, edited.
        programs: the layer of the launcher.
        describer: describes how an image with the recipe of a context was built.
        cold: its cold start, if that is being observed already.
    """

    launched: SelfCheckpoint
    dump: EditedDump
    programs: Layer
    describer: Callable[[BuildContext], Provenance]
    cold: ColdStart | None = None


def complete_self_restoring(
    context: BuildContext, engine: LocalEngine, base: BaseImage, parts: LaunchedParts, undo: contextlib.ExitStack
) -> BuildCandidate:
    """Put an image together that restores itself, and add a checkpoint for the runtime if the recipe asks for both.

    Args:
        context: of the build, with the services that the restored application reaches.
        engine: restores the image for the runtime's checkpoint.
        base: the base image.
        parts: the parts of the image; the layer of changed files is in its layout.
        undo: removes images from the engine's store.
    """
    layout, launched = context.workspace / "layout", parts.launched
    with context.progress.step("image"):
        layers = pack_launched(context, launched, parts.dump, layout, parts.programs)
        provenance = write_image(context, base, parts, layers)
    candidate = BuildCandidate(layout, launched.warm, parts.dump, provenance, parts.cold)
    undo.push(candidate.obsolete)
    for_runtime, has_list = Restorer.RUNTIME in context.recipe.restore, parts.dump.memory.size_bytes >= READ_AHEAD_BYTES
    image = ""
    if for_runtime or has_list:
        with context.progress.step("import"):
            # Its layers stay in the store until the complete image has been imported, which needs them too.
            image = import_image(context, engine, layout, candidate.obsolete)
    if has_list:
        layers = add_read_ahead(context, engine, base, parts, layers, image)
    if not for_runtime:
        return candidate
    try:
        add_checkpoint(context, engine, base, launched, layers, candidate, image)
    except (PreflightError, CheckpointError) as refused:
        if not context.recipe.restore_is_default:
            raise
        context.progress.warn(f"the runtime will not restore the image, it restores itself: {first_of(refused)}")
    else:
        return candidate
    # Without the name of a checkpoint, and with a recipe that says so.
    context = replace(context, recipe=with_restorers(context.recipe, [Restorer.SELF]))
    provenance = write_image(context, base, parts, layers)
    return replace(candidate, provenance=provenance, restorers=context.recipe.restore)


def add_read_ahead(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    parts: LaunchedParts,
    layers: Sequence[Layer],
    image: str,
) -> list[Layer]:
    """Let an image restore itself, and add the list of what it touches: see `pack_read_ahead`.

    If it does not restore, or not in time with a slow disk, it stays as it is. Its verification then restores it again.

    Args:
        context: of the build.
        engine: restores the image.
        base: the base image.
        parts: parts of the image.
        layers: its layers, that of the checkpoint last.
        image: its name in the engine's store.

    Returns:
        The layers with the list.
    """
    found = list(layers)

    def add(running: CriContainer, touched: Sequence[FilePart]) -> None:
        nonlocal found
        separated, touched = separate_touched(context, parts.launched, layers, running, touched)
        found = [*separated, *pack_read_ahead(touched, context.workspace / "layout")]
        write_image(context, base, parts, found)

    try:
        with context.progress.step("restore"):
            restore_and_look(context, engine, parts.launched, image, add)
    except (WarmstartError, OSError) as error:
        context.progress.warn(f"the image has no list of what to read ahead: {error}")
    return found


def write_image(context: BuildContext, base: BaseImage, parts: LaunchedParts, layers: Sequence[Layer]) -> Provenance:
    """Write the manifest and the config of an image that restores itself, whose layers are packed already.

    Returns:
        Its provenance, which has the context's recipe.
    """
    launched, provenance = parts.launched, parts.describer(context)
    annotations = annotate(context, base, launched.warm, provenance)
    add_layers(base.layout, context.workspace / "layout", layers, launched.run, annotations, context.recipe.labels)
    return provenance


def add_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    candidate: BuildCandidate,
    image: str,
) -> None:
    """Add a checkpoint for the runtime to an image that restores itself: of a container that it restored.

    Memory that is mapped from the image is not in that checkpoint, except what has changed since.

    Args:
        context: of the build.
        engine: restores the image for it.
        base: the base image.
        launched: the dump that the image holds.
        layers: layers of the image.
        candidate: the image.
        image: its name in the engine's store.
    """
    layout = make_intermediate(context, base, launched, layers, candidate)
    if layout != candidate.layout:
        with context.progress.step("import"):
            image = import_image(context, engine, layout, candidate.obsolete)
    dumped = restore_and_checkpoint(context, engine, launched, image, layout)
    archive = read_archive(context, dumped.archive, dumped.completion)
    with open_container(context.session, context.workspace) as container, Packer() as packer:
        dump = edit_dump(context, packer, dumped, archive, MEMORY_OF_RUNTIME)
        make_layout(context, container, dumped, archive, dump, base, candidate.provenance, layers, launched.run)


def make_intermediate(
    context: BuildContext,
    base: BaseImage,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    candidate: BuildCandidate,
) -> Path:
    """Return the layout of the image that restores itself before its second checkpoint, in which agents wait on."""
    if not context.hooks or not launched.warm.hooks:
        return candidate.layout
    into = context.workspace / "intermediate"
    return context.hooks.add_waiting(base.layout, candidate.layout, into, layers, launched.run)


def verify_and_publish(
    context: BuildContext,
    candidate: BuildCandidate,
    base: BaseImage,
    stores: Sequence[Path],
    engine: LocalEngine | None = None,
    companions: Companions | None = None,
) -> BuildResult:
    """Restore a new image, and publish it if that works.

    Args:
        context: of the build.
        candidate: the image.
        base: its base image.
        stores: image stores with the layers of the base image.
        engine: a CRI-O of our own that knows no image; None to start one.
        companions: the recipe's services and init containers, if it has any.
    """
    target, output = context.recipe.image, context.options.output
    secrets = search_secrets(context.recipe, candidate.layout, base, context.progress)
    candidate = replace(candidate, layout=make_lazy(context, candidate.layout, candidate.dump.files))
    with companions.run() if companions else contextlib.nullcontext(ALONE) as beside:
        restores = verify(replace(context, beside=beside), candidate, stores, engine)
    layout = encrypt(context, candidate.layout, base)
    destination, image = describe_output(output, target), read_image(layout)
    built = BuildResult(
        str(target),
        destination,
        candidate.warm.cold_s,
        restores,
        candidate.dump,
        image,
        base,
        candidate.provenance,
        secrets,
        candidate.warm.hooks,
        candidate.warm.warmup,
    )
    report = make_document(built, context.progress)
    check_report(context.recipe, base, report)
    data = json.dumps(report).encode()
    with context.progress.step("publish"):
        sign = prepare_signing(context, built, data, companions.images if companions else {})
        publish_image(
            layout,
            image,
            target,
            output,
            context.progress,
            report=data,
            sign=sign,
            mount_from=base.source.reference if base.source.kind is Transport.REGISTRY else None,
            access=context.options.access,
        )
    return built


def encrypt(context: BuildContext, layout: Path, base: BaseImage) -> Path:
    """Encrypt the layers on top of the base image, if the options name recipients; return the layout to publish."""
    keys = context.options.encryption_keys
    if not keys:
        return layout
    with context.progress.step("encrypt"):
        added = len(read_image(layout).manifest.layers) - base.layers
        return encrypt_layers(context.session, layout, keys, added, context.workspace / "encrypted")


def prepare_signing(
    context: BuildContext, built: BuildResult, report: bytes, beside: Mapping[str, BaseImage]
) -> Signing | None:
    """Return the signer and the statements of an image that is to be signed; arguments as for `make_predicates`."""
    signer = context.options.signer
    if signer is None:
        return None
    context.progress.note("statements")
    return Signing(signer, make_predicates(context, built, report, beside))


def verify(
    context: BuildContext, candidate: BuildCandidate, stores: Sequence[Path], engine: LocalEngine | None
) -> tuple[Restore, ...]:
    """Restore a new image; arguments as for `verify_and_publish`."""
    warm = candidate.warm
    recipe = with_ports(context.recipe, warm.ports)
    restorers = candidate.restorers or recipe.restore
    subject = Subject(
        candidate.layout,
        str(recipe.image),
        recipe.container,
        warm.identity,
        restorers,
        warm.state,
        context.beside,
        find_hook_limit_s(recipe, restorers),
        force=context.options.force,
    )
    with context.progress.step("verify"), contextlib.ExitStack() as ended:
        check_content(subject.layout, subject.name, context.blobs)
        if engine is None:
            engine = ended.enter_context(start_engine(context.session, "verify", subnet=VERIFY_SUBNET, stores=stores))
        engine.import_image(subject.layout, subject.name, context.progress.note)
        candidate.obsolete.close()
        with explaining_leftovers(subject.layout):
            return verify_image(subject, engine, context.progress, candidate.cold)
