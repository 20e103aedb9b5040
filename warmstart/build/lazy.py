"""Make an image whose layers a snapshotter can mount before it has fetched them: `image.lazy`.

All layers are rewritten, those of the base image too, so they have other digests than its own. The new image is the one
that is verified and published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from warmstart.build.context import BuildContext, BuildOptions
from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import InputError
from warmstart.core.reference import Source, Transport
from warmstart.image.chunk_format import find_format
from warmstart.image.compose import CHECKPOINT, CREATED_BY, Replacement, replace_layers
from warmstart.image.layer_parts import can_join
from warmstart.image.lazy_layer import NOT_DIVIDED, Entry, read_entries, write_lazy_layers
from warmstart.image.manifest import Descriptor
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.selfrestore.pack import CHANGES, DIRECTORY, MEMORY, PROGRAMS, TOUCHED_MEMORY
from warmstart.recipe.model import Lazy, Recipe

# What the launcher reads. The source of its programs, and memory for the runtime, are not needed.
_LAUNCHER_FILES = ("launcher", "criu", "read-ahead", "manifest", "env", "remove", "checkpoint", "seed")
_CHUNK_BYTES = 1 << 20
# A part of a large layer of the base image, and the most that a layer may have to be joined to the one below.
PART_BYTES = 80 << 20
JOINED_BYTES = 32 << 20


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
    first = [*(f"{DIRECTORY}/{name}" for name in _LAUNCHER_FILES), TOUCHED_MEMORY, MEMORY]
    hint = "make room there, or set TMPDIR to another directory"
    chunk_format = find_format(context.recipe.lazy, context.recipe.compression)
    replacements = []
    with context.progress.step("convert"), reporting_full_disk(context.workspace, hint):
        for joined in _read_joined(context, layout):
            part_bytes = NOT_DIVIDED if joined.maker.startswith(CREATED_BY) else PART_BYTES
            layers = write_lazy_layers(joined.entries, into, first, mapped, chunk_format, part_bytes)
            replacements.append(Replacement(joined.count, [(layer.blob, layer.diff_id) for layer in layers]))
        replace_layers(layout, into, replacements)
    return into


@dataclass
class _Joined:
    """Adjacent layers that become one.

    Attributes:
        maker: what made the lowest.
        entries: members of all.
        files: the tars that have the members.
        count: number of the layers.
    """

    maker: str
    entries: dict[str, Entry]
    files: contextlib.ExitStack
    count: int = 1


def _read_joined(context: BuildContext, layout: Path) -> Iterator[_Joined]:
    """Unpack the layers of an image, lowest first, and join small ones to those below them."""
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        layers, makers = opened.image.manifest.layers, opened.image.makers
        has_history = len(opened.image.config.history) == len(layers)
        current: _Joined | None = None
        for number, (layer, maker) in enumerate(zip(layers, makers, strict=True), 1):
            context.progress.note(f"layer {number} of {len(layers)}")
            read = _read_layer(context, opened, layer, maker)
            if current and has_history and _is_joined(current, read):
                current.files.push(read.files)
                current.entries.update(read.entries)
                current.count += 1
                continue
            if current:
                yield from _close_after(current)
            current = read
        if current:
            yield from _close_after(current)


def _read_layer(context: BuildContext, opened: OpenedImage, layer: Descriptor, maker: str) -> _Joined:
    with contextlib.ExitStack() as files:
        tar = files.enter_context(TemporaryFile(dir=context.workspace))
        _unpack(opened, layer, tar)
        return _Joined(maker, read_entries(tar), files.pop_all())


def _close_after(joined: _Joined) -> Iterator[_Joined]:
    with joined.files:
        yield joined


def _is_joined(current: _Joined, read: _Joined) -> bool:
    """Tell whether a layer is joined to those below it. Layers that are looked for later stay as they are."""
    if current.maker in (PROGRAMS, CHECKPOINT) or read.maker in (PROGRAMS, CHANGES, CHECKPOINT):
        return False
    if current.maker.startswith(CREATED_BY) != read.maker.startswith(CREATED_BY):
        return False
    below, above = ({name: entry.member for name, entry in one.entries.items()} for one in (current, read))
    return sum(member.size_bytes for member in above.values()) <= JOINED_BYTES and can_join(below, above)


def _unpack(image: OpenedImage, layer: Descriptor, tar: BinaryIO) -> None:
    with image.open_layer(layer) as content:
        while data := content.read(_CHUNK_BYTES):
            tar.write(data)
    tar.flush()
