"""The config of an image, wherever it is, without tools and without root."""

from __future__ import annotations

from pathlib import Path

from warmstart.core.errors import ImageError
from warmstart.image.layout import read_image
from warmstart.image.manifest import Config
from warmstart.image.reference import Source, Transport
from warmstart.image.registry import read_config


def fetch_config(source: Source, *, plain_http: bool = False, auth_file: Path | None = None) -> Config:
    """The config of an image in a registry or in an OCI layout.

    Raises:
        RegistryError: the registry refused, or could not be reached.
        ImageError: the layout is broken, or the image is somewhere else.
    """
    if source.kind is Transport.REGISTRY and source.reference is not None:
        return read_config(source.reference, plain_http=plain_http, auth_file=auth_file)
    if source.kind is Transport.OCI and source.path is not None:
        return read_image(source.path, source.image).config
    raise ImageError(f"{source}: only an image in a registry or an OCI layout (oci:DIRECTORY) can be read here")
