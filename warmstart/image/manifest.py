"""The JSON documents of an image: descriptors, manifests, indexes, configs.

Bytes in, frozen dataclasses out. The documents are untrusted: every field that is used is checked, and an
error names the document and the field. Formats: https://github.com/opencontainers/image-spec (descriptor.md,
manifest.md, image-index.md, config.md), and Docker's image manifest version 2, schema 2, with the same fields.
"""

from __future__ import annotations

import hashlib
import platform as host
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NoReturn

from warmstart.core.errors import ImageError
from warmstart.core.reference import is_digest
from warmstart.core.untrusted_json import JsonError, parse_json

#: The longest manifest, index or config that is read, in bytes; the distribution specification asks
#: registries to take manifests up to this size, and containers/image reads none above it.
DOCUMENT_LIMIT_BYTES = 4 << 20

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
#: The end of the media type of an encrypted layer (https://github.com/containers/ocicrypt).
ENCRYPTED = "+encrypted"
MANIFEST_TYPES = (OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEX_TYPES = (OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")

#: The annotation that names an image within a layout or an archive.
REF_NAME = "org.opencontainers.image.ref.name"

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "i686": ("386", ""),
}


@dataclass(frozen=True)
class Platform:
    """Platform of an image, in Go's terms: os `linux`, architecture `amd64`, variant such as `v7` or empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def accepts(self, other: Platform) -> bool:
        """Whether this platform runs images for `other`; variants are compared only if both have one."""
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and (not self.variant or not other.variant or self.variant == other.variant)


def find_host_platform() -> Platform:
    """Return the platform of this machine."""
    architecture, variant = _MACHINES.get(host.machine(), (host.machine(), ""))
    return Platform("linux", architecture, variant)


def check_platform(platform: Platform, image: str) -> None:
    """Raise ImageError unless this machine runs images for the platform; `image` is the image's name in the error.

    An emulator does not count: CRIU cannot dump one.
    """
    host_platform = find_host_platform()
    if not host_platform.accepts(platform):
        hint = (
            f"use an image for {host_platform}, or build on {platform}: a checkpoint restores only on its own platform"
        )
        raise ImageError(f"{image} is for {platform}, but this machine is {host_platform}", hint=hint)


@dataclass(frozen=True)
class Descriptor:
    """A blob's media type, digest (ALGORITHM:HEX) and size in bytes."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the descriptor as a JSON object."""
        document = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
            "platform": self.platform and {k: v for k, v in asdict(self.platform).items() if v},
            "artifactType": self.artifact_type,
            "annotations": dict(self.annotations),
        }
        optional = ("platform", "artifactType", "annotations")
        return {name: value for name, value in document.items() if value or name not in optional}


@dataclass(frozen=True)
class Manifest:
    """The manifest of an image, or of an artifact that is attached to one.

    `descriptor` is the manifest's own. `layers` are in order of application.
    """

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def digest(self) -> str:
        """The digest of the manifest and of the image."""
        return self.descriptor.digest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Layers and config, each once."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())


