"""Give an image a second memory file, which has only the parts that a restore touches: for `image.lazy`.

A snapshotter fetches small files before it starts a container, and pieces of a large memory when they are read. So the
parts that are read at once are a file of their own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.result import SelfCheckpoint
from warmstart.dump.criu.contents import PAGE_SIZE
from warmstart.dump.edit.extents import CHUNK_BYTES
from warmstart.dump.edit.touched_memory import TouchedMemory, choose_touched, map_touched
from warmstart.dump.proc.container import closing_descriptor, open_below_root
from warmstart.dump.proc.touched import FilePart
from warmstart.engine.cri import CriContainer
from warmstart.image.compose import Layer, pack_file
from warmstart.image.lazy_layer import FIRST_LIMIT_BYTES
from warmstart.image.selfrestore.pack import MEMORY, TOUCHED_MEMORY, pack_checkpoint, update_sizes
from warmstart.recipe.model import Lazy


def separate_touched(
    context: BuildContext,
    launched: SelfCheckpoint,
    layers: Sequence[Layer],
    running: CriContainer,
    parts: Sequence[FilePart],
) -> tuple[list[Layer], list[FilePart]]:
    """Add the second memory file, if the image is pulled lazily and its memory is too large to be fetched at once.

    Args:
        context: of the build.
        launched: the dump; edited if the file is added.
        layers: layers of the image, that of the dump last.
        running: a container that the image has restored.
        parts: parts of files that it has touched.

    Returns:
        The layers of the image, and the parts of its files that are touched.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
        OSError: the memory file of the container cannot be read.
    """
    unchanged = list(layers), list(parts)
    if context.recipe.lazy is Lazy.NONE:
        return unchanged
    with _open_memory(running) as memory:
        size_bytes = os.fstat(memory).st_size
        if size_bytes <= FIRST_LIMIT_BYTES:
            return unchanged
        ranges = [(part.start, part.start + part.size) for part in parts if part.path == f"/{MEMORY}"]
        touched = choose_touched(ranges, size_bytes)
        if not 0 < touched.size_bytes <= FIRST_LIMIT_BYTES:
            return unchanged
        layer = _pack(context, launched, memory, touched)
    if not map_touched(launched.directory / "checkpoint", f"/{MEMORY}", touched, f"/{TOUCHED_MEMORY}"):
        return unchanged
    launched.identity.take((launched.directory / "checkpoint").iterdir())
    update_sizes(launched.directory, {f"../{Path(TOUCHED_MEMORY).name}": touched.size_bytes})
    checkpoint = pack_checkpoint(launched.directory, context.workspace / "layout", context.recipe.compression)
    others = [part for part in parts if part.path != f"/{MEMORY}"]
    return [*layers[:-1], layer, checkpoint], [FilePart(f"/{TOUCHED_MEMORY}", 0, touched.size_bytes), *others]


@contextlib.contextmanager
def _open_memory(running: CriContainer) -> Iterator[int]:
    """Open the memory file of a container; no link of it leads to a file of the host."""
    with open_below_root(running.engine.proc, running.pid, f"/{MEMORY}", os.O_PATH) as opened:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise FileNotFoundError(MEMORY)
        with closing_descriptor(os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_CLOEXEC)) as memory:
            yield memory


def _pack(context: BuildContext, launched: SelfCheckpoint, memory: int, touched: TouchedMemory) -> Layer:
    file = tarfile.TarInfo(TOUCHED_MEMORY)
    file.size, file.mode = touched.size_bytes, stat.S_IMODE(os.fstat(memory).st_mode)
    file.uid, file.gid = launched.identity.user, launched.identity.group
    return pack_file(file, _read(memory, touched), context.workspace / "layout", context.recipe.compression)


def _read(memory: int, touched: TouchedMemory) -> Iterator[bytes]:
    """Yield the content of the second file."""
    for number, part in enumerate(touched.parts):
        if number:
            yield bytes(PAGE_SIZE)
        for piece in part.cut(CHUNK_BYTES):
            yield os.pread(memory, piece.size, piece.start)
