"""Unpack the stream of `launcher pack`: the launcher's files, and the application's changes as the tar of a layer.

The stream comes from a container on another machine, so it is untrusted. Names are plain and relative, the launcher's
files are created one by one in open directories without following links, and changed files only get into a tar.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import DEFAULT_LIMITS, Limits
from warmstart.dump.archive.tarball import MAX_COMPONENT_BYTES, quoted
from warmstart.image.base_names import find_names
from warmstart.image.tree_tar import DIRECTORY_MODE_BITS, MODE_BITS
from warmstart.image.whiteouts import mark_removed

_KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
_ATTRIBUTE = "SCHILY.xattr."
# Errors for names, targets of links and numbers that no file system takes; None is tarfile's own, for an early end.
_OF_STREAM = (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOENT, None)
_NOT_KEPT = tuple(f"{_ATTRIBUTE}{name}" for name in ("trusted.", "security."))


def unpack(
    stream: Path, state: Path, changes: Path, base: Path, left_out: Sequence[str], *, limits: Limits = DEFAULT_LIMITS
) -> bool:
    """Unpack a stream.

    Args:
        stream: the file with the stream.
        state: new directory for the launcher's files, to be claimed.
        changes: new file for the tar of the changes, with removals marked as in a layer.
        base: the layout of the container's image.
        left_out: paths that are not part of the changes.
        limits: limits of the stream.

    Returns:
        Whether there are changes.

    Raises:
        CheckpointError: it is not such a stream.
        ImageError: the container's image is broken.
    """
    state.mkdir(mode=0o700)
    present: dict[str, set[str]] = defaultdict(set)
    # Of other directories, only some names are in the stream.
    listed: set[str] = set()
    try:
        with tarfile.open(stream, "r:") as tar, tarfile.open(changes, "x:", format=tarfile.PAX_FORMAT) as target:
            for member in _list_members(tar, limits):
                kind, _, name = member.name.partition("/")
                if kind == "state":
                    _extract(tar, member, name, state)
                    continue
                parent, _, last = name.rpartition("/")
                present[parent].add(last)
                if kind == "kept":
                    listed.add(parent)
                elif not _is_in(name, left_out):
                    _copy(tar, member, name, target)
                    listed |= {name} if member.isdir() else set()
            for name in _find_removed(base, {one: present[one] for one in listed}, left_out):
                target.addfile(_make_mark(name))
            return bool(target.getmembers())
    except (tarfile.TarError, ValueError, OverflowError) as error:
        _refuse(f"its tar is broken: {error}")
    except OSError as error:
        if error.errno not in _OF_STREAM:
            raise
        _refuse(f"its tar is broken: {error.strerror or error}")


def _list_members(tar: tarfile.TarFile, limits: Limits) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, 1):
        parts = member.name.split("/")
        if count > limits.members:
            _refuse(f"it has more than {limits.members} files")
        if len(parts) < 2 or parts[0] not in ("state", "changes", "kept") or not all(map(_is_plain, parts)):
            _refuse(f"{quoted(member.name)} has no place in it")
        # The launcher writes none, and a few bytes of one may stand for any size.
        if member.issparse():
            _refuse(f"{quoted(member.name)} is a sparse file")
        yield member


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "\0" not in name and len(os.fsencode(name)) <= MAX_COMPONENT_BYTES


def _is_in(name: str, directories: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in directories)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, state: Path) -> None:
    """Create a file of the launcher, with its owner, mode and time."""
    *parents, last = name.split("/")
    with suppress(FileExistsError), _open_directory(state, parents, name) as place:
        if member.isdir():
            os.mkdir(last, 0o700, dir_fd=place)
        elif member.issym():
            os.symlink(member.linkname, last, dir_fd=place)
        elif member.isfifo():
            os.mkfifo(last, 0o600, dir_fd=place)
        elif member.isreg():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            content = tar.extractfile(member)
            assert content is not None
            with content, open(os.open(last, flags, 0o600, dir_fd=place), "wb") as file:  # noqa: PTH123
                shutil.copyfileobj(content, file, 1 << 20)
        else:
            _refuse(f"{quoted(name)} has the wrong file type")
        os.chown(last, member.uid, member.gid, dir_fd=place, follow_symlinks=False)
        if not member.issym():
            os.chmod(last, member.mode & 0o7777, dir_fd=place)
        os.utime(last, (member.mtime, member.mtime), dir_fd=place, follow_symlinks=False)
        return
    _refuse(f"{quoted(name)} is in it twice")


@contextmanager
def _open_directory(directory: Path, parents: Sequence[str], name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(directory, flags)
    try:
        for parent in parents:
            outer = fd
            try:
                fd = os.open(parent, flags, dir_fd=outer)
            finally:
                if fd != outer:
                    os.close(outer)
    except OSError as error:
        os.close(fd)
        _refuse(f"{quoted(name)} is in no directory: {error.strerror}")
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, target: tarfile.TarFile) -> None:
    """Copy a changed file into the tar of a layer, without privileges."""
    if member.type not in _KINDS:
        return
    made = tarfile.TarInfo(name)
    bits = DIRECTORY_MODE_BITS if member.isdir() else MODE_BITS
    made.type, made.mode, made.size = member.type, member.mode & bits, member.size if member.isreg() else 0
    made.uid, made.gid, made.mtime = member.uid, member.gid, member.mtime
    made.linkname = member.linkname
    if member.islnk():
        kind, _, made.linkname = member.linkname.partition("/")
        if kind != "changes" or not all(map(_is_plain, made.linkname.split("/"))):
            _refuse(f"{quoted(name)} is a hard link out of the changes")
    made.pax_headers = {
        key: value
        for key, value in member.pax_headers.items()
        if key.startswith(_ATTRIBUTE) and not key.startswith(_NOT_KEPT)
    }
    target.addfile(made, tar.extractfile(member) if member.isreg() else None)


def _find_removed(base: Path, present: Mapping[str, Set[str]], left_out: Sequence[str]) -> Iterator[str]:
    for directory, names in find_names(base, set(present)).items():
        for name in sorted(names - present[directory]):
            path = f"{directory}/{name}".lstrip("/")
            if not _is_in(path, left_out):
                yield path


def _make_mark(name: str) -> tarfile.TarInfo:
    """Return the mark of a removed file in a layer."""
    mark = tarfile.TarInfo(mark_removed(name))
    mark.mode = 0o644
    return mark


def _refuse(problem: str) -> NoReturn:
    raise CheckpointError(f"cannot use the launcher's checkpoint: {problem}")
