"""Unpacked layers of base images, kept in the cache and shared read-only by the image stores of all builds.

Each layer is a directory `layers/ID` of the cache, and a containers/storage image store of its own that holds this one
layer, for use as an additional image store (containers-storage.conf(5), `additionalimagestores`). ID is containers/
storage's own: the chain of the uncompressed layers' digests (see `find_ids`), so a layer is found by its content and
its parents. skopeo unpacks layers and checks their digests; this module only takes its store apart.

A layer directory appears by a rename and never changes afterwards. Its modification time is the time of its last use,
and a shared lock (flock(2)) on it keeps it from being removed. A layer goes before its parent does.

Format: containers/storage, layers.go (`layers.json`), and drivers/overlay/overlay.go (`diff`, `link`, `lower`; `l/` has
short names of the layers, since all lower directories of a mount have to fit in a page).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core import process
from warmstart.core.locking import hold_lock, is_same
from warmstart.core.removal import remove_directory
from warmstart.node.cache import make_directory

DISK_S = 600.0
NEW = ".new-"
OLD = ".old-"
RECORD = "warmstart.json"
# Lower directories of an overlay mount have to fit in a page together with the engine's own; this leaves it half.
MOST_BYTES_OF_PATHS = 2048
_SHORT_NAME_BYTES = len("/overlay/l/") + 26 + 1
# overlay's mount options and the list of stores give these a meaning.
_SPECIAL = re.compile(r"[,:\\\[\]@+]")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CachedLayer:
    """A layer in the cache.

    Attributes:
        path: its directory, an image store.
        size_bytes: its size on the disk.
        depth: how many layers lie below it.
        used_at: seconds since the epoch.
    """

    path: Path
    size_bytes: int
    depth: int
    used_at: float


def find_ids(diff_ids: Sequence[str]) -> list[str]:
    """Return the IDs that containers/storage gives to a chain of layers.

    Source: `layerID` in go.podman.io/image, storage/storage_dest.go.

    Args:
        diff_ids: `rootfs.diff_ids` of an image's config, the base first.
    """
    ids: list[str] = []
    for diff_id in diff_ids:
        digest = diff_id.removeprefix("sha256:")
        ids.append(hashlib.sha256(f"{ids[-1]}+{digest}".encode()).hexdigest() if ids else digest)
    return ids


class LayerCache:
    """The layers of a cache.

    Args:
        cache: the cache directory.
    """

    def __init__(self, cache: Path) -> None:
        self.directory = cache.resolve() / "layers"

    def prepare(self) -> bool:
        """Make the directory if needed, and tell whether image stores can use layers below it.

        Raises:
            HostError: users other than root can write to it.
            OSError: it cannot be made.
        """
        if _SPECIAL.search(str(self.directory)):
            return False
        # Layers hold setuid programs of images, maybe outdated ones: no other user may reach them.
        make_directory(self.directory.parent)
        make_directory(self.directory, 0o700)
        return True

    @contextlib.contextmanager
    def hold(self, diff_ids: Sequence[str]) -> Iterator[tuple[Path, ...]]:
        """Yield the image stores of those layers of a chain that are here, the base first; none of them is removed.

        The chain ends at the first layer that is missing.
        """
        with contextlib.ExitStack() as locks:
            yield tuple(self._hold_each(diff_ids, locks))

    def holds(self, diff_ids: Sequence[str]) -> bool:
        """Tell whether all layers of a chain are here."""
        with self.hold(diff_ids) as stores:
            return len(stores) == len(diff_ids)

    def add(self, diff_ids: Sequence[str], unpack: Callable[[Path, Sequence[Path]], object]) -> None:
        """Add the layers of an image, unless they are here.

        Args:
            diff_ids: of the image.
            unpack: makes an image store of the image, given an empty directory for it and the stores with layers that
                need not be in it.

        Raises:
            OSError: the cache cannot be written to.
        """
        if len(diff_ids) * (len(str(self.directory)) + 65 + _SHORT_NAME_BYTES) > MOST_BYTES_OF_PATHS:
            return
        with hold_lock(self.directory / ".lock"), self.hold(diff_ids) as present:
            self._sweep()
            if len(present) == len(diff_ids):
                return
            new = Path(tempfile.mkdtemp(prefix=NEW, dir=self.directory))
            try:
                store = new / "store"
                store.mkdir()
                unpack(store, present)
                # A layer that is here must be whole, even after a power failure.
                os.sync()
                depths = {layer_id: depth for depth, layer_id in enumerate(find_ids(diff_ids))}
                for layer in _list_layers(store):
                    self._move(store, layer, depths.get(layer["id"]))
            finally:
                remove_directory(new)

    def list(self) -> list[CachedLayer]:
        """Return all layers, those that were not used for the longest time first, each before its parents."""
        found = []
        for path in self.directory.glob("[0-9a-f]*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                record = json.loads((path / RECORD).read_text())
                found.append(CachedLayer(path, record["size_bytes"], record["depth"], path.stat().st_mtime))
        return sorted(found, key=lambda layer: (layer.used_at, -layer.depth))

    def remove(self, layer: CachedLayer) -> bool:
        """Remove a layer, and tell whether that was done: not if a build uses it."""
        with contextlib.suppress(OSError), _opened(layer.path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old = layer.path.with_name(f"{OLD}{layer.path.name}")
            layer.path.rename(old)
            remove_directory(old)
            return True
        return False

    def _hold_each(self, diff_ids: Sequence[str], locks: contextlib.ExitStack) -> Iterator[Path]:
        parent: Path | None = None
        for layer_id in find_ids(diff_ids):
            # Configs are untrusted.
            if not _ID.fullmatch(layer_id):
                return
            path = self.directory / layer_id
            try:
                descriptor = locks.enter_context(_opened(path))
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return
            with contextlib.suppress(OSError):  # a read-only cache
                os.utime(descriptor)
            if not is_same(descriptor, path) or not _lies_on(path, parent):
                return
            parent = path
            yield path

    def _sweep(self) -> None:
        """Remove what killed commands left; call it with the lock held."""
        for pattern in (NEW, OLD):
            for leftover in self.directory.glob(f"{pattern}*"):
                remove_directory(leftover)

    def _move(self, store: Path, layer: dict[str, Any], depth: int | None) -> None:
        """Make an image store of one layer of a store, with parts of that store.

        Depth is None for a layer that is not what the image's config says; it is left out.
        """
        layer_id = layer["id"]
        if depth is None or (self.directory / layer_id).exists():
            return
        new = store.parent / layer_id
        link = (store / "overlay" / layer_id / "link").read_text()
        for part in ("overlay/l", "overlay-layers", "overlay-images"):
            (new / part).mkdir(parents=True)
        for part in (f"overlay/{layer_id}", f"overlay/l/{link}", f"overlay-layers/{layer_id}.tar-split.gz"):
            (store / part).rename(new / part)
        for part, content in (("overlay-layers/layers", [layer]), ("overlay-images/images", [])):
            (new / f"{part}.json").write_text(json.dumps(content))
            (new / f"{part}.lock").touch()
        record = {"size_bytes": _measure(new), "depth": depth}
        (new / RECORD).write_text(json.dumps(record))
        new.rename(self.directory / layer_id)


def _list_layers(store: Path) -> list[dict[str, Any]]:
    """Return the layers of a store that was just made, a parent before its children."""
    layers: list[dict[str, Any]] = json.loads((store / "overlay-layers" / "layers.json").read_text())
    return layers


def _lies_on(path: Path, parent: Path | None) -> bool:
    """Tell whether a layer was made on top of this very copy of its parent; short names are random."""
    overlay = path / "overlay" / path.name
    if parent is None:
        return not (overlay / "lower").exists()
    link = (parent / "overlay" / parent.name / "link").read_text()
    return (overlay / "lower").read_text().split(":")[0] == f"l/{link}"


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _measure(directory: Path) -> int:
    """Return the bytes that a directory takes on the disk."""
    # A layer may nest directories deeper than Python's recursion limit and the longest path.
    output = process.run(["du", "--summarize", "--block-size=1", "--", str(directory)], timeout_s=DISK_S).stdout
    return int(output.split()[0])
