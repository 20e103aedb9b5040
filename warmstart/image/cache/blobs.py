"""Blobs of base images, so that an unchanged layer is downloaded once, and lists of the members of layers.

A blob is the file `blobs/sha256/HEX` of the cache; the list of a layer's members is `blobs/members/HEX`, as JSON. Files
appear by a rename or a hard link, never change, and can be removed at any time: a build has links or copies of its own.
Their modification time is the time of their last use. A cache that is read-only or full is used as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.partial import write_beside
from warmstart.dump.archive.tarball import Kind
from warmstart.image.manifest import Descriptor
from warmstart.node.cache import make_directory

_MODE = 0o700


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache.

    Attributes:
        path: its path.
        size_bytes: its size on the disk.
        used_at: seconds since the epoch.
    """

    path: Path
    size_bytes: int
    used_at: float


@dataclass(frozen=True)
class ListedMember:
    """A member of a layer: its name, its kind, and the target of a link."""

    name: str
    kind: Kind
    link: str


class BlobCache:
    """The blobs and lists of a cache.

    Args:
        cache: the cache directory.
    """

    def __init__(self, cache: Path) -> None:
        self._top = cache.resolve() / "blobs"
        self._blobs = self._top / "sha256"
        self._members = self._top / "members"

    def prepare(self) -> None:
        """Make the directories if needed.

        Raises:
            HostError: users other than root can write to one.
            OSError: one cannot be made.
        """
        make_directory(self._top.parent)
        for directory in (self._top, self._blobs, self._members):
            make_directory(directory, _MODE)

    def lend(self, blobs: Iterable[Descriptor], layout: Path) -> None:
        """Put those blobs that are here, and whole, into an OCI layout; damaged ones are removed.

        Raises:
            OSError: the layout cannot be written to.
        """
        for blob in blobs:
            path, target = _path(self._blobs, blob), _path(layout / "blobs" / "sha256", blob)
            if path is None or target is None or target.exists() or not path.is_file():
                continue
            if _matches(path, blob):
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(path, target)
                _touch(path)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()

    def keep(self, blobs: Iterable[Descriptor], layout: Path) -> None:
        """Take blobs over from an OCI layout whose digests were checked."""
        for blob in blobs:
            path, source = _path(self._blobs, blob), _path(layout / "blobs" / "sha256", blob)
            if path is not None and source is not None and not path.exists():
                with contextlib.suppress(OSError):
                    _link_or_copy(source, path)

    def read_members(self, layer: Descriptor, diff_id: str) -> list[ListedMember] | None:
        """Return the members of a layer in order; None if they are not known.

        Args:
            layer: its descriptor.
            diff_id: the digest of its tar, as the image's config says.
        """
        path = _path(self._members, layer)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if path is not None:
                document = json.loads(path.read_text())
                _touch(path)
                if document["diffId"] == diff_id:
                    return [ListedMember(name, Kind(kind), link) for name, kind, link in document["members"]]
        return None

    def keep_members(self, layer: Descriptor, diff_id: str, members: Iterable[ListedMember]) -> None:
        """Keep the list of a layer whose digest and diff id were checked."""
        if (path := _path(self._members, layer)) is not None:
            document = {"diffId": diff_id, "members": [(one.name, one.kind.value, one.link) for one in members]}
            with contextlib.suppress(OSError), write_beside(path) as partial:
                partial.write_text(json.dumps(document))

    def list(self) -> Iterator[CachedFile]:
        """Return all files."""
        for directory in (self._blobs, self._members):
            with contextlib.suppress(FileNotFoundError):
                for path in directory.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        status = path.lstat()
                        yield CachedFile(path, status.st_blocks * 512, status.st_mtime)


def _path(directory: Path, blob: Descriptor) -> Path | None:
    """None for a digest of another algorithm than SHA-256."""
    algorithm, _, digest = blob.digest.partition(":")
    return directory / digest if algorithm == "sha256" else None


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _matches(path: Path, blob: Descriptor) -> bool:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size_bytes:
            return False
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` appear whole; the two may be on different file systems."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:
        with write_beside(target) as partial:
            shutil.copyfile(source, partial)
