"""Names of images, and sources of base images.

The grammar and the normalisation of short names are those of the Docker distribution
(https://github.com/distribution/reference: regexp.go, normalize.go); the transports are those of
containers-transports(5), as skopeo and buildah know them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from warmstart.core.errors import ImageReferenceError

DOCKER_HUB = "docker.io"

_TEXT_LIMIT = 1024
_REPOSITORY_LIMIT = 255
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")

_SHAPE = "write [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST], with the repository in lower case"


@dataclass(frozen=True)
class Reference:
    """The full name of an image, such as `docker.io/library/alpine:3.20`.

    `registry` is HOST or HOST:PORT, `docker.io` for Docker Hub. A `digest` (ALGORITHM:HEX), if there is
    one, identifies the image; a tag next to it is then a comment.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def is_digest(text: str) -> bool:
    """Tell whether `text` is ALGORITHM:HEX, of an algorithm that the OCI image specification registers."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Parse the name of an image. Short names are Docker Hub's; without tag and digest, the tag is `latest`.

    Raises:
        ImageReferenceError: it is not the name of an image.
    """
    if len(text) > _TEXT_LIMIT:
        raise _bad_reference(f"{text[:40]}…", f"it is longer than {_TEXT_LIMIT} characters")
    if _IMAGE_ID.fullmatch(text):
        raise _bad_reference(text, "it is an image id, not a name")
    name, at, digest = text.partition("@")
    registry, remainder = _split_registry(name)
    repository, colon, tag = remainder.partition(":")
    if not _REGISTRY.fullmatch(registry):
        raise _bad_reference(text, f"{registry!r} is not a registry (HOST or HOST:PORT)")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _REPOSITORY_LIMIT:
        raise _bad_reference(text, f"{repository!r} is not a repository")
    if colon and not _TAG.fullmatch(tag):
        raise _bad_reference(text, f"{tag!r} is not a tag")
    if at and not is_digest(digest):
        raise _bad_reference(text, f"{digest!r} is not a digest (sha256: and 64 hex digits)")
    if not colon and not at:
        tag = "latest"
    return Reference(registry, repository, tag or None, digest or None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # Only what looks like a host is one: `team/app` is Docker Hub's, `localhost/app` and `host:5000/app` are not.
    if not slash or not (first == "localhost" or set(first) & set(".:") or first != first.lower()):
        first, rest = DOCKER_HUB, name
    elif first == "index.docker.io":
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _bad_reference(text: str, why: str) -> ImageReferenceError:
    return ImageReferenceError(f"{text!r} is not the name of an image: {why}", hint=_SHAPE)


class Transport(StrEnum):
    """Kinds of image sources; the values are the transports of containers-transports(5)."""

    REGISTRY = "docker"
    CONTAINERS_STORAGE = "containers-storage"
    DOCKER_DAEMON = "docker-daemon"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"


_IN_A_FILE = (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE)


@dataclass(frozen=True)
class Source:
    """An image and its location.

    A registry, containers-storage and the Docker daemon have a `reference`. A layout or an archive has a
    `path`, and the name of one of its `image`s; empty if it holds only one.
    """

    kind: Transport
    reference: Reference | None = None
    path: Path | None = None
    image: str = ""

    @property
    def label(self) -> str:
        """A name for use on other machines: the image's, or the file's without its directory."""
        if self.reference is not None:
            return str(self.reference)
        name = self.path.name if self.path is not None else ""
        return f"{self.kind}:{name}" + (f":{self.image}" if self.image else "")

    def __str__(self) -> str:
        """The source as skopeo and buildah take it."""
        if self.reference is None:
            return f"{self.kind}:{self.path}" + (f":{self.image}" if self.image else "")
        if self.kind is not Transport.REGISTRY:
            return f"{self.kind}:{self.reference}"
        # Their docker transport refuses a name that has both a tag and a digest.
        pinned = self.reference.digest
        return f"docker://{self.reference.name}@{pinned}" if pinned else f"docker://{self.reference}"


def parse_source(text: str) -> Source:
    """Parse the source of a base image: TRANSPORT:DETAILS, or a plain name.

    A plain name is in a registry, except `localhost/…`, as podman and buildah name an image
    that is only in the local containers-storage. A relative path stays relative.

    Raises:
        ImageReferenceError: the transport is unknown, or its details are wrong.
    """
    transport, colon, details = text.partition(":")
    if text.startswith("docker://"):
        return Source(Transport.REGISTRY, parse_reference(text.removeprefix("docker://")))
    if colon and transport in _IN_A_FILE:
        path, _, image = details.partition(":")
        if not path:
            raise ImageReferenceError(f"{text!r} has no path", hint=f"write {transport}:PATH or {transport}:PATH:IMAGE")
        return Source(Transport(transport), path=Path(path), image=image)
    if colon and transport in (Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON):
        return Source(Transport(transport), parse_reference(details))
    if "://" in text or details.startswith("/"):
        known = ", ".join(["docker://", *(f"{kind}:" for kind in Transport if kind is not Transport.REGISTRY)])
        raise ImageReferenceError(f"{text!r}: {transport!r} is not an image transport", hint=f"use one of {known}")
    reference = parse_reference(text)
    local = reference.registry == "localhost"
    return Source(Transport.CONTAINERS_STORAGE if local else Transport.REGISTRY, reference)
