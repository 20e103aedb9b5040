"""Read an image in place: in a registry, a layout or an oci-archive. Content is fetched as it is read."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader, RawIOBase
from pathlib import Path

import zstandard

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.reference import Reference, Source, Transport
from warmstart.dump.archive.archive import open_tar
from warmstart.dump.archive.tarball import Kind, Member, Span, list_members
from warmstart.image.layout import (
    CheckedReader,
    Image,
    OpenContent,
    Readable,
    choose_image,
    find_image,
    open_blob,
    read_image,
    read_index,
)
from warmstart.image.manifest import DOCUMENT_LIMIT_BYTES, ENCRYPTED, Descriptor, Index, parse_index
from warmstart.image.registry.client import download_blob, find_manifest_digest, read_config, read_manifest
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BUFFER_BYTES = 1 << 20
#: The most that a layer may hold when decompressed, whatever its compressed size: a zstd frame can be 30,000 times
#: smaller than its content. The largest layers of real images hold model weights of some ten GiB.
LAYER_LIMIT_BYTES = 64 << 30
# The default limit of zstd's decoder, and more than `zstd --ultra` uses without --long.
_WINDOW_LIMIT_BYTES = 128 << 20
_MEMBERS_LIMIT = 100_000


@dataclass(frozen=True)
class OpenedImage:
    """An open image; `open_content` opens the blobs of its manifest."""

    image: Image
    open_content: OpenContent

    @contextmanager
    def open_layer(self, layer: Descriptor, *, checked: bool = True) -> Iterator[Readable]:
        """Open the tar of a layer and decompress it as it is read.

        The compression is detected from the content, as runtimes do. When the block ends without an error, the rest is
        read too and the layer is checked against its digest and diff id. Do not use its content before that.

        Args:
            layer: a layer of the image.
            checked: whether to check the diff id. It takes longer than to decompress, and an image that was made a
                moment ago is checked later anyway.

        Raises:
            ImageError: it is missing, is encrypted, cannot be decompressed, or does not match its digests; also while
                reading.
            RegistryError: the registry refused, or could not be reached; also while reading.
        """
        if layer.media_type.endswith(ENCRYPTED):
            raise ImageError(
                f"layer {layer.digest} is encrypted",
                hint="name a decrypted copy: `skopeo copy --decryption-key KEY docker://IMAGE oci:DIRECTORY`",
            )
        with self.open_content(layer) as blob:
            opened = _Layer(blob, f"layer {layer.digest}", self.find_diff_id(layer) if checked else None)
            yield opened
            opened.finish()

    def check_layer(self, layer: Descriptor) -> None:
        """Read a layer and check it against its digest.

        Raises:
            ImageError: it is missing, or does not match its digest.
            RegistryError: the registry refused, or could not be reached.
        """
        with self.open_content(layer) as blob:
            while blob.read(_BUFFER_BYTES):
                pass

    def find_diff_id(self, layer: Descriptor) -> str:
        """Return the digest of the uncompressed layer; empty for an image that lists none.

        Raises:
            ImageError: the image lists another number of them than it has layers.
        """
        layers, diff_ids = self.image.manifest.layers, self.image.config.diff_ids
        if not diff_ids:
            return ""
        if len(diff_ids) != len(layers):
            raise ImageError(f"the image has {len(layers)} layers and its config lists {len(diff_ids)}")
        return diff_ids[layers.index(layer)]


@contextmanager
def open_image(source: Source, *, access: RegistryAccess = DEFAULT_ACCESS) -> Iterator[OpenedImage]:
    """Open an image; of one for several platforms, that for this machine's.

    Args:
        source: where it is.
        access: registries without TLS, and the file of credentials.

    Raises:
        ImageError: it is broken, not there, or has a transport that is not supported here.
        RegistryError: the registry refused, or could not be reached.
    """
    if source.kind is Transport.REGISTRY and source.reference:
        yield _open_in_registry(source.reference, access)
    elif source.kind is Transport.OCI and source.path:
        yield OpenedImage(read_image(source.path, source.image), partial(open_blob, source.path))
    elif source.kind is Transport.OCI_ARCHIVE and source.path:
        with _open_archive(source.path) as archive:
            yield OpenedImage(archive.read_image(source.image), archive.open_blob)
    else:
        raise ImageError(
            f"{source} is not read here: {source.kind} is neither a registry, nor a layout, nor an oci-archive",
            hint=f"copy it first: skopeo copy {source} oci-archive:FILE; or push it to a registry",
        )


def find_source_digest(source: Source, *, access: RegistryAccess = DEFAULT_ACCESS) -> str | None:
    """Return the digest that an image name refers to now, of a manifest or an index, as skopeo reports it.

    Returns None if there is no such image, or if reading its store takes more than this module.

    Raises:
        ImageError: the layout or archive is broken.
        RegistryError: the registry refused, or could not be reached at the first attempt.
    """
    if source.kind is Transport.REGISTRY and source.reference:
        return source.reference.digest or find_manifest_digest(source.reference, access=access)
    if source.kind is Transport.OCI and source.path:
        return choose_image(read_index(source.path), source.image, None, str(source.path)).digest
    if source.kind is Transport.OCI_ARCHIVE and source.path:
        with _open_archive(source.path) as archive:
            return choose_image(archive.read_index(), source.image, None, str(source.path)).digest
    return None


@contextmanager
def open_packed(path: Path) -> Iterator[Readable]:
    """Open a file that is as it is, or compressed with gzip or zstd, as the archives of Podman are.

    Raises:
        ArchiveError: it cannot be read, or is not a regular file.
        ImageError: it cannot be decompressed, or is too large; also while reading.
    """
    with open_tar(path) as span:
        yield _Layer(_FileContent(span, span.start, span.end - span.start), str(path), None)


def is_packed(path: Path) -> bool:
    """Whether a file is compressed with gzip or zstd.

    Raises:
        ArchiveError: it cannot be read, or is not a regular file.
    """
    with open_tar(path) as span:
        return span.read(span.start, len(_ZSTD)).startswith((_GZIP, _ZSTD))


def is_oci_archive(path: Path) -> bool:
    """Whether a tar is an oci-archive.

    Raises:
        ArchiveError: it cannot be read, or is no tar.
    """
    with open_tar(path) as tar:
        return any(member.name == "oci-layout" for member in list_members(tar, max_members=_MEMBERS_LIMIT))


def _open_in_registry(reference: Reference, access: RegistryAccess) -> OpenedImage:
    manifest = read_manifest(reference, access=access)
    # A tag may be moved between two requests.
    pinned = replace(reference, tag=None, digest=manifest.digest)
    config = read_config(pinned, access=access)
    return OpenedImage(Image(manifest, config), partial(download_blob, pinned, access=access))


@contextmanager
def _open_archive(path: Path) -> Iterator[_OciArchive]:
    with ExitStack() as opened:
        try:
            tar = opened.enter_context(open_tar(path))
            members = list_members(tar, max_members=_MEMBERS_LIMIT)
        except ArchiveError as error:
            raise ImageError(error.brief, hint=error.hint) from error
        yield _OciArchive(tar, {member.name: member for member in members})


class _OciArchive:
    """A layout in a tar, read in place."""

    def __init__(self, tar: Span, members: Mapping[str, Member]) -> None:
        self._tar = tar
        self._members = members

    def read_image(self, name: str) -> Image:
        """See `warmstart.image.layout.read_image`."""
        return find_image(self.read_index(), self.open_blob, self._tar.label, name)

    def read_index(self) -> Index:
        """See `warmstart.image.layout.read_index`."""
        where = self._tar.label
        if "oci-layout" not in self._members:
            raise ImageError(f"{where} is not an oci-archive: it has no member oci-layout")
        index = self._open("index.json").read(DOCUMENT_LIMIT_BYTES + 1)
        return parse_index(index, where=f"{where}: index.json")

    @contextmanager
    def open_blob(self, descriptor: Descriptor) -> Iterator[CheckedReader]:
        """See `warmstart.image.layout.open_blob`."""
        file = self._open(f"blobs/{descriptor.digest.replace(':', '/')}")
        if file.size_bytes != descriptor.size_bytes:
            raise ImageError(
                f"{self._tar.label}: {descriptor.digest} has {file.size_bytes} bytes, expected {descriptor.size_bytes}"
            )
        yield CheckedReader(file, descriptor, self._tar.label)

    def _open(self, name: str) -> _FileContent:
        member = self._members.get(name)
        if member is None or member.kind is not Kind.FILE:
            raise ImageError(f"{self._tar.label} has no file {name}")
        return _FileContent(self._tar, member.offset, member.size_bytes)


class _FileContent:
    """A part of an open file, as a stream."""

    def __init__(self, file: Span, offset: int, size_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._end = offset + size_bytes
        self.size_bytes = size_bytes

    def read(self, size: int, /) -> bytes:
        data = self._file.read(self._offset, min(size, self._end - self._offset))
        self._offset += len(data)
        return data


class _Layer:
    """The tar of a layer, decompressed from its blob."""

    def __init__(self, blob: Readable, label: str, diff_id: str | None) -> None:
        self._packed = BufferedReader(_Raw(blob), _BUFFER_BYTES)
        head = self._packed.peek(len(_ZSTD))
        self._label = label
        self._diff_id = diff_id
        self._hash = hashlib.sha256()
        self._left_bytes = LAYER_LIMIT_BYTES
        self._plain: Readable = self._packed
        if head.startswith(_GZIP):
            self._plain = gzip.GzipFile(fileobj=self._packed)
        elif head.startswith(_ZSTD):
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT_BYTES)
            self._plain = decompressor.stream_reader(self._packed, read_across_frames=True)

    def read(self, size: int, /) -> bytes:
        try:
            data = self._plain.read(size)
        except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise ImageError(f"{self._label} cannot be decompressed: {error}") from error
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise ImageError(f"{self._label} exceeds {LAYER_LIMIT_BYTES >> 30} GiB when decompressed")
        if self._diff_id is not None:
            self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read the rest and check the digests."""
        while self.read(_BUFFER_BYTES):
            pass
        while self._packed.read(_BUFFER_BYTES):  # trailing data
            pass
        found = f"sha256:{self._hash.hexdigest()}"
        if self._diff_id and found != self._diff_id:
            raise ImageError(
                f"{self._label} does not match its diff id: its content is {found}, the config lists {self._diff_id}"
            )


class _Raw(RawIOBase):
    """A raw stream for Python's decompressors."""

    def __init__(self, blob: Readable) -> None:
        self._blob = blob

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._blob.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
