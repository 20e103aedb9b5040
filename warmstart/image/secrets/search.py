"""Search the layers of a new image for secrets: those that were added to the base image.

Each layer is decompressed and searched in one pass. A value is found if its bytes lie in sequence in one file: in a
dump, they do within a page, and across pages that are adjacent in the same file.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Source, Transport
from warmstart.core.text import printable
from warmstart.dump.archive.archive import CHECKPOINT_DIRECTORY, ROOTFS_DIFF, SPEC_DUMP
from warmstart.dump.archive.tar_stream import Stream, StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, walk_layer
from warmstart.image.compose import CHECKPOINT
from warmstart.image.layout import Image
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.secrets.finder import Finder, Search
from warmstart.image.secrets.record import FoundSecret
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY, MEMORY_OF_RUNTIME, PROGRAMS
from warmstart.recipe.model import Secret

_CHUNK_BYTES = 1 << 20
_NAMES = "names of files"
_UNNAMED = "a file"
_OWN = {
    MEMORY: "memory",
    MEMORY_OF_RUNTIME: "memory",
    f"{DIRECTORY}/env": "environment",
    f"{DIRECTORY}/manifest": "command line",
}
_SEED = f"{DIRECTORY}/seed/"
# CRIU keeps the files of a tmpfs in a tar that is compressed.
_TMPFS = re.compile(rf"(?:{re.escape(DIRECTORY)}/)?{CHECKPOINT_DIRECTORY}/tmpfs-(?:dev-)?\d+\.tar\.gz\.img")  # noqa: S108


def search_layers(layout: Path, lowest: int, secrets: Collection[Secret]) -> tuple[FoundSecret, ...]:
    """Search the layers of an image for secrets, except the layer of warmstart's own programs.

    Args:
        layout: the layout that holds it.
        lowest: index of the first layer to search; those below are the base image's.
        secrets: the secrets.

    Raises:
        ImageError: a layer is broken.
    """
    finder = Finder(secrets)
    search = Search(finder)
    if not finder.names:
        return ()
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for index, maker in enumerate(_list_makers(opened.image)):
            if index >= lowest and maker != PROGRAMS:
                _search_layer(opened, index, search, of_runtime=maker == CHECKPOINT)
    return tuple(FoundSecret(name, tuple(places)) for name, places in sorted(search.places.items()) if places)


def _list_makers(image: Image) -> list[str]:
    """List what made each layer, if it is recorded; a base image may have no history."""
    history = image.config.history
    return [""] * (len(image.manifest.layers) - len(history)) + list(history)


def _search_layer(opened: OpenedImage, index: int, search: Search, *, of_runtime: bool) -> None:
    layer = opened.image.manifest.layers[index]
    with opened.open_layer(layer, checked=False) as plain:
        try:
            tar = StreamedTar(_Watched(plain, search), f"layer {layer.digest}")
            _search_tar(tar, search, of_runtime=of_runtime)
        except ArchiveError as error:
            raise ImageError(error.brief, hint=error.hint) from error


def _search_tar(tar: StreamedTar, search: Search, *, of_runtime: bool) -> None:
    """Search a tar that is watched, with its headers; `of_runtime`: whether it is a checkpoint for the runtime."""
    search.enter(_NAMES)
    for member in walk_layer(tar):
        if member.kind is Kind.FILE and member.size_bytes:
            place = _find_place(member.name, of_runtime=of_runtime)
            # The record is public.
            search.enter(_UNNAMED if search.is_held_by(place) else place)
            if of_runtime and member.name == ROOTFS_DIFF:
                _search_tar(StreamedTar(_Content(tar, member), ROOTFS_DIFF), search, of_runtime=False)
            elif _TMPFS.fullmatch(member.name):
                _search_packed(tar.read_content(member), search.fork())
            else:
                for _ in tar.read_content(member):
                    pass  # it is watched
            search.enter(_NAMES)


def _search_packed(content: Iterable[bytes], search: Search) -> None:
    """Search content that is compressed with gzip, as far as it is."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    with contextlib.suppress(zlib.error):
        for packed in content:
            while packed:
                search.feed(decompressor.decompress(packed, _CHUNK_BYTES))
                packed = decompressor.unconsumed_tail


def _find_place(name: str, *, of_runtime: bool) -> str:
    """Name the place that a file of a layer is for a user."""
    if of_runtime:
        return {SPEC_DUMP: "environment"}.get(name, "checkpoint")
    if name in _OWN:
        return _OWN[name]
    if name.startswith(f"{DIRECTORY}/") and not name.startswith(_SEED):
        return "checkpoint"
    return f"file /{printable(name.removeprefix(_SEED))}"


class _Watched:
    """A stream that is searched as it is read."""

    def __init__(self, stream: Stream, search: Search) -> None:
        self._stream = stream
        self._search = search

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._search.feed(data)
        return data


class _Content:
    """The content of a member of a tar, as a stream."""

    def __init__(self, tar: StreamedTar, member: Member) -> None:
        self._tar = tar
        self._at, self._end = member.offset, member.offset + member.size_bytes

    def read(self, size: int, /) -> bytes:
        data = self._tar.read(self._at, min(size, self._end - self._at))
        self._at += len(data)
        return data
