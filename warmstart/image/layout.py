"""Read untrusted OCI image layouts, and write layouts as a directory or an archive.

A layout is a directory of `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`; an oci-archive is a tar of that
(https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import ImageError
from warmstart.core.locking import hold_lock
from warmstart.core.partial import check_beside, write_beside
from warmstart.image.manifest import (
    DOCUMENT_LIMIT_BYTES,
    INDEX_TYPES,
    OCI_INDEX,
    REF_NAME,
    Config,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose_platform,
    parse_config,
    parse_index,
    parse_manifest,
)

_VERSION_FILE = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
_NESTING_LIMIT = 4
_CHUNK_BYTES = 1 << 20
# A lock file is removed with its lock, so it has a name of its own.
_LOCK = ".warmstart.lock"


class Readable(Protocol):
    """A stream; `read` returns fewer bytes than asked for only at its end."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes."""
        ...


OpenContent = Callable[[Descriptor], AbstractContextManager["CheckedReader"]]
"""Opens the content that a descriptor describes, wherever it is."""


@dataclass(frozen=True)
class Image:
    """One image of a layout."""

    manifest: Manifest
    config: Config

    @property
    def makers(self) -> tuple[str, ...]:
        """What made each layer, "" if it is not recorded: if the base image has no history, only added layers have."""
        history = self.config.history
        return ("",) * (len(self.manifest.layers) - len(history)) + history


def read_image(layout: Path, name: str = "", *, platform: Platform | None = None) -> Image:
    """Read the manifest and the config of an image; both are checked against their digests.

    Args:
        layout: the directory.
        name: the image's annotation `org.opencontainers.image.ref.name`; may be empty if there is one image only.
        platform: the platform to choose from a multi-platform image; this machine's when None.

    Raises:
        ImageError: it is not a layout, the image is not there, or a document is broken or too long.
    """
    return find_image(read_index(layout), partial(open_blob, layout), str(layout), name, platform=platform)


def find_image(
    index: Index, open_content: OpenContent, where: str, name: str = "", *, platform: Platform | None = None
) -> Image:
    """Read an image as `read_image` does, from a layout that is not a directory.

    Args:
        index: its index.json.
        open_content: opener of its blobs, like `open_blob`.
        where: name of the layout in errors.
        name: as for `read_image`.
        platform: as for `read_image`.

    Raises:
        ImageError: as `read_image`.
    """
    descriptor = choose_image(index, name, platform, where)
    for _ in range(_NESTING_LIMIT):
        data = _read_whole(open_content, descriptor)
        if descriptor.media_type not in INDEX_TYPES:
            manifest = parse_manifest(data, descriptor)
            config = parse_config(_read_whole(open_content, manifest.config), f"config {manifest.config.digest}")
            return Image(manifest, config)
        part = f"index {descriptor.digest}"
        descriptor = choose_platform(parse_index(data, descriptor.media_type, part).manifests, platform, part)
    raise ImageError(f"{where}: the indexes of {name or 'its image'} are nested more than {_NESTING_LIMIT} deep")


def read_document(layout: Path, descriptor: Descriptor) -> bytes:
    """Read a manifest, an index or a config whole.

    Raises:
        ImageError: it is missing, longer than DOCUMENT_LIMIT_BYTES, or does not match its digest.
    """
    return _read_whole(partial(open_blob, layout), descriptor)


@contextmanager
def open_blob(layout: Path, descriptor: Descriptor) -> Iterator[CheckedReader]:
    """Open the blob of a descriptor; reading it to its end checks its digest.

    Raises:
        ImageError: it is missing, is not a plain file, or has another size or digest.
    """
    algorithm, _, encoded = descriptor.digest.partition(":")
    with _open_plain(layout / "blobs" / algorithm / encoded) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes != descriptor.size_bytes:
            raise ImageError(f"{layout}: {descriptor.digest} has {size_bytes} bytes, expected {descriptor.size_bytes}")
        yield CheckedReader(file, descriptor, str(layout))


