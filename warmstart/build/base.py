"""The base image of a build: find it, fetch it, check it, and share its unpacked layers with other builds."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.core.errors import WarmstartError
from warmstart.core.reference import Source, Transport, parse_source
from warmstart.core.workspace import open_workspace
from warmstart.engine.local import find_access
from warmstart.image.cache.blobs import BlobCache
from warmstart.image.cache.prune import prune, read_limit_bytes
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.mount_points import Links, add_layer, check_image
from warmstart.image.open import open_image
from warmstart.image.skopeo import copy_image, find_image
from warmstart.node.crio import find_store
from warmstart.node.keeper import Bind
from warmstart.node.session import enter
from warmstart.node.tree import tree_path
from warmstart.recipe.model import Container, Recipe

# Transports that keep images with uncompressed layers.
PLAIN_LAYERS = (Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON, Transport.DOCKER_ARCHIVE)


@dataclass(frozen=True)
class BaseImage:
    """The base image: its source, the digest of its manifest, its layout in the workspace, its number of layers."""

    source: Source
    digest: str
    layout: Path
    layers: int


def find_source(recipe: Recipe, container: Container | None = None) -> Source:
    """Return the source of a container's image, the recipe's own by default.

    A relative path starts at the recipe's directory, or the current one if the recipe is from no file.

    Raises:
        ImageReferenceError: the name of the image is invalid.
    """
    source = parse_source((container or recipe.container).image)
    if source.path is None:
        return source
    start = recipe.source.parent if recipe.source else Path()
    return Source(source.kind, path=start.absolute() / source.path, image=source.image)


def fetch_base(context: BuildContext, source: Source) -> BaseImage:
    """Copy the base image into the workspace; arguments and errors as for `fetch_image`."""
    return fetch_image(context, source, context.workspace / "base")


def fetch_image(context: BuildContext, source: Source, layout: Path, step: str = "pull") -> BaseImage:
    """Copy an image into a layout; its blobs stay as they are at the source.

    Args:
        context: of the build.
        source: where the image is.
        layout: a new or empty directory.
        step: name of the step.

    Raises:
        ImageError: it is not there, is broken, is of another platform, or has links that `check_base` refuses.
        RegistryError: credentials cannot be read.
    """
    session, blobs = context.session, context.blobs
    access = find_access(session, source, context.options.access)
    # Asked for zstd, skopeo would compress layers anew that are compressed with gzip.
    plain = source.kind in PLAIN_LAYERS
    with context.progress.step(step):
        found = find_image(session, str(source), access=access)
        pinned = pin_source(source, found.digest)
        if blobs and source.kind is Transport.REGISTRY:
            blobs.lend(found.layers, layout)
        copy_image(session, str(pinned), f"oci:{layout}", access=access, zstd=plain, on_line=context.progress.note)
        image = read_image(layout)
        check_platform(image.config.platform, str(source))
        check_base(layout, str(source), blobs)
        if blobs and source.kind is Transport.REGISTRY:
            blobs.keep(image.manifest.layers, layout)
    return BaseImage(source, found.digest, layout, len(image.manifest.layers))


def check_base(layout: Path, name: str, known: BlobCache | None = None) -> None:
    """Refuse a base image in which links lead the mounts of a container elsewhere.

    Args:
        layout: where the image is.
        name: names it in errors.
        known: lists of layers that were read before.

    Raises:
        ImageError: the image has such links, or a layer is broken.
    """
    links = Links()
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            add_layer(links, opened, layer, known)
    check_image(links, name)


def pin_source(source: Source, digest: str) -> Source:
    """Return the source of the very image that was found: a tag may be moved at any time."""
    if source.kind is not Transport.REGISTRY or source.reference is None:
        return source
    return replace(source, reference=replace(source.reference, digest=digest))


@contextlib.contextmanager
def share_layers(context: BuildContext, base: BaseImage) -> Iterator[tuple[Path, ...]]:
    """Unpack the base image's layers in the cache, unless they are there, and yield their image stores.

    Without room in the cache there are fewer of them, or none, and engines unpack the rest themselves.
    """
    if context.layers is None:
        yield ()
        return
    diff_ids = read_image(base.layout).config.diff_ids
    if not context.layers.holds(diff_ids):
        with context.progress.step("unpack"), contextlib.suppress(OSError, WarmstartError):
            context.layers.add(diff_ids, partial(_unpack, context, base))
    with context.layers.hold(diff_ids) as stores:
        yield stores
    with contextlib.suppress(OSError):
        prune(context.options.cache, read_limit_bytes())


def _unpack(context: BuildContext, base: BaseImage, store: Path, present: Sequence[Path]) -> None:
    """Make an image store of the base image, in a node of its own: the build's node sees the cache read-only."""
    assert context.layers is not None
    binds = [Bind(str(base.layout)), Bind(str(context.layers.directory)), Bind(str(store), writable=True)]
    leftovers = [glob.escape(str(store.parent))]
    tree = tree_path(context.options.cache)
    with open_workspace("unpack") as workspace, enter(tree, workspace, binds=binds, leftovers=leftovers) as session:
        target = find_store(store, workspace / "runroot", present)
        copy_image(session, f"oci:{base.layout}", f"{target}localhost/warmstart/base", own_layout=True)
