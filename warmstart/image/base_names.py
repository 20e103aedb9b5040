"""List the names in some directories of an image, from all of its layers together."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Source, Transport
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, walk_layer
from warmstart.image.open import open_image
from warmstart.image.whiteouts import OPAQUE, WHITEOUT


def find_names(layout: Path, directories: Set[str]) -> dict[str, set[str]]:
    """Return the names in directories of an image, by directory; the root is the empty string.

    A directory that a layer names through a link is not known under its other name.

    Raises:
        ImageError: the image is broken.
    """
    names: dict[str, set[str]] = {directory: set() for directory in directories}
    if not names:
        return names
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            with opened.open_layer(layer) as content:
                try:
                    _add_layer(names, StreamedTar(content, "a layer of the image"))
                except ArchiveError as error:
                    raise ImageError(error.brief) from error
    return names


def _add_layer(names: dict[str, set[str]], tar: StreamedTar) -> None:
    added: dict[str, set[str]] = {directory: set() for directory in names}
    for member in walk_layer(tar):
        path = PurePosixPath(member.name)
        if path.name == OPAQUE:
            _clear(names, _text(path.parent))
        elif path.name.startswith(WHITEOUT):
            removed = path.name.removeprefix(WHITEOUT)
            if (parent := _text(path.parent)) in names:
                names[parent].discard(removed)
            _clear(names, f"{parent}/{removed}".lstrip("/"))
        elif member.name:
            _add(names, added, member, path)
    # The marks of a layer, wherever they are in it, concern only the layers below.
    for directory, found in added.items():
        names[directory] |= found


def _add(names: dict[str, set[str]], added: dict[str, set[str]], member: Member, path: PurePosixPath) -> None:
    if member.kind is not Kind.DIRECTORY and member.name in names:
        _clear(names, member.name)
    for one in (path, *path.parents):
        if one.name and (parent := _text(one.parent)) in added:
            added[parent].add(one.name)


def _clear(names: dict[str, set[str]], directory: str) -> None:
    for one in _list_below(names, directory):
        names[one].clear()


def _list_below(names: dict[str, set[str]], directory: str) -> Iterator[str]:
    for one in names:
        if not directory or one == directory or one.startswith(f"{directory}/"):
            yield one


def _text(path: PurePosixPath) -> str:
    return "" if path == PurePosixPath() else str(path)
