"""The volumes of a pod, laid out on the disk as the kubelet does.

Each pod has directories of its own, which are made before its first container and removed after its last. A container
can write to them, so nothing in them is reached by a name that a container could have replaced: directories are opened
one by one, without following links. The runtime itself is given names, while no container of the pod runs.
Sources, in kubernetes/kubernetes: pkg/volume/util/atomic_writer.go (files), pkg/volume/volume_linux.go (fsGroup),
pkg/volume/emptydir, `MakeNestedMountpoints` in pkg/volume/util, `doSafeMakeDir` in pkg/volume/util/subpath.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from warmstart.core.errors import EngineError, RecipeError
from warmstart.core.removal import remove_directory
from warmstart.core.undo import undoing
from warmstart.recipe.model import Container, Mount, Volume, VolumeKind, VolumeMount

_MODE = 0o777
_STICKY = 0o1000  # of a tmpfs
# Bits for fsGroup, as `changeFilePermission` sets them.
_GROUP_WRITES, _GROUP_READS, _GROUP_ENTERS = 0o660, 0o440, stat.S_ISGID | 0o110
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DATA = "..data"


class MemoryMounts(Protocol):
    """Mounts file systems in memory where the runtime sees them."""

    @property
    def root(self) -> Path:
        """The root directory of the runtime, as a path of this process."""
        ...

    def mount(self, directory: Path, size_bytes: int | None) -> None:
        """Mount an empty tmpfs on a directory, with a limit to its size."""
        ...

    def unmount(self, directory: Path) -> None:
        """Remove the mount."""
        ...


@contextlib.contextmanager
def open_volumes(directory: Path, memory: MemoryMounts | None = None) -> Iterator[PodVolumes]:
    """Yield the volumes of a new pod, none at first; they are gone at the end of the block.

    Args:
        directory: where they are; made when the first one is. The runtime must see it at the same path.
        memory: mounts the volumes in memory; None to make ordinary directories in their place.
    """
    with undoing(partial(_remove, directory)), contextlib.ExitStack() as mounted:
        yield PodVolumes(directory, memory, mounted)


@dataclass(frozen=True)
class _MadeVolume:
    """A volume on the disk: its directory, as seen by the runtime and by this process, and the files in it."""

    volume: Volume
    directory: Path
    seen: Path
    version: str = ""

    def find(self, mount: VolumeMount) -> tuple[str, ...]:
        """Return the names that lead from the volume to its mounted part."""
        names = _split(mount.sub_path, f"subPath of the mount {mount.path}")
        if self.version and names and (self.seen / self.version).joinpath(*names).exists():
            return (self.version, *names)
        return names


class PodVolumes:
    """The volumes of a pod; use `open_volumes`."""

    def __init__(self, directory: Path, memory: MemoryMounts | None, mounted: contextlib.ExitStack) -> None:
        self._directory = directory
        self._memory = memory
        self._mounted = mounted
        self._made: dict[str, _MadeVolume] = {}

    def mount(self, container: Container) -> tuple[Mount, ...]:
        """Make the volumes of a container, unless another one of the pod has them already, and list its mounts.

        No container of the pod may run.

        Returns:
            The mounts, parents first.

        Raises:
            RecipeError: a path leads out of its volume.
            EngineError: a path leads through a link, or a volume cannot be made.
        """
        wanted = sorted(container.volume_mounts, key=lambda each: len(PurePosixPath(each.path).parts))
        try:
            mounts = [Mount(each.path, *self._find_source(each, container)) for each in wanted]
            for each in wanted:
                self._make_mount_point(each, wanted)
        except OSError as error:
            brief = f"cannot make the volumes of the container: {error.strerror}: {error.filename or self._directory}"
            raise EngineError(brief) from error
        return tuple(mounts)

    def list_used(self) -> list[str]:
        """Return the names of the volumes that the containers left something on.

        A JVM leaves an empty directory hsperfdata_USER in /tmp.
        """
        used = []
        for name, made in self._made.items():
            with _opened(made.seen) as directory:
                names = os.listdir(directory)  # noqa: PTH208  (of a descriptor)
                left = [each for each in names if not each.startswith("hsperfdata_")]
            if left and made.volume.kind is not VolumeKind.FILES:
                used.append(name)
        return used

    def _find_source(self, mount: VolumeMount, container: Container) -> tuple[Path, bool]:
        """Return the path to mount, and whether it is read-only: the kubelet mounts files so."""
        made = self._made.get(mount.volume.name) or self._make(mount.volume, container)
        names = made.find(mount)
        if names:
            with _opened(made.seen) as directory:
                _make_path(directory, names, f"subPath {mount.sub_path} of the volume {mount.volume.name}")
        return made.directory.joinpath(*names), mount.read_only or mount.volume.kind is VolumeKind.FILES

    def _make(self, volume: Volume, container: Container) -> _MadeVolume:
        # Not by its name, which may be anything.
        directory = self._directory / str(len(self._made))
        directory.mkdir(mode=0o700, parents=True)
        made = _MadeVolume(volume, directory, directory, _find_version(volume))
        group, writable = container.fs_group, volume.kind is not VolumeKind.FILES
        mode = _MODE
        if self._memory and _is_in_memory(volume):
            limits = (volume.size_limit_bytes, container.resources.memory_limit_bytes)
            self._mounted.enter_context(undoing(partial(self._memory.unmount, directory)))
            self._memory.mount(directory, min((limit for limit in limits if limit), default=None))
            made = _MadeVolume(volume, directory, self._memory.root / directory.relative_to("/"))
            mode |= _STICKY
        self._made[volume.name] = made
        if volume.kind is VolumeKind.FILES:
            _write_files(made.seen, made.version, volume)
        made.seen.chmod(mode)
        if group is not None:
            for path in (made.seen, *made.seen.rglob("*")):
                _give_to_group(path, group, writable=writable)
        return made

    def _make_mount_point(self, inner: VolumeMount, mounts: Sequence[VolumeMount]) -> None:
        """Make a directory for a mount in the volume that it lies in, if any: the runtime could not in a read-only one.

        That of a mounted file is left to the runtime.
        """
        path = PurePosixPath(inner.path)
        around = [each for each in mounts if each is not inner and path.is_relative_to(each.path)]
        around = [each for each in around if PurePosixPath(each.path) != path]
        if not around or (inner.volume.kind is VolumeKind.FILES and inner.sub_path):
            return
        outer = max(around, key=lambda each: len(PurePosixPath(each.path).parts))
        made = self._made[outer.volume.name]
        names = [*made.find(outer), *path.relative_to(outer.path).parts]
        with _opened(made.seen) as directory:
            _make_path(directory, names, f"the mount {inner.path}, in the volume {outer.volume.name},")


def list_groups(container: Container) -> tuple[int, ...]:
    """Return the supplementary groups of a container: its own, and that of its pod's volumes."""
    own = container.security_context.supplemental_groups
    group = container.fs_group
    return own if group is None or group in own else (*own, group)


