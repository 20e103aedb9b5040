"""Find, fetch and check the base image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.result import BaseImage
from warmstart.core.reference import Source, Transport, parse_source
from warmstart.engine.local import find_access
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.mount_points import Links, add_layer, check_image
from warmstart.image.open import open_image
from warmstart.image.skopeo import copy_image, find_image
from warmstart.recipe.model import Recipe

# These sources store layers uncompressed.
PLAIN_LAYERS = (Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON, Transport.DOCKER_ARCHIVE)


def find_source(recipe: Recipe) -> Source:
    """Return the location of the base image; a relative path starts at the recipe's directory.

    Raises:
        RecipeError: container.image of the recipe is invalid.
    """
    source = parse_source(recipe.container.image)
    if source.path is None or recipe.source is None:
        return source
    return Source(source.kind, path=recipe.source.parent.absolute() / source.path, image=source.image)


def fetch_base(context: BuildContext, source: Source) -> BaseImage:
    """Copy the base image into the workspace, with the blobs of its source."""
    session, layout = context.session, context.workspace / "base"
    access = find_access(session, source, context.options.access)
    # With zstd, skopeo would compress layers again that have gzip, and so change their digests.
    plain = source.kind in PLAIN_LAYERS
    with context.progress.step("pull"):
        digest = find_image(session, str(source), access=access)
        pinned = pin_source(source, digest)
        copy_image(session, str(pinned), f"oci:{layout}", access=access, zstd=plain, on_line=context.progress.note)
        image = read_image(layout)
        check_platform(image.config.platform, str(source))
        check_base(layout, str(source))
    return BaseImage(source, digest, layout, len(image.manifest.layers))


def check_base(layout: Path, name: str) -> None:
    """Refuse a base image with links that redirect the mounts of a container.

    Raises:
        ImageError: the image has such links, or a layer is broken.
    """
    links = Links()
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            add_layer(links, opened, layer)
    check_image(links, name)


def pin_source(source: Source, digest: str) -> Source:
    """Pin a name in a registry to a digest, because its tag may move."""
    if source.kind is not Transport.REGISTRY or source.reference is None:
        return source
    return replace(source, reference=replace(source.reference, digest=digest))