@dataclass(frozen=True)
class Index:
    """A list of manifests: of one image for several platforms, or of all images of a layout."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """The config of an image: how it is run, and its history.

    `env` are (name, value) pairs in order; `exposed_ports` are as the image writes them (`8080/tcp`);
    `created` is an RFC 3339 date and time, or empty. `history` has the command that made each layer; its length
    may differ from the number of layers.
    """

    platform: Platform
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    history: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()


def find_digest(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of `data`, as ALGORITHM:HEX."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def parse_manifest(data: bytes, descriptor: Descriptor) -> Manifest:
    """Parse the manifest of a descriptor; its bytes have been checked against it.

    Raises:
        ImageError: it is not a manifest of that media type.
    """
    document = _parse_document(data, f"manifest {descriptor.digest}", descriptor.media_type, MANIFEST_TYPES)
    # A document that reads as both would mean one image here and another one elsewhere: CVE-2021-41190.
    document.refuse("manifests")
    subject = document.get("subject")
    return Manifest(
        descriptor=descriptor,
        config=_read_descriptor(document.get("config")),
        layers=tuple(_read_descriptor(layer) for layer in document.get("layers").items()),
        annotations=document.get("annotations").texts(),
        artifact_type=document.get("artifactType").text(""),
        subject=None if subject.value is None else _read_descriptor(subject),
    )


def parse_index(data: bytes, media_type: str = OCI_INDEX, where: str = "index.json") -> Index:
    """Parse an image index; `where` names it in errors.

    Raises:
        ImageError: it is not an index of that media type.
    """
    document = _parse_document(data, where, media_type, INDEX_TYPES)
    document.refuse("layers")
    document.refuse("config")
    manifests = tuple(_read_descriptor(entry) for entry in document.get("manifests").items())
    return Index(manifests, document.get("annotations").texts())


def parse_config(data: bytes, where: str = "config") -> Config:
    """Parse the config of an image; `where` names it in errors.

    Raises:
        ImageError: it is not one.
    """
    document = _Node(_load(data, where), f"{where}:")
    run = document.get("config")
    if run.value is None:
        run = _Node({}, run.where)
    return Config(
        platform=_read_platform(document),
        entrypoint=tuple(word.text() for word in run.get("Entrypoint").items()),
        cmd=tuple(word.text() for word in run.get("Cmd").items()),
        env=tuple(_split_env(entry.text()) for entry in run.get("Env").items()),
        user=run.get("User").text(""),
        exposed_ports=tuple(run.get("ExposedPorts").members()),
        working_dir=run.get("WorkingDir").text(""),
        labels=run.get("Labels").texts(),
        created=document.get("created").text(""),
        history=tuple(
            step.get("created_by").text("")
            for step in document.get("history").items()
            if step.get("empty_layer").value is not True
        ),
        diff_ids=_read_diff_ids(document.get("rootfs")),
    )


def choose_platform(manifests: Sequence[Descriptor], platform: Platform | None, where: str) -> Descriptor:
    """Choose the manifest for `platform` (this machine's when None). A single one without a platform fits any.

    Raises:
        ImageError: there is none.
    """
    required = platform or find_host_platform()
    fitting = [entry for entry in manifests if entry.platform and required.accepts(entry.platform)]
    exact = [entry for entry in fitting if entry.platform and entry.platform.variant == required.variant]
    if not fitting and len(manifests) == 1 and manifests[0].platform is None:
        return manifests[0]
    if not fitting:
        there = ", ".join(sorted({repr(str(entry.platform)) for entry in manifests if entry.platform}))
        raise ImageError(f"{where} holds no image for {required}", hint=f"it has: {there or 'no platform'}")
    return (exact or fitting)[0]


def _split_env(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _read_descriptor(node: _Node) -> Descriptor:
    digest = node.get("digest")
    if not is_digest(digest.text()):
        digest.fail("a digest such as sha256: and 64 hex digits")
    platform = node.get("platform")
    return Descriptor(
        media_type=node.get("mediaType").text(),
        digest=digest.text(),
        size_bytes=node.get("size").size(),
        annotations=node.get("annotations").texts(),
        platform=None if platform.value is None else _read_platform(platform),
        artifact_type=node.get("artifactType").text(""),
    )


def _read_diff_ids(rootfs: _Node) -> tuple[str, ...]:
    if rootfs.value is None:
        return ()
    return tuple(layer.text() for layer in rootfs.get("diff_ids").items())


def _read_platform(node: _Node) -> Platform:
    return Platform(
        os=node.get("os").text(),
        architecture=node.get("architecture").text(),
        variant=node.get("variant").text(""),
    )


def _parse_document(data: bytes, where: str, media_type: str, known: Sequence[str]) -> _Node:
    if media_type not in known:
        raise ImageError(
            f"{where} has an unsupported media type: {media_type!r:.200}",
            hint="convert the image: skopeo copy --format oci",
        )
    document = _Node(_load(data, where), f"{where}:")
    inner = document.get("mediaType").text(media_type)
    if inner != media_type:
        raise ImageError(f"{where} was served as {media_type} but declares {inner!r:.200}")
    return document


def _load(data: bytes, where: str) -> object:
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise ImageError(f"{where} exceeds {DOCUMENT_LIMIT_BYTES} bytes")
    try:
        return parse_json(data)
    except JsonError as error:
        raise ImageError(f"{where} {error}") from error


@dataclass(frozen=True)
class _Node:
    """One value of an untrusted JSON document and its path; null and absent are the same, as in Go."""

    value: object
    where: str

    def fail(self, expected: str) -> NoReturn:
        found = "nothing" if self.value is None else repr(self.value)
        raise ImageError(f"{self.where} must be {expected}, not {found:.80}")

    def members(self) -> dict[str, object]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fail("an object")
        return self.value

    def get(self, name: str) -> _Node:
        if self.value is None:
            self.fail("an object")
        return _Node(self.members().get(name), f"{self.where} {name}")

    def refuse(self, name: str) -> None:
        if self.members().get(name) is not None:
            raise ImageError(f"{self.where} unexpected field for this media type: {name}")

    def items(self) -> list[_Node]:
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.fail("a list")
        return [_Node(item, f"{self.where}[{place}]") for place, item in enumerate(self.value)]

    def text(self, default: str | None = None) -> str:
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            self.fail("a string")
        return self.value

    def texts(self) -> dict[str, str]:
        return {name: _Node(value, f"{self.where}[{name!r}]").text() for name, value in self.members().items()}

    def size(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value < 1 << 63:
            self.fail("a size in bytes")
        return self.value