def _remove(directory: Path) -> None:
    if directory.exists():
        remove_directory(directory)


def _is_in_memory(volume: Volume) -> bool:
    return volume.in_memory and volume.kind is VolumeKind.EMPTY_DIR


def _find_version(volume: Volume) -> str:
    """Return the name of the directory with the files of a volume; see `AtomicWriter`."""
    if volume.kind is not VolumeKind.FILES:
        return ""
    return time.strftime(f"..%Y_%m_%d_%H_%M_%S.{time.time_ns() % 10**9:09d}", time.gmtime())


def _write_files(directory: Path, version: str, volume: Volume) -> None:
    """Write the files of a volume as the kubelet does: in a directory that is replaced when they change."""
    data = directory / version
    data.mkdir()
    for file in volume.files:
        names = _split(file.path, f"the path of a file in the volume {volume.name}")
        if not names or names[0].startswith(".."):
            raise RecipeError(f"the volume {volume.name} cannot have a file called {file.path!r}")
        path = data.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
        path.chmod(file.mode)
        link = directory / names[0]
        if not link.is_symlink():
            link.symlink_to(f"{_DATA}/{names[0]}")
    for path in (data, *data.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    (directory / _DATA).symlink_to(version)


def _give_to_group(path: Path, group: int, *, writable: bool) -> None:
    os.chown(path, -1, group, follow_symlinks=False)
    status = path.lstat()
    if not stat.S_ISLNK(status.st_mode):
        mode = stat.S_IMODE(status.st_mode) | (_GROUP_WRITES if writable else _GROUP_READS)
        path.chmod(mode | _GROUP_ENTERS if stat.S_ISDIR(status.st_mode) else mode)


def _split(path: str, what: str) -> tuple[str, ...]:
    """Return the names of a relative path.

    Raises:
        RecipeError: it leads out of its directory, or cannot be a path.
    """
    names = PurePosixPath(path).parts
    if path.startswith("/") or ".." in names or "\0" in path:
        raise RecipeError(f"{what} must be a relative path without '..', and not {path!r}")
    return names


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, _OPEN)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_path(directory: int, names: Sequence[str], what: str) -> None:
    """Make directories below an open one, with its own mode and group, unless they are there; the last may be a file.

    Raises:
        EngineError: one of the names is a link or a file.
    """
    volume, current = os.fstat(directory), os.dup(directory)
    try:
        for depth, name in enumerate(names, 1):
            made = _make_one(current, name)
            if depth == len(names) and stat.S_ISREG(os.stat(name, dir_fd=current, follow_symlinks=False).st_mode):
                return
            try:
                inner = os.open(name, _OPEN, dir_fd=current)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise EngineError(f"cannot mount {what}: {name} is a link or a file") from error
            os.close(current)
            current = inner
            if made:
                os.fchown(current, volume.st_uid, volume.st_gid)
                os.fchmod(current, stat.S_IMODE(volume.st_mode) & ~_STICKY)
    finally:
        os.close(current)


def _make_one(directory: int, name: str) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return False
    return True
