"""From a recipe to a verified and published image: the pipeline, as a list of its steps."""

from __future__ import annotations

import json
from collections.abc import Sequence

from warmstart.build.assemble import (
    annotate,
    describe,
    edit_dump,
    edit_launched,
    make_layout,
    pack_launched,
    read_archive,
)
from warmstart.build.base import fetch_base, find_source
from warmstart.build.container import open_engine, restore_and_checkpoint, run_and_checkpoint, run_and_dump
from warmstart.build.context import BuildContext, BuildOptions, open_context
from warmstart.build.publish import check_output, describe_output, publish_image
from warmstart.build.result import BaseImage, BuildCandidate, BuildResult, SelfCheckpoint, make_document
from warmstart.build.verify import Restore, check_links, verify_image
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.engine.local import LocalEngine, find_binds, find_host_runtime
from warmstart.image.annotations import Provenance
from warmstart.image.compose import Layer, add_layers
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import MEMORY_OF_RUNTIME
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.privileges import require_host_privileges


def build_image(recipe: Recipe, options: BuildOptions, progress: Progress) -> BuildResult:
    """Build the image of a recipe.

    Raises:
        WarmstartError: a step failed. Nothing was published, and nothing is left behind.
    """
    require_host_privileges(recipe.container.security_context, options.allowed)
    source = find_source(recipe)
    check_output(recipe.image, options.output, access=options.access)
    host = find_host_runtime(options.runtime_endpoint) if options.runtime_endpoint else None
    restores_itself = Restorer.SELF in recipe.restore
    binds = [*find_binds(source), *(host.binds if host else ())]
    with open_context(recipe, options, progress, binds=binds, with_launcher=restores_itself) as context:
        base = fetch_base(context, source)
        make = make_self_restoring if restores_itself else make_restored
        with open_engine(context, host) as engine:
            candidate = make(context, engine, base)
        return verify_and_publish(context, candidate, base)


def make_restored(context: BuildContext, engine: LocalEngine, base: BaseImage) -> BuildCandidate:
    """Make an image that the runtime restores."""
    checkpoint = run_and_checkpoint(context, engine, base)
    archive = read_archive(context, checkpoint.archive)
    dump = edit_dump(context, checkpoint, archive)
    provenance = describe(context, engine, checkpoint.warm, dump)
    layout = make_layout(context, checkpoint, archive, dump, base, provenance)
    return BuildCandidate(layout, checkpoint.warm, dump, provenance)


def make_self_restoring(context: BuildContext, engine: LocalEngine, base: BaseImage) -> BuildCandidate:
    """Make an image that restores itself; the runtime can restore it too if the recipe asks for both."""
    layout = context.workspace / "layout"
    checkpoint = run_and_dump(context, engine, base, layout)
    dump = edit_launched(context, checkpoint)
    provenance = describe(context, engine, checkpoint.warm, dump)
    with context.progress.step("image"):
        layers = pack_launched(checkpoint, dump, layout)
        annotations = annotate(base, checkpoint.warm, provenance)
        add_layers(base.layout, layout, layers, checkpoint.run, annotations, context.recipe.labels)
    if Restorer.RUNTIME in context.recipe.restore:
        add_checkpoint(context, engine, base, checkpoint, layers, provenance)
    return BuildCandidate(layout, checkpoint.warm, dump, provenance)


def add_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    provenance: Provenance,
) -> None:
    """Add a checkpoint for the runtime to an image that restores itself: that of a container that it restored.

    Of the memory that is mapped from the image, the checkpoint contains only pages that have changed since.
    """
    checkpoint = restore_and_checkpoint(context, engine, launched)
    archive = read_archive(context, checkpoint.archive)
    dump = edit_dump(context, checkpoint, archive, MEMORY_OF_RUNTIME)
    make_layout(context, checkpoint, archive, dump, base, provenance, layers, launched.run)


def verify_and_publish(context: BuildContext, candidate: BuildCandidate, base: BaseImage) -> BuildResult:
    """Restore the image of a candidate, and publish it if that works."""
    restores = verify(context, candidate)
    target = context.recipe.image
    result = BuildResult(
        name=str(target),
        destination=describe_output(context.options.output, target),
        cold_s=candidate.warm.cold_s,
        restores=restores,
        dump=candidate.dump,
        image=read_image(candidate.layout),
        base=base,
        provenance=candidate.provenance,
    )
    publish(context, candidate, result)
    return result


def verify(context: BuildContext, candidate: BuildCandidate) -> tuple[Restore, ...]:
    """Restore the image on a second CRI-O with an empty store."""
    recipe = context.recipe
    with context.progress.step("verify"):
        check_links(candidate.layout, str(recipe.image))
        return verify_image(
            context.session,
            candidate.layout,
            str(recipe.image),
            recipe.container,
            candidate.warm.identity,
            context.progress,
            recipe.restore,
            candidate.warm.restrictions,
        )


def publish(context: BuildContext, candidate: BuildCandidate, result: BuildResult) -> None:
    """Write the image to its destination, with the build report."""
    source = result.base.source
    with context.progress.step("publish"):
        publish_image(
            candidate.layout,
            result.image,
            context.recipe.image,
            context.options.output,
            context.progress,
            report=json.dumps(make_document(result, context.progress)).encode(),
            mount_from=source.reference if source.kind is Transport.REGISTRY else None,
            access=context.options.access,
        )