class CheckedReader:
    """A reader that checks the content against a descriptor when the last byte is read."""

    def __init__(self, file: Readable, descriptor: Descriptor, where: str) -> None:
        self._file = file
        self._descriptor = descriptor
        self._where = where
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])
        self._left_bytes = descriptor.size_bytes

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, or the rest if negative.

        Raises:
            ImageError: the content ends early, or does not match its digest.
        """
        count = self._left_bytes if size < 0 else min(size, self._left_bytes)
        data = self._file.read(count)
        self._hash.update(data)
        self._left_bytes -= len(data)
        if len(data) < count:
            raise ImageError(f"{self._where}: {self._descriptor.digest} ends too early")
        algorithm = self._hash.name
        if not self._left_bytes and f"{algorithm}:{self._hash.hexdigest()}" != self._descriptor.digest:
            raise ImageError(f"{self._where}: the content of {self._descriptor.digest} is damaged")
        return data


def write_archive(layout: Path, image: Image, target: Path, *, name: str) -> None:
    """Write an image as an oci-archive, a tar file; it appears at `target` complete or not at all, with mode 0600.

    Args:
        layout: the source layout.
        image: the image, from `read_image`.
        target: the file; an older one is replaced.
        name: the image's name in the archive, such as `registry.example.com/app:1.0`.

    Raises:
        ImageError: the layout is broken, or the file cannot be written.
    """
    with _beside(target.absolute()) as partial, tarfile.open(partial, "w") as archive:
        _add_file(archive, "oci-layout", _VERSION_FILE)
        _add_file(archive, "index.json", _encode_index([_name_manifest(image.manifest, name)]))
        for blob in _list_content(image.manifest):
            with open_blob(layout, blob) as content:
                info = tarfile.TarInfo(f"blobs/{blob.digest.replace(':', '/')}")
                info.size = blob.size_bytes
                archive.addfile(info, content)


def write_layout(layout: Path, image: Image, target: Path, *, name: str) -> None:
    """Write an image as a layout directory.

    A new directory appears at `target` complete or not at all. A layout that is already there keeps its other
    images; its index is replaced last, so the image is either there or not. Writers of one layout take turns.

    Args:
        layout: the source layout.
        image: the image, from `read_image`.
        target: the directory.
        name: the image's name in it; an image of that name is replaced.

    Raises:
        ImageError: the source is broken, `target` is something else, or cannot be written.
    """
    if not _is_taken(target):
        # Two writers may create the same layout: the second one finds it and adds to it.
        with _sole_writer(_lock_beside(target), target):
            if not _is_taken(target):
                _make_layout(layout, image, target, name)
                return
    read_index(target)
    with _sole_writer(target / _LOCK, target):
        _add_image(layout, image, target, name)


def check_writable(target: Path, *, as_archive: bool) -> None:
    """Check that an archive or a layout can be written to `target`, by creating and removing a file there.

    Raises:
        ImageError: `target` cannot be written.
    """
    target = target.absolute()
    if as_archive and target.is_dir():
        raise ImageError(f"{target} cannot be written: it is a directory")
    place = target.parent
    if not as_archive and _is_taken(target):
        read_index(target)
        place = target
    try:
        check_beside(place / target.name)
    except OSError as error:
        raise ImageError(f"{target} cannot be written: {error.strerror or error}") from error


def find_partials(target: Path) -> tuple[str, ...]:
    """Return glob patterns of the files left behind if this process is killed while writing to `target`.

    The locks among them may belong to another writer, who then holds them.
    """
    end = f".{os.getpid()}-*.partial"
    path = target.absolute()
    beside, inside = glob.escape(str(path.parent)), glob.escape(str(path))
    partials = (f"{beside}/.{glob.escape(path.name)}{end}", f"{inside}/.*{end}", f"{inside}/blobs/*/.*{end}")
    return (*partials, glob.escape(str(_lock_beside(path))), f"{inside}/{_LOCK}")


def write_index(layout: Path, manifest: Descriptor) -> None:
    """Turn a directory that holds an image's blobs into a layout of that image."""
    (layout / "oci-layout").write_bytes(_VERSION_FILE)
    (layout / "index.json").write_bytes(_encode_index([manifest]))


