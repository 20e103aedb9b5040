"""From a recipe to an image that was restored: the pipeline, as a list of its steps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmstart.build.assemble import (
    annotate,
    describe,
    edit_dump,
    edit_launched,
    make_cold_image,
    make_layout,
    open_container,
    pack_launched,
    read_archive,
)
from warmstart.build.base import fetch_base, find_source, share_layers
from warmstart.build.checkpoint import restore_and_checkpoint, run_and_checkpoint, run_and_dump
from warmstart.build.cold_start import IMAGE as COLD_IMAGE
from warmstart.build.cold_start import observe_cold_start
from warmstart.build.container import import_image, open_engine
from warmstart.build.context import BuildContext, BuildOptions, open_context
from warmstart.build.key import find_inputs
from warmstart.build.publish import check_output, describe_output, publish_image
from warmstart.build.result import BaseImage, BuildCandidate, BuildResult, SelfCheckpoint, make_document
from warmstart.build.secrets import check_report, search_secrets
from warmstart.build.verify import SUBNET as VERIFY_SUBNET
from warmstart.build.verify import Restore, Subject, check_content, open_plain_engine, verify_image
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.engine.local import (
    LocalEngine,
    find_binds,
    find_host_runtime,
    start_engine,
)
from warmstart.image.compose import Layer, add_layers
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import MEMORY_OF_RUNTIME, pack_programs
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.privileges import require_host_privileges


def build_image(recipe: Recipe, options: BuildOptions, progress: Progress) -> BuildResult:
    """Build the image of a recipe.

    Raises:
        WarmstartError: a step failed; nothing was published, and nothing is left behind.
    """
    require_host_privileges(recipe.container.security_context, options.allowed)
    source = find_source(recipe)
    check_output(recipe.image, options.output, access=options.access)
    host = find_host_runtime(options.runtime_endpoint) if options.runtime_endpoint else None
    binds = [*find_binds(source), *(host.binds if host else ())]
    with open_context(recipe, options, progress, binds=binds, with_launcher=Restorer.SELF in recipe.restore) as context:
        context = replace(context, inputs=find_inputs(recipe, options, host.version if host else ""))
        base = fetch_base(context, source)
        with (
            share_layers(context, base) as stores,
            open_engine(context, host, stores) as engine,
            contextlib.ExitStack() as undo,
        ):
            if Restorer.SELF in recipe.restore:
                candidate = make_self_restoring(context, engine, base, undo)
            else:
                candidate = make_restored(context, engine, base)
            return verify_and_publish(context, candidate, base, stores, None if engine.shared else engine)


def make_restored(context: BuildContext, engine: LocalEngine, base: BaseImage) -> BuildCandidate:
    """Make an image that the runtime restores."""
    dumped = run_and_checkpoint(context, engine, base)
    archive = read_archive(context, dumped.archive)
    with open_container(context.session, context.workspace) as container:
        dump = edit_dump(context, dumped, archive)
        provenance = describe(context, engine, dumped.warm, dump)
        layout = make_layout(context, container, dumped, archive, dump, base, provenance)
    return BuildCandidate(layout, dumped.warm, dump, provenance)


def make_self_restoring(
    context: BuildContext, engine: LocalEngine, base: BaseImage, undo: contextlib.ExitStack
) -> BuildCandidate:
    """Make an image that restores itself, and that the runtime can restore too if the recipe asks for both.

    Its cold start begins as soon as that is possible, and goes on in the background until `undo` is closed.
    """
    layout, restorers = context.workspace / "layout", context.recipe.restore
    launched = run_and_dump(context, engine, base, layout)
    with context.progress.step("image"):
        programs = pack_programs(launched.programs.directory, layout)
        cold_layout = make_cold_image(context, launched, base, layout, programs)
    cold = None
    if not engine.shared:
        opener = partial(open_plain_engine, engine, restorers)
        cold = undo.enter_context(observe_cold_start(opener, COLD_IMAGE, context.recipe.container, cold_layout))
    dump = edit_launched(context, launched)
    provenance = describe(context, engine, launched.warm, dump)
    with context.progress.step("image"):
        layers = pack_launched(launched, dump, layout, programs, context.recipe.compression)
        annotations = annotate(context, base, launched.warm, provenance)
        add_layers(base.layout, layout, layers, launched.run, annotations, context.recipe.labels)
    candidate = BuildCandidate(layout, launched.warm, dump, provenance, cold)
    if Restorer.RUNTIME in restorers:
        undo.push(candidate.obsolete)
        add_checkpoint(context, engine, base, launched, layers, candidate)
    return candidate


def add_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    candidate: BuildCandidate,
) -> None:
    """Add a checkpoint for the runtime to an image that restores itself: of a container that it restored.

    Memory that is mapped from the image is not in that checkpoint, except what has changed since.
    """
    with context.progress.step("import"):
        # Its layers stay in the store until the complete image has been imported, which needs them too.
        image = import_image(context, engine, candidate.layout, candidate.obsolete)
    dumped = restore_and_checkpoint(context, engine, launched, image)
    archive = read_archive(context, dumped.archive)
    with open_container(context.session, context.workspace) as container:
        dump = edit_dump(context, dumped, archive, MEMORY_OF_RUNTIME)
        make_layout(context, container, dumped, archive, dump, base, candidate.provenance, layers, launched.run)


def verify_and_publish(
    context: BuildContext,
    candidate: BuildCandidate,
    base: BaseImage,
    stores: Sequence[Path],
    engine: LocalEngine | None = None,
) -> BuildResult:
    """Restore a new image, and publish it if that works.

    Args:
        context: of the build.
        candidate: the image.
        base: its base image.
        stores: image stores with the layers of the base image.
        engine: a CRI-O of our own that knows no image; None to start one.
    """
    target, output = context.recipe.image, context.options.output
    secrets = search_secrets(context.recipe, candidate.layout, base, context.progress)
    restores = verify(context, candidate, stores, engine)
    destination, image = describe_output(output, target), read_image(candidate.layout)
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
    )
    report = make_document(built, context.progress)
    check_report(context.recipe, base, report)
    with context.progress.step("publish"):
        publish_image(
            candidate.layout,
            image,
            target,
            output,
            context.progress,
            report=json.dumps(report).encode(),
            mount_from=base.source.reference if base.source.kind is Transport.REGISTRY else None,
            access=context.options.access,
        )
    return built


def verify(
    context: BuildContext, candidate: BuildCandidate, stores: Sequence[Path], engine: LocalEngine | None
) -> tuple[Restore, ...]:
    """Restore a new image; arguments as for `verify_and_publish`."""
    recipe, warm = context.recipe, candidate.warm
    subject = Subject(
        candidate.layout, str(recipe.image), recipe.container, warm.identity, recipe.restore, warm.restrictions
    )
    with context.progress.step("verify"), contextlib.ExitStack() as ended:
        check_content(subject.layout, subject.name, context.blobs)
        if engine is None:
            engine = ended.enter_context(start_engine(context.session, "verify", subnet=VERIFY_SUBNET, stores=stores))
        engine.import_image(subject.layout, subject.name, context.progress.note)
        candidate.obsolete.close()
        return verify_image(subject, engine, context.progress, candidate.cold)
