"""Read checkpoint archives: tar files written by CRI-O's CheckpointContainer, or through it by the kubelet.

An archive is untrusted. All of it is checked, from its headers and its small members, before anything is written. CRI-O
applies parts of it to a node as root (internal/lib/restore.go), so those are checked too. An archive is unpacked into
one new directory, as files and one directory with known names, with our own permissions.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from warmstart.core.errors import ArchiveError, HostError
from warmstart.core.progress import report_warning
from warmstart.dump.archive import metadata, tarball
from warmstart.dump.archive.metadata import BindMount, ContainerConfig, Spec
from warmstart.dump.archive.tarball import Kind, Member, Span, quoted

CHECKPOINT_DIRECTORY = "checkpoint"
CONFIG_DUMP = "config.dump"
SPEC_DUMP = "spec.dump"
BIND_MOUNTS = "bind.mounts"
DELETED_FILES = "deleted.files"
ROOTFS_DIFF = "rootfs-diff.tar"
NETWORK_STATUS = "network.status"
STATS_DUMP = "stats-dump"
DUMP_LOG = "dump.log"
CONTAINER_LOG = "io.kubernetes.cri-o.LogPath"

# The files that CRI-O's exportCheckpoint writes (internal/lib/checkpoint.go), and Podman's network.status.
_FILES = frozenset(
    {
        CONFIG_DUMP,
        SPEC_DUMP,
        BIND_MOUNTS,
        DELETED_FILES,
        ROOTFS_DIFF,
        NETWORK_STATUS,
        STATS_DUMP,
        DUMP_LOG,
        CONTAINER_LOG,
    }
)

# CRI-O does not try to restore without CRIU's inventory.
_REQUIRED = (CONFIG_DUMP, SPEC_DUMP, f"{CHECKPOINT_DIRECTORY}/inventory.img")

_COPY_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Upper bounds for the contents of an archive.

    Attributes:
        members: number of members, for the archive and for its rootfs-diff.tar.
        total_bytes: total size of its members.
        json_bytes: size of each JSON member.
    """

    members: int = 100_000
    total_bytes: int = 256 << 30
    json_bytes: int = 4 << 20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class RootfsDiff:
    """rootfs-diff.tar: the container's changes to its root filesystem. `entries` counts its members."""

    entries: int
    size_bytes: int
    members: tuple[Member, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Contents:
    """Contents of a checkpoint archive.

    Attributes:
        members: members of the checkpoint, in the archive's order.
        ignored: names of other members; they are never unpacked.
        config: config.dump.
        spec: spec.dump.
        bind_mounts: bind.mounts; empty if absent.
        deleted_files: deleted.files, absolute paths in the container; empty if absent.
        rootfs_diff: rootfs-diff.tar; None if the container changed no file.
    """

    members: tuple[Member, ...]
    ignored: tuple[str, ...]
    config: ContainerConfig
    spec: Spec
    bind_mounts: tuple[BindMount, ...]
    deleted_files: tuple[str, ...]
    rootfs_diff: RootfsDiff | None

    @property
    def size_bytes(self) -> int:
        """Total size of the members."""
        return sum(member.size_bytes for member in self.members)

    @property
    def container_name(self) -> str:
        """The container's name in its pod; its full name if the runtime records no other."""
        return self.spec.container_name or self.config.name


@dataclass(frozen=True)
class Archive(Contents):
    """An archive unpacked into the directory `root`."""

    root: Path

    @property
    def checkpoint_dir(self) -> Path:
        """The directory of CRIU's image files."""
        return self.root / CHECKPOINT_DIRECTORY

    def find(self, name: str) -> Path | None:
        """Return the unpacked file of a member, such as `DUMP_LOG`; None if the archive has none."""
        path = self.root / name
        return path if path.exists() else None


def read_contents(archive: Path, *, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Read the contents of an archive without unpacking it; memory pages are not read.

    Raises:
        ArchiveError: it cannot be read, is not a checkpoint archive, is broken, or is not to be trusted.
    """
    with open_tar(archive) as tar:
        return check_tar(tar, limits)


def extract_archive(archive: Path, into: Path, *, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """Unpack a checkpoint archive into a new directory.

    Files get mode 0600 and directories 0700, whatever the archive says, and belong to the caller. On any error
    the directory is removed.

    Args:
        archive: an uncompressed tar.
        into: the new directory, in an existing one.
        limits: upper bounds for the archive.

    Raises:
        ArchiveError: it cannot be read, is not a checkpoint archive, is broken, or is not to be trusted.
        HostError: `into` cannot be made or written to.
    """
    with open_tar(archive) as tar:
        contents = check_tar(tar, limits)
        unpack(tar, contents.members, into)
    return Archive(**vars(contents), root=into)


@contextmanager
def open_tar(archive: Path) -> Iterator[Span]:
    """Open a tar for reading.

    Raises:
        ArchiveError: it cannot be read, or is not a regular file.
    """
    with ExitStack() as undo:
        try:
            # Non-blocking: opening a FIFO would wait for a writer.
            fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ArchiveError(f"{archive}: is not a regular file")
            yield Span(fd, 0, status.st_size, str(archive))
        except OSError as error:
            raise ArchiveError(f"{archive}: cannot be read: {error.strerror}") from error


def is_tar(file: Path) -> bool:
    """Whether a file has the magic of a tar; nothing else is read.

    Raises:
        ArchiveError: it cannot be read.
    """
    with open_tar(file) as span:
        return span.read(257, 5) == b"ustar"


def check_tar(tar: Span, limits: Limits, *, is_layer: bool = False) -> Contents:
    """Check an open tar and read its contents, like `read_contents`.

    Args:
        tar: the tar; only member contents that are part of `Contents` are read.
        limits: upper bounds for the tar.
        is_layer: whether the tar is an image layer that may hold other files as well as the checkpoint's.

    Raises:
        ArchiveError: as for `read_contents`.
    """
    all_members = tarball.list_members(tar, max_members=limits.members)
    if is_layer:
        all_members = tuple(member for member in all_members if _expected_kind(member.name))
    total_bytes = sum(member.size_bytes for member in all_members)
    if total_bytes > limits.total_bytes:
        tar.refuse(f"holds {total_bytes} bytes; the limit is {limits.total_bytes}")
    members, ignored = _select_members(tar, all_members)
    by_name = {member.name: member for member in members}
    for name in _REQUIRED:
        if name not in by_name:
            tar.refuse(
                f"has no {quoted(name)}: it is not a checkpoint archive, or not a whole one",
                hint="make one with the kubelet's checkpoint API or CRI's CheckpointContainer",
            )
    if ignored:
        report_warning(
            f"{tar.label}: {len(ignored)} members are not known to belong to a checkpoint and are ignored,"
            f" the first is {quoted(ignored[0])}"
        )

    def data(name: str) -> tuple[bytes, str]:
        return _read_small(tar, by_name[name], limits)

    config = metadata.parse_config(*data(CONFIG_DUMP))
    spec = metadata.parse_spec(*data(SPEC_DUMP))
    _check_same_container(tar, config, spec)
    deleted = metadata.parse_deleted_files(*data(DELETED_FILES)) if DELETED_FILES in by_name else ()
    diff = by_name.get(ROOTFS_DIFF)
    return Contents(
        members=members,
        ignored=ignored,
        config=config,
        spec=spec,
        bind_mounts=metadata.parse_bind_mounts(*data(BIND_MOUNTS)) if BIND_MOUNTS in by_name else (),
        deleted_files=deleted,
        rootfs_diff=_check_rootfs_diff(tar, diff, deleted, limits) if diff else None,
    )


def _select_members(tar: Span, all_members: Sequence[Member]) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Return the members of the checkpoint, and the names of the rest.

    Unknown files, perhaps added by a later CRI-O, are ignored. Links and special files are refused.
    """
    members = []
    ignored = []
    for member in all_members:
        if member.kind not in (Kind.FILE, Kind.DIRECTORY):
            tar.refuse(f"{quoted(member.name)} is {member.kind.value}; a checkpoint archive has only files")
        if not member.name.isprintable():
            tar.refuse(f"{quoted(member.name)} is not a printable name")
        expected = _expected_kind(member.name)
        if expected is None:
            ignored.append(member.name)
        elif member.kind is not expected:
            tar.refuse(f"{quoted(member.name)} is {member.kind.value}; expected {expected.value}")
        elif member.name.count("/") > 1:
            tar.refuse(f"{quoted(member.name)} is too deep; CRIU's files lie side by side")
        elif member.name:
            members.append(member)
    return tuple(members), tuple(ignored)


def is_of_checkpoint(name: str) -> bool:
    """Whether a checkpoint archive has a file of this name."""
    return _expected_kind(name) is Kind.FILE


def _expected_kind(name: str) -> Kind | None:
    """Return the kind of member with this name in a checkpoint archive; None for unknown names."""
    if name in ("", CHECKPOINT_DIRECTORY):
        return Kind.DIRECTORY
    if name in _FILES or name.startswith(f"{CHECKPOINT_DIRECTORY}/"):
        return Kind.FILE
    return None


def _read_small(tar: Span, member: Member, limits: Limits) -> tuple[bytes, str]:
    """Return the content of a JSON member, and its label for messages."""
    if member.size_bytes > limits.json_bytes:
        tar.refuse(f"{quoted(member.name)} is {member.size_bytes} bytes long; the limit is {limits.json_bytes}")
    return tar.read(member.offset, member.size_bytes), f"{tar.label}: {quoted(member.name)}"


def _check_same_container(tar: Span, config: ContainerConfig, spec: Spec) -> None:
    annotated = spec.annotations.get(metadata.CONTAINER_ID_ANNOTATION)
    if annotated not in (None, config.id):
        tar.refuse(f"{quoted(CONFIG_DUMP)} is of the container {config.id}, {quoted(SPEC_DUMP)} of {quoted(annotated)}")


def _check_rootfs_diff(tar: Span, member: Member, deleted_files: Sequence[str], limits: Limits) -> RootfsDiff:
    """Check the files that CRI-O unpacks, and then deletes, in the restored container's root.

    CRI-O does so as root and outside the container, and a link may lead anywhere on the node, so no path may pass
    through a link. An application's files may include links. Device nodes are refused, and so are hard links to
    symbolic links: CRI-O may set permissions through them.
    """
    diff = Span(
        tar.fd,
        member.offset,
        member.offset + member.size_bytes,
        f"{tar.label}: {quoted(ROOTFS_DIFF)}",
    )
    entries = tarball.list_members(diff, max_members=limits.members)
    files: set[str] = set()
    symlinks: set[str] = set()
    for entry in entries:
        if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            diff.refuse(f"{quoted(entry.name)} is {entry.kind.value}")
        if entry.kind is Kind.HARDLINK and entry.link.removeprefix("./") not in files:
            diff.refuse(f"{quoted(entry.name)} is a hard link to {quoted(entry.link)}, which is no file before it")
        if entry.kind is Kind.SYMLINK:
            symlinks.add(entry.name)
        elif entry.kind is not Kind.DIRECTORY:
            files.add(entry.name)
    for path in deleted_files:
        names = [name for name in path.split("/") if name not in ("", ".")]
        for parent in accumulate(names[:-1], "{}/{}".format):
            if parent in files or parent in symlinks:
                tar.refuse(
                    f"{quoted(DELETED_FILES)}: {quoted(path)} lies beneath {quoted(parent)}, "
                    f"which {quoted(ROOTFS_DIFF)} makes something else than a directory"
                )
    return RootfsDiff(len(entries), member.size_bytes, entries)


def unpack(tar: Span, members: Sequence[Member], into: Path, *, skip: Callable[[Member], int] = lambda _: 0) -> None:
    """Unpack members of a checked tar into a new directory, like `extract_archive`.

    Args:
        tar: the tar.
        members: the members to unpack.
        into: the new directory, in an existing one.
        skip: number of bytes to leave out at the start of a member's content; the file has a hole there.

    Raises:
        ArchiveError: the file was truncated in the meantime.
        HostError: `into` cannot be made or written to.
    """
    with ExitStack() as undo:
        try:
            into.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, into, ignore_errors=True)
            root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.mkdir(CHECKPOINT_DIRECTORY, 0o700, dir_fd=root)
                for member in members:
                    if member.kind is Kind.FILE:
                        _unpack_file(tar, member, root, skip(member))
            finally:
                os.close(root)
        except OSError as error:
            raise HostError(f"{into}: cannot unpack {tar.label} there: {error.strerror}") from error
        undo.pop_all()


def _unpack_file(tar: Span, member: Member, root: int, skip_bytes: int) -> None:
    """Copy a member's content, on Linux within the kernel.

    sendfile was as fast as copy_file_range, and works between any two filesystems. Extents cannot be shared, since a
    tar aligns to 512 bytes and filesystems to 4096.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(member.name, flags, 0o600, dir_fd=root)
    try:
        os.ftruncate(fd, skip_bytes)
        os.lseek(fd, skip_bytes, os.SEEK_SET)
        offset = member.offset + skip_bytes
        end = member.offset + member.size_bytes
        while offset < end:
            copied = _copy(fd, tar.fd, offset, end - offset)
            if not copied:
                tar.refuse(f"was truncated while {quoted(member.name)} was read")
            offset += copied
    finally:
        os.close(fd)


def _copy(target: int, source: int, offset: int, size: int) -> int:
    """Append at most `size` bytes to `target`, and return their number; 0 at the end of `source`."""
    if sys.platform != "linux":  # the others send files to sockets only
        return os.write(target, os.pread(source, min(size, _CHUNK_BYTES), offset))
    return os.sendfile(target, source, offset, min(size, _COPY_BYTES))
