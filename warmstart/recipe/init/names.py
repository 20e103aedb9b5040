"""Names: of the recipe, of its base image, and of the image to make."""

from __future__ import annotations

import re
from pathlib import Path

from warmstart.core.errors import ImageReferenceError
from warmstart.core.reference import parse_reference
from warmstart.recipe.checks import with_tag, without_transport
from warmstart.recipe.schema import schema_at

_IN_A_FILE = ("oci", "oci-archive", "docker-archive")
#: The registry of a proposed name whose real registry is unknown.
SOME_REGISTRY = "registry.example.com"
NAME_TO_DO = (
    "TODO: name the registry that the image is pushed to, and that the nodes pull it from. You must be allowed to push "
    "there."
)
# Registries that anybody pulls from; few may push to the namespace of a given image.
_PUBLIC = re.compile(
    r"docker\.io|quay\.io|ghcr\.io|gcr\.io|[\w.-]+\.gcr\.io|[\w.-]+\.pkg\.dev|registry\.k8s\.io|public\.ecr\.aws"
    r"|mcr\.microsoft\.com|registry\.gitlab\.com|lscr\.io|nvcr\.io|icr\.io|cgr\.dev|docker\.[\w.-]+"
    r"|registry\.(?:access\.)?redhat\.(?:com|io)|container-registry\.oracle\.com|dhi\.io"
)
_PLACEHOLDER = re.compile(
    r"placeholder|replace[-_]?(?:me|this)|change[-_]?me|your[-_]|my[-_]?registry|(?:^|[/:])todo(?:$|[/:])|x{3,}|<.*>",
    re.IGNORECASE,
)


def recipe_name(text: str) -> str:
    """Return a name that a recipe can have, near to a text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-") or "app"


def short_name(image: str) -> str:
    """Return the image's name without registry and tag, or the name of its file."""
    path = Path(image.partition(":")[2].partition(":")[0])
    name = _own_name(image) or path.name.removesuffix(".gz").removesuffix(".tar")
    return with_tag(name.partition("@")[0]).rpartition(":")[0].rpartition("/")[2]


def is_image(image: object) -> bool:
    """Tell whether it is the name of an image, and not a template of one."""
    return isinstance(image, str) and bool(re.search((schema_at(("container", "image")) or {})["pattern"], image))


def is_placeholder(image: str) -> bool:
    """Tell whether an image's name looks like one that is to be replaced."""
    return bool(_PLACEHOLDER.search(image))


def warm_name(image: str | None, fallback: str) -> str:
    """Return a name for the new image: that of the base image, if it is known, with a tag of its own.

    If the base image is in no registry, or in one that is shared by many, a placeholder stands for the registry.
    """
    name = _own_name(image or "").partition("@")[0]
    repository, _, tag = with_tag(name).rpartition(":")
    tag = f"{tag[:123]}-warm" if name.endswith(f":{tag}") else "warm"
    try:
        reference = parse_reference(repository)
    except ImageReferenceError:
        return f"{SOME_REGISTRY}/{fallback}:warm"
    if reference.registry == "localhost":
        return f"{SOME_REGISTRY}/{reference.repository}:{tag}"
    if _PUBLIC.fullmatch(reference.registry):
        return f"{SOME_REGISTRY}/{reference.repository.rpartition('/')[2]}:{tag}"
    return f"{repository}:{tag}"


def _own_name(image: str) -> str:
    """The image's own name, without a transport; empty for the only image of a file."""
    if image.partition(":")[0] in _IN_A_FILE:
        return "".join(image.split(":", 2)[2:])
    return without_transport(image)
