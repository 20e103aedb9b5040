"""Complete the changed files in a checkpoint of CRI-O.

CRI-O leaves out most changes to files of the base image: those of a directory's owner and mode, and those of each file
whose path does not exist on the node itself (`CRCreateRootFsDiffTar` in common/pkg/crutils of
https://github.com/containers/container-libs). It deletes a directory that was replaced by a new one after it has
unpacked that (`CRRemoveDeletedFiles`). So the missing files are read from the overlay of the container, once it has
ended, and added to rootfs-diff.tar. A cold start of the image does not find them.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import DELETED_FILES, ROOTFS_DIFF, Archive, Contents
from warmstart.image.base_names import find_names
from warmstart.image.overlay_diff import Changes, is_opaque, is_whiteout
from warmstart.image.selfrestore.pack import DIRECTORY
from warmstart.image.tree_tar import TreeTar, open_entry, open_tree, walk

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20
_MAX_NAMES = 5


@dataclass(frozen=True)
class Completion:
    """Corrections to the changed files in a checkpoint.

    Attributes:
        tar: a tar of the files that rootfs-diff.tar lacks.
        is_empty: whether there are none.
        deleted: all paths that a restore must delete, absolute.
    """

    tar: Path
    is_empty: bool
    deleted: tuple[str, ...]


@dataclass
class _Found:
    """Entries of an overlay's upper directory.

    Attributes:
        count: number of entries that rootfs-diff.tar lacks.
        late: files that were written to after the checkpoint.
        replaced: directories that hide those of the base image, with their names.
    """

    count: int
    late: list[str]
    replaced: dict[str, set[str]]


def find_missing(changes: Changes, contents: Contents, base: Path, into: Path) -> Completion:
    """Find the changed files that a checkpoint lacks.

    Args:
        changes: location of the changes; all processes of the container must have ended.
        contents: the checkpoint.
        base: layout of the container's image.
        into: new file for the tar.

    Raises:
        CheckpointError: a file of the image was changed after the checkpoint.
        ImageError: the overlay has features that a tar cannot express.
    """
    with into.open("xb") as file, open_tree(file) as tar:
        found = _add_missing(tar, changes, contents)
    _check_late(found.late, base)
    deleted = {path.strip("/") for path in contents.deleted_files}
    if deleted & found.replaced.keys():
        deleted = (deleted - found.replaced.keys()) | _list_hidden(found.replaced, base)
    return Completion(into, not found.count, tuple(f"/{path}" for path in sorted(deleted)))


def _add_missing(tar: TreeTar, changes: Changes, contents: Contents) -> _Found:
    known = {member.name for member in contents.rootfs_diff.members} if contents.rootfs_diff else set()
    # Processes are frozen from before this moment until the runtime has read the files.
    moment = contents.config.checkpointed
    end_ns = int(moment.timestamp() * 1e9) if moment else None
    found = _Found(0, [], {})
    with open_entry(changes.upper) as upper:
        for entry, name in walk(upper, "", {*changes.mounts, DIRECTORY}):
            parent = os.path.dirname(name)  # noqa: PTH120  (a name in the overlay)
            if parent in found.replaced:
                found.replaced[parent].add(os.path.basename(name))  # noqa: PTH119
            is_directory = entry.kind == stat.S_IFDIR
            if is_directory and (is_opaque(entry, name) or parent in found.replaced):
                found.replaced[name] = set()
            if name in known or is_whiteout(entry):
                continue
            if not is_directory and end_ns is not None and entry.status.st_ctime_ns > end_ns:
                found.late.append(name)
                continue
            tar.add(entry, name)
            found.count += 1
    return found


def _check_late(late: list[str], base: Path) -> None:
    """Refuse files of the image that were changed after the checkpoint; new files are not part of it.

    Raises:
        CheckpointError: there are some.
    """
    if not late:
        return
    names = find_names(base, {os.path.dirname(name) for name in late})  # noqa: PTH120
    lost = [name for name in late if os.path.basename(name) in names[os.path.dirname(name)]]  # noqa: PTH119, PTH120
    if lost:
        raise CheckpointError(
            "files of the base image were changed right after the checkpoint, which has lost what they held",
            details=[f"/{name}" for name in lost[:_MAX_NAMES]],
            hint="have the application create them when it starts, or stop writing to them in beforeCheckpoint",
        )


def _list_hidden(replaced: Mapping[str, Set[str]], base: Path) -> set[str]:
    """List the files of the image in the directories that hide its own."""
    names = find_names(base, set(replaced))
    return {f"{directory}/{name}" for directory, there in replaced.items() for name in names[directory] - there}


def complete_diff(archive: Archive, completion: Completion) -> Archive:
    """Apply corrections to an unpacked checkpoint, and return it with them."""
    if not completion.is_empty:
        _append(archive, completion.tar)
    if set(completion.deleted) != set(archive.deleted_files):
        (archive.root / DELETED_FILES).write_text(json.dumps(completion.deleted))
    return replace(archive, deleted_files=completion.deleted)


def _append(archive: Archive, tar: Path) -> None:
    """Append a tar to rootfs-diff.tar, in place of its end."""
    start = next((member.offset for member in archive.members if member.name == ROOTFS_DIFF), 0)
    members = archive.rootfs_diff.members if archive.rootfs_diff else ()
    end = max((member.offset - start + -(-member.size_bytes // _BLOCK) * _BLOCK for member in members), default=0)
    diff = archive.root / ROOTFS_DIFF
    diff.touch(mode=0o600)
    with diff.open("ab") as file, tar.open("rb") as added:
        file.truncate(end)
        shutil.copyfileobj(added, file, _CHUNK_BYTES)
