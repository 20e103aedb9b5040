"""Explain a cold start that failed because the application found files of its own, such as a lock file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.build.cold_start import ColdStartError
from warmstart.core.reference import Source, Transport
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, walk_layer
from warmstart.image.open import open_image
from warmstart.image.selfrestore.pack import CHANGES, DIRECTORY

_MOST = 5
_TELLING = re.compile(r"(?:^|[._-])(?:lock|lck|pid)(?:[._-]|$)|(?:lock|lck|pid)$", re.IGNORECASE)


@contextlib.contextmanager
def explaining_leftovers(layout: Path) -> Iterator[None]:
    """Name files that may have prevented the cold start of the image in a layout.

    Raises:
        ColdStartError: with the files, in place of one without.
    """
    try:
        yield
    except ColdStartError as error:
        if left := find_leftovers(list_changed(layout), error.details):
            named = ", ".join(left)
            error.details = (
                *error.details,
                f"The image has files that the application had left at the checkpoint, and may not start with: {named}",
            )
            error.hint = f"have a cold start remove them: add to the recipe coldStart: {{remove: [{named}]}}"
        raise


def list_changed(layout: Path) -> list[str]:
    """Return the paths of the files that the application of an image had changed; none if no layer has them."""
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        layers, makers = opened.image.manifest.layers, opened.image.makers
        if CHANGES not in makers:
            return []
        with opened.open_layer(layers[makers.index(CHANGES)], checked=False) as plain:
            members = list(walk_layer(StreamedTar(plain, "changed files")))
    # In an image that is pulled lazily, the layer also has files of ours.
    return [f"/{one.name}" for one in members if one.kind is Kind.FILE and not one.name.startswith(f"{DIRECTORY}/")]


def find_leftovers(changed: Sequence[str], log: Sequence[str]) -> list[str]:
    """Return the changed files that probably prevented a start: those that its log names, else locks and pid files."""
    text = "\n".join(log)
    named = [path for path in changed if path in text]
    telling = [path for path in changed if _TELLING.search(path.rpartition("/")[2])]
    return (named or telling)[:_MOST]
