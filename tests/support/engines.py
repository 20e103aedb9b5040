"""Run images that were built, on CRI-Os that restore and on CRI-Os that do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from warmstart.engine.local import LocalEngine, start_engine
from warmstart.image.cache.layers import LayerCache
from warmstart.image.layout import read_image
from warmstart.node.keeper import Bind
from warmstart.node.session import Session


@dataclass(frozen=True)
class BuiltImage:
    """An image in an OCI layout, to be run on nodes that see the cached layers of its base image.

    Attributes:
        cache: cache directory.
        layout: its layout.
        name: its name.
    """

    cache: Path
    layout: Path
    name: str

    @property
    def binds(self) -> Sequence[Bind]:
        """What its nodes have to see."""
        return [Bind(str(self.layout)), Bind(str(LayerCache(self.cache).directory))]

    @contextmanager
    def open_engine(
        self, session: Session, subnet: str, *, restore: bool, unpack_all: bool = False
    ) -> Iterator[LocalEngine]:
        """Start a CRI-O that has the image, and unpack those of its layers that are not in the cache, or all."""
        name, diff_ids = "runtime" if restore else "self", read_image(self.layout).config.diff_ids
        with (
            LayerCache(self.cache).hold(() if unpack_all else diff_ids) as stores,
            start_engine(session, name, subnet=subnet, restore=restore, stores=stores) as engine,
        ):
            engine.import_image(self.layout, self.name)
            yield engine
