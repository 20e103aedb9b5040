"""Find the files that a runtime's container changed, and that its checkpoint lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.launched import end_container
from warmstart.core.errors import ImageError
from warmstart.core.mountinfo import read_mountinfo
from warmstart.dump.archive.archive import read_contents
from warmstart.dump.preflight.files import HOLES_LIMIT_BYTES
from warmstart.dump.proc.container import read_process
from warmstart.engine.cri import CriContainer
from warmstart.image.overlay_diff import Changes, find_changes, find_sparse
from warmstart.image.rootfs_diff import Completion, find_missing
from warmstart.image.selfrestore.pack import DIRECTORY


def complete_changes(context: BuildContext, running: CriContainer, archive: Path, base: Path) -> Completion | None:
    """End a container, and find the changed files that its checkpoint lacks.

    Args:
        context: of the build; gets a warning if the changed files cannot be found.
        running: the container.
        archive: its checkpoint.
        base: layout of its image.

    Returns:
        Corrections to the checkpoint; None if there are none, or if they cannot be found.

    Raises:
        CheckpointError: files were changed after the checkpoint.
        EngineError: the container cannot be ended.
    """
    try:
        changes = find_files(running)
    except ImageError as unknown:
        context.progress.warn(f"{unknown.brief}; a restored container may lack changes to files of the base image")
        return None
    if changes is None:
        return None
    end_container(running, running.pid)
    warn_of_sparse(context, changes)
    return find_missing(changes, read_contents(archive), base, archive.with_name("missing.tar"))


def warn_of_sparse(context: BuildContext, changes: Changes | None) -> None:
    """Warn of files with large holes; preflight has refused those that are in use."""
    for name, holes_bytes in find_sparse(changes, [DIRECTORY], HOLES_LIMIT_BYTES).items() if changes else ():
        context.progress.warn(
            f"the file /{name} has {holes_bytes >> 20} MiB of holes, which the image holds as zeros. Remove it before "
            "the checkpoint, or make it smaller. [sparse-file]"
        )


def find_files(running: CriContainer) -> Changes | None:
    """Find where a container's changed files are; None if its root filesystem cannot be written to.

    The container has no influence on the mounts of its monitor, the parent of its first process.

    Raises:
        ImageError: the root filesystem is not an overlay.
    """
    proc, root = running.engine.proc, running.root
    monitor = read_process(proc, running.pid).parent_pid
    changes = find_changes(read_mountinfo(proc / str(monitor) / "mountinfo"), root.path)
    if changes is None:
        return None
    # With many layers, containers/storage names the directory relative to that of all of its layers.
    upper = Path(root.path).parent.parent / changes.upper
    return replace(changes, upper=upper, mounts=frozenset(point.strip("/") for point in root.mount_points))
