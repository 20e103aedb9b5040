"""Find out whether the target of a build already has the image that the build would make.

That is an image whose annotation has the key of the build. Neither root nor a tool is needed, and no container runs.
The annotation alone proves nothing: everyone who can write to the target can put any image there with that key. If the
build signs its image, only an image that the same key signed counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warmstart.build.base import find_source
from warmstart.build.context import BuildOptions
from warmstart.build.key import find_inputs
from warmstart.build.publish import Output, describe_output
from warmstart.core.age import has_passed
from warmstart.core.errors import WarmstartError
from warmstart.core.reference import Reference, Source
from warmstart.engine.local import find_host_runtime
from warmstart.image.annotations import BUILD_KEY, EXPIRES, PREFIX
from warmstart.image.manifest import Manifest
from warmstart.image.open import find_source_digest, open_image
from warmstart.image.policy import accepts_anything
from warmstart.image.registry.client import read_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import check_signatures
from warmstart.recipe.model import Recipe
from warmstart.recipe.privileges import require_recipe_privileges

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExistingImage:
    """An image at the target of a build whose annotation has the key of that build.

    Attributes:
        name: name of the image.
        destination: where it is, as in containers-transports(5).
        digest: digest of its manifest.
    """

    name: Reference
    destination: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name.name}@{self.digest}"

    @property
    def document(self) -> Mapping[str, Any]:
        """The image for `--json`."""
        return {
            "status": "up-to-date",
            "image": str(self.name),
            "digest": self.digest,
            "destination": self.destination,
        }


def find_existing(recipe: Recipe, options: BuildOptions) -> ExistingImage | None:
    """Return the image that a build of the recipe would replace with an equal one; None if the build is needed.

    An image that has expired does not count. A target or base image that cannot be read is no error here: the build
    will say why, or make the target.

    Raises:
        PrivilegeError: the recipe asks for privileges that are not allowed.
    """
    require_recipe_privileges(recipe, options.allowed)
    try:
        manifest = _read_target(recipe.image, options.output, options.access)
        found = manifest.annotations.get(PREFIX + BUILD_KEY) if manifest else None
        if manifest is None or found is None:
            return None
        key = _find_key(recipe, options)
        if found != key or has_passed(manifest.annotations.get(PREFIX + EXPIRES, "")):
            return None
        if options.signer is not None:
            check_signatures(recipe.image, manifest, [options.signer.public], access=options.access)
    except WarmstartError as error:
        log.debug("not known to be up to date: %s", error.brief)
        return None
    return ExistingImage(recipe.image, describe_output(options.output, recipe.image), manifest.digest)


def _find_key(recipe: Recipe, options: BuildOptions) -> str:
    """Return the key of a build that would start now; empty if the digest of an image is not known without a node."""
    containers = {one.container.image: one.container for one in recipe.companions}
    digests: list[str] = []
    for container in (recipe.container, *containers.values()):
        digest = find_source_digest(find_source(recipe, container), access=options.access)
        if digest is None:
            return ""
        digests.append(digest)
    version = find_host_runtime(options.runtime_endpoint).version if options.runtime_endpoint else ""
    return replace(find_inputs(recipe, options, version), images=tuple(digests[1:])).key(digests[0])


def _read_target(name: Reference, output: Output, access: RegistryAccess) -> Manifest | None:
    """Read the manifest at the target; None if there is no image, or none that may be used.

    Of a layout or an archive, each blob is there and has the right size.

    Raises:
        ImageError: the layout or archive is broken, or has no image of that name.
        ArchiveError: the archive is not a tar, or ends early.
        RegistryError: the registry refused or has no such image, or could not be reached at the first attempt.
    """
    if output.path is None:
        # Signatures are checked only when an image is pulled.
        return read_manifest(name, access=access, retries=0) if accepts_anything(name) else None
    if not output.path.exists():
        return None
    with open_image(Source(output.kind, path=output.path, image=str(name))) as opened:
        for blob in opened.image.manifest.blobs:
            with opened.open_content(blob):
                pass  # its size has been checked
        return opened.image.manifest
