"""Keep the cached content of base images below a limit in bytes; the least recently used goes first."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.quantity import parse_quantity
from warmstart.core.text import Section, format_bytes
from warmstart.image.cache.blobs import BlobCache, CachedFile
from warmstart.image.cache.layers import CachedLayer, LayerCache

LIMIT = "WARMSTART_CACHE_LIMIT"
DEFAULT_LIMIT = "20Gi"


@dataclass(frozen=True)
class Usage:
    """Content of base images in the cache.

    Attributes:
        layers: number of unpacked layers.
        layers_bytes: their size on the disk.
        blobs: number of files with blobs and lists.
        blobs_bytes: their size on the disk.
    """

    layers: int
    layers_bytes: int
    blobs: int
    blobs_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.layers_bytes + self.blobs_bytes


def read_limit_bytes(text: str | None = None) -> int:
    """Return a limit as bytes; without a text, the one of the environment.

    Raises:
        HostError: it is not a quantity.
    """
    name, text = ("the limit", text) if text else (LIMIT, os.environ.get(LIMIT) or DEFAULT_LIMIT)
    try:
        limit = parse_quantity(text)
    except ValueError:
        limit = Fraction(-1)
    if limit < 0:
        raise HostError(f"{name} is not a quantity of bytes: {text!r}", hint="use a number such as 500Mi or 20Gi")
    return int(limit)


def list_usage(usage: Usage, limit_bytes: int) -> Section:
    """Return a table of the cached content for the terminal."""
    rows = (
        ("layers", f"{usage.layers}, {format_bytes(usage.layers_bytes)}"),
        ("blobs", f"{usage.blobs}, {format_bytes(usage.blobs_bytes)}"),
        ("limit", format_bytes(limit_bytes)),
    )
    return Section("Cached content of base images", (), rows)


def make_usage_document(usage: Usage) -> dict[str, int]:
    """Return the cached content as a JSON object."""
    return {
        "layers": usage.layers,
        "layersBytes": usage.layers_bytes,
        "blobs": usage.blobs,
        "blobsBytes": usage.blobs_bytes,
    }


def measure(cache: Path) -> Usage:
    """Add up the content of base images in a cache."""
    layers, blobs = LayerCache(cache).list(), list(BlobCache(cache).list())
    return Usage(len(layers), sum(one.size_bytes for one in layers), len(blobs), sum(one.size_bytes for one in blobs))


def prune(cache: Path, limit_bytes: int) -> int:
    """Remove content until the rest fits the limit; layers that a build uses stay.

    Returns:
        The bytes that were removed.

    Raises:
        OSError: something cannot be removed.
    """
    layers = LayerCache(cache)
    content: list[CachedFile | CachedLayer] = [*layers.list(), *BlobCache(cache).list()]
    total_bytes = sum(one.size_bytes for one in content)
    removed_bytes = 0
    # The sort is stable: layers with the same time stay in the order that puts children before their parents.
    for one in sorted(content, key=lambda one: one.used_at):
        if total_bytes - removed_bytes <= limit_bytes:
            break
        if isinstance(one, CachedFile):
            with contextlib.suppress(FileNotFoundError):
                one.path.unlink()
                removed_bytes += one.size_bytes
        elif layers.remove(one):
            removed_bytes += one.size_bytes
    return removed_bytes
