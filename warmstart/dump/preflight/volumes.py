"""Find files in use on the volumes of a pod, which a restored pod does not have: its volumes are its own.

CRI-O mounts the volumes of the new pod at the restore, and CRIU opens the files there by their paths. An image that
restores itself brings the files of an emptyDir along.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.dump.preflight.finding import Finding, error
from warmstart.dump.proc.container import (
    GONE,
    Container,
    Link,
    Process,
    open_below_root,
    read_descriptor_info,
    strip_deleted,
)
from warmstart.recipe.model import Volume, VolumeKind, VolumeMount

# Of each JVM, in /tmp, unless it is told not to.
_JVM_COUNTERS = "/hsperfdata_"
_FIXES = {
    VolumeKind.FILES: "Close it before the checkpoint, once it has been read.",
    VolumeKind.LASTING: "Close it before the checkpoint, or first open it after the restore.",
    VolumeKind.EMPTY_DIR: "Close it before the checkpoint, keep it outside of volumes, or set `restore: [self]`: an "
    "image that restores itself keeps the files of an emptyDir.",
}
_JVM_FIX = "Switch it off with -XX:-UsePerfData, for example in JAVA_TOOL_OPTIONS, or set `restore: [self]`."


def find_mount_points(container: Container, mounts: Sequence[VolumeMount]) -> dict[str, VolumeMount]:
    """Find the mount points of volumes, which links of the image can lead to other paths than the recipe's."""
    numbers: dict[int, VolumeMount] = {}
    for mount in mounts:
        with (
            contextlib.suppress(OSError),
            open_below_root(container.proc, container.first.pid, mount.path, os.O_PATH) as opened,
        ):
            link = Link(Path(f"/proc/self/fd/{opened}"), "")
            numbers[read_descriptor_info(link).mount_id] = mount
    return {info.mount_point: numbers[info.mount_id] for info in container.mounts if info.mount_id in numbers}


def find_on_volumes(container: Container, *, by_runtime: bool) -> Iterator[Finding]:
    """Check the open and mapped files, and the working directories, of the container's processes.

    Args:
        container: the container.
        by_runtime: whether the runtime restores the container.
    """
    if not container.volumes:
        return
    for process, link in (*container.each_descriptor(), *container.each_mapped_file(), *_each_directory(container)):
        path, deleted = strip_deleted(link.target)
        mount = container.mount_of(path) if path.startswith("/") and not deleted else None
        if mount is None or mount.mount_point not in container.volumes or path == mount.mount_point:
            continue
        with contextlib.suppress(*GONE):
            volume = container.volumes[mount.mount_point].volume
            refused = by_runtime or volume.kind is not VolumeKind.EMPTY_DIR
            if refused and _has_path(link.path) and link.is_unchanged():
                yield _refuse(process, path, mount.mount_point, volume)


def _each_directory(container: Container) -> Iterator[tuple[Process, Link]]:
    """Yield the working directories of all processes."""
    for process in container.processes:
        path = container.proc / str(process.pid) / "cwd"
        with contextlib.suppress(*GONE):
            yield process, Link(path, os.readlink(path))  # noqa: PTH115  (text, which need not be a path)


def _has_path(link: Path) -> bool:
    mode = link.stat().st_mode
    return any(test(mode) for test in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO))


def _refuse(process: Process, path: str, mount_point: str, volume: Volume) -> Finding:
    what = f"Its file {path} is in use and lies on the volume {volume.name} ({mount_point}), which each pod has anew."
    fix = _FIXES[volume.kind]
    if volume.kind is VolumeKind.EMPTY_DIR and _JVM_COUNTERS in path:
        fix = _JVM_FIX
    return error("open-on-volume", process, what, fix)