def _is_taken(target: Path) -> bool:
    return target.exists() and any(target.iterdir() if target.is_dir() else [target])


def _lock_beside(target: Path) -> Path:
    return target.absolute().with_name(f".{target.absolute().name}{_LOCK}")


@contextmanager
def _sole_writer(lock: Path, target: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(hold_lock(lock))
        except OSError as error:
            raise ImageError(f"{target} cannot be written: {error.strerror or error}") from error
        yield


def _make_layout(layout: Path, image: Image, target: Path, name: str) -> None:
    with _beside(target.absolute(), directory=True) as partial:
        (partial / "oci-layout").write_bytes(_VERSION_FILE)
        (partial / "index.json").write_bytes(_encode_index([]))
        _add_image(layout, image, partial, name)


def _add_image(layout: Path, image: Image, target: Path, name: str) -> None:
    others = [entry for entry in read_index(target).manifests if entry.annotations.get(REF_NAME) != name]
    for blob in _list_content(image.manifest):
        path = target / "blobs" / blob.digest.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_blob(layout, blob) as content, _beside(path) as partial, partial.open("wb") as out:
            shutil.copyfileobj(content, out, _CHUNK_BYTES)
    with _beside(target / "index.json") as partial:
        partial.write_bytes(_encode_index([*others, _name_manifest(image.manifest, name)]))


def _read_whole(open_content: OpenContent, descriptor: Descriptor) -> bytes:
    if descriptor.size_bytes > DOCUMENT_LIMIT_BYTES:
        raise ImageError(f"{descriptor.digest} exceeds {DOCUMENT_LIMIT_BYTES} bytes")
    with open_content(descriptor) as blob:
        return blob.read()


def choose_image(index: Index, name: str, platform: Platform | None, where: str) -> Descriptor:
    """Return the entry of a layout's index for an image; arguments and errors as for `find_image`."""
    named = [entry for entry in index.manifests if not name or entry.annotations.get(REF_NAME) == name]
    if len(named) == 1:
        return named[0]
    names = sorted({entry.annotations.get(REF_NAME, "") for entry in index.manifests} - {""})
    hint = f"its images: {', '.join(map(repr, names))}" if names else "its images have no names"
    if not named:
        raise ImageError(f"{where} has no image {name!r}" if name else f"{where} has no image", hint=hint)
    same_name = len({entry.annotations.get(REF_NAME) for entry in named}) == 1
    if not same_name or not any(entry.platform for entry in named):
        raise ImageError(f"{where} has {len(named)} images: a name is needed to choose one", hint=hint)
    return choose_platform(named, platform, where)


def read_index(layout: Path) -> Index:
    """Read the index.json of a layout.

    Raises:
        ImageError: it is not a layout, or its index is broken or too long.
    """
    if not (layout / "oci-layout").is_file():
        raise ImageError(f"{layout} is not an OCI image layout: it has no file oci-layout")
    with _open_plain(layout / "index.json") as file:
        return parse_index(file.read(DOCUMENT_LIMIT_BYTES + 1), where=f"{layout}/index.json")


@contextmanager
def _open_plain(path: Path) -> Iterator[BinaryIO]:
    # A link could lead anywhere, and a FIFO would block for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImageError(f"{path} is not a plain file")
        yield file


@contextmanager
def _beside(target: Path, *, directory: bool = False) -> Iterator[Path]:
    """Do as `write_beside`, with ImageErrors."""
    try:
        with (
            reporting_full_disk(target, "make room there, or write to another directory"),
            write_beside(target, directory=directory) as partial,
        ):
            yield partial
    except OSError as error:
        raise ImageError(f"{target} cannot be written: {error.strerror or error}") from error


def _list_content(manifest: Manifest) -> tuple[Descriptor, ...]:
    return (manifest.descriptor, *reversed(manifest.blobs))


def _name_manifest(manifest: Manifest, name: str) -> Descriptor:
    return replace(manifest.descriptor, annotations={REF_NAME: name})


def _encode_index(manifests: Sequence[Descriptor]) -> bytes:
    entries = [entry.to_json() for entry in manifests]
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document).encode()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, BytesIO(data))
