"""Make an image whose layers a snapshotter can mount before it has fetched them: `image.lazy`.

All layers are rewritten, those of the base image too, so they have other digests than its own. The new image is the one
that is verified and published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from warmstart.build.context import BuildContext, BuildOptions
from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import InputError
from warmstart.core.reference import Source, Transport
from warmstart.image.chunk_format import find_format
from warmstart.image.compose import replace_layers
from warmstart.image.lazy_layer import LazyLayer, write_lazy_layer
from warmstart.image.manifest import Descriptor
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY
from warmstart.recipe.model import Lazy, Recipe

# What the launcher reads. The source of its programs, and memory for the runtime, are not needed.
_LAUNCHER_FILES = ("launcher", "criu", "read-ahead", "manifest", "env", "remove", "checkpoint", "seed")
_CHUNK_BYTES = 1 << 20


def check_lazy(recipe: Recipe, options: BuildOptions) -> None:
    """Check that nothing else in the recipe or the options rules out `image.lazy`.

    Raises:
        InputError: a snapshotter could not read it.
    """
    if recipe.lazy is not Lazy.NONE and options.encryption_keys:
        raise InputError(
            f"image.lazy: {recipe.lazy} and --encryption-key exclude each other: an encrypted layer is read as a whole",
            hint="remove one of them",
        )


def make_lazy(context: BuildContext, layout: Path, mapped: Sequence[str]) -> Path:
    """Rewrite the layers of an image, if the recipe asks for that; return the layout of the new image.

    Args:
        context: of the build.
        layout: layout of the image, in the workspace.
        mapped: files that the application had mapped at its checkpoint; a restore reads them.

    Raises:
        ImageError: a layer cannot be rewritten.
        HostError: the disk is full.
    """
    if context.recipe.lazy is Lazy.NONE:
        return layout
    into = context.workspace / "lazy"
    first = [*(f"{DIRECTORY}/{name}" for name in _LAUNCHER_FILES), MEMORY]
    with context.progress.step("convert"), open_image(Source(Transport.OCI, path=layout)) as image:
        layers = []
        for number, layer in enumerate(image.image.manifest.layers, 1):
            context.progress.note(f"layer {number} of {len(image.image.manifest.layers)}")
            layers.append(_rewrite(context, image, layer, into, first, mapped))
        replace_layers(layout, into, [(layer.blob, layer.diff_id) for layer in layers])
    return into


def _rewrite(
    context: BuildContext,
    image: OpenedImage,
    layer: Descriptor,
    into: Path,
    first: Sequence[str],
    mapped: Sequence[str],
) -> LazyLayer:
    hint = "make room there, or set TMPDIR to another directory"
    with reporting_full_disk(context.workspace, hint), TemporaryFile(dir=context.workspace) as tar:
        _unpack(image, layer, tar)
        return write_lazy_layer(tar, into, first, mapped, find_format(context.recipe.lazy, context.recipe.compression))


def _unpack(image: OpenedImage, layer: Descriptor, tar: BinaryIO) -> None:
    with image.open_layer(layer) as content:
        while data := content.read(_CHUNK_BYTES):
            tar.write(data)
    tar.flush()
