"""Find open and mapped files of a container that would prevent a dump or restore.

CRIU handles files in `dump_one_file` of `criu/files.c` and in `criu/files-reg.c`, and mappings in `handle_vma` of
`criu/proc_parse.c`, of https://github.com/checkpoint-restore/criu (4.2). CRI-O passes neither `link-remap` nor
`ghost-limit` (`CheckpointContainer` in its `internal/oci/runtime_oci.go`), gives each pod a new /dev/shm
(`internal/lib/sandbox/infra_linux.go`), and puts only the container's own filesystem into a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.mountinfo import MountInfo
from warmstart.dump.edit.sizes import FILES_OF_POD
from warmstart.dump.preflight.finding import Finding, error, warning
from warmstart.dump.proc.container import (
    GONE,
    Container,
    Link,
    Process,
    closing_descriptor,
    is_below,
    open_below_root,
    read_descriptor_info,
    strip_deleted,
)

GHOST_LIMIT_BYTES = 1 << 20  # DEFAULT_GHOST_LIMIT in criu/include/cr_options.h
BLOCK_BYTES = 512  # unit of st_blocks
HOLES_LIMIT_BYTES = 64 << 20

_IN_SHM = "file-in-dev-shm"
# What only the runtime cannot restore.
_BY_RUNTIME = frozenset({_IN_SHM, "file-of-cgroup"})
_SHM = "/dev/shm"  # noqa: S108  (the mount, not a directory for temporary files)
# Files in the kernel's internal tmpfs mount, dumped with their contents (`is_memfd`, `is_anon_shmem_map`), the rings of
# aio(7), and huge pages.
_ANONYMOUS_FILES = ("/memfd:", "/dev/zero", "/SYSV", "/[aio]", "/anon_hugepage")
# Mounted anew in every container and filled by the kernel: their files are not in an image.
_CGROUPS = frozenset({"cgroup", "cgroup2"})
_KERNEL_FILE_SYSTEMS = _CGROUPS | {
    *("proc", "sysfs", "devpts", "mqueue", "devtmpfs", "debugfs", "tracefs", "securityfs"),
}
# Since 1.50, libuv creates a ring for each loop whatever its environment says (`uv__platform_loop_init` and
# `uv__use_io_uring` in src/unix/linux.c of https://github.com/libuv/libuv), and works without one if denied.
_NO_IO_URING = (
    "Let the runtime's default seccomp profile deny it (a privileged container has none), or switch it off in the "
    "application: uvicorn with --loop asyncio, Node.js with UV_USE_IO_URING=0 if its libuv is older than 1.50."
)
# `dump_one_file`; inotify and fanotify are checked elsewhere.
_SUPPORTED_ANON = frozenset({"[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "[pidfd]", "inotify", "[fanotify]"})
_KNOWN_ANON = {
    "[io_uring]": ("io-uring", _NO_IO_URING),
    "[perf_event]": ("perf-event", "Stop the profiler before the checkpoint."),
    "[userfaultfd]": ("userfaultfd", "Switch off the library that handles page faults itself."),
}

_KEEP_SHM = (
    "Close and delete it before the checkpoint, keep it elsewhere (PostgreSQL: dynamic_shared_memory_type=mmap), or "
    "set `restore: [self]`: an image that restores itself keeps files in /dev/shm."
)
_MAX_NAMES = 5
_PLAIN_FILE_SYSTEMS = frozenset({"overlay", "tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"})
# The header of a database file: its first bytes, and the versions for writing and reading, 2 of which have a log in
# place of a journal. Source: https://www.sqlite.org/fileformat2.html.
_SQLITE, _SQLITE_VERSIONS, _WITH_JOURNAL = b"SQLite format 3\0", slice(18, 20), b"\1\1"

# A line of fdinfo, see proc_pid_fdinfo(5).
_LEASE = re.compile(r"lock:\t\d+: LEASE ")

_MEM_MAJOR = 1
_MISC_MAJOR = 10
_TUN_MINOR = 200
_AUTOFS_MINOR = 235
_PTY_MAJORS = range(128, 144)
_SERIAL_MAJORS = (188, 204)
_TTY_MAJOR = 4
_TTY_AUX_MAJOR = 5
_LAST_CONSOLE = 63
_GPU_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")


def find_in_files(container: Container, *, by_runtime: bool = True) -> Iterator[Finding]:
    """Check all descriptors except sockets, and all mapped files, of the container's processes.

    Args:
        container: the container.
        by_runtime: whether the runtime is to restore it; the launcher keeps the files in /dev/shm.
    """
    found = list(_find_in_use(container))
    yield from (each for each in found if by_runtime or each.code not in _BY_RUNTIME)
    if by_runtime and not any(each.code == _IN_SHM for each in found):
        yield from _check_shm(container)


def _find_in_use(container: Container) -> Iterator[Finding]:
    for process, descriptor in container.each_descriptor():
        with contextlib.suppress(*GONE):
            found = {each.code for each in _check_opened_now(container, process, descriptor)}
            # While one was looked at, it may have been another file with the same number. So look twice.
            confirmed = _check_opened_now(container, process, descriptor) if found else []
            yield from (each for each in confirmed if each.code in found)
    for process, mapped in container.each_mapped_file():
        with contextlib.suppress(*GONE):
            yield from _check_mapped(container, process, mapped)


def _check_opened_now(container: Container, process: Process, descriptor: Link) -> list[Finding]:
    found = [*_check_descriptor(container, process, descriptor), *_check_database(container, process, descriptor)]
    return [each for each in found if descriptor.is_unchanged()]


def _check_descriptor(container: Container, process: Process, descriptor: Link) -> Iterator[Finding]:
    target = descriptor.target
    if target.startswith("anon_inode:"):
        yield from _check_anon(container, process, descriptor)
    elif target.startswith("pipe:["):
        yield from _check_pipe(process, descriptor)
    elif target.startswith("/") and not target.startswith(_ANONYMOUS_FILES[0]):
        yield from _check_opened(container, process, descriptor)


def _check_shm(container: Container) -> Iterator[Finding]:
    """Check for files in /dev/shm that nobody has open, such as named shared memory between two uses."""
    try:
        with open_below_root(container.proc, container.first.pid, _SHM, os.O_RDONLY | os.O_DIRECTORY) as directory:
            names = sorted(os.listdir(directory))  # noqa: PTH208  (a descriptor)
    except PermissionError:
        raise
    except OSError:  # there is none, or planted links
        return
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        what = f"There are files in {_SHM} ({', '.join(names[:_MAX_NAMES])}{more}), which is empty in a restored pod."
        yield warning("file-in-dev-shm", container.first, what, _KEEP_SHM)


def _check_database(container: Container, process: Process, descriptor: Link) -> Iterator[Finding]:
    """Check for an SQLite database with a rollback journal.

    Before it writes, SQLite compares the inode number of the path with that of the open file (`databaseIsUnmoved` in
    src/pager.c of https://sqlite.org/src), and a restored file has another.
    """
    path, deleted = strip_deleted(descriptor.target)
    if deleted or not path.startswith("/"):
        return
    info = read_descriptor_info(descriptor)
    # Another open would break a lease: the application gets a signal, and the open waits for it, up to 45 seconds.
    if info.flags & os.O_ACCMODE != os.O_RDWR or any(_LEASE.match(line) for line in info.lines):
        return
    if _read_start(container, descriptor)[_SQLITE_VERSIONS] == _WITH_JOURNAL:
        what = f"It has the SQLite database {path} open, and could only read it after a restore: the file is another."
        fix = "Switch it to a write-ahead log (PRAGMA journal_mode=WAL), or close it before the checkpoint."
        yield warning("sqlite-journal", process, what, fix)


def _read_start(container: Container, descriptor: Link) -> bytes:
    """Read the header of a database; empty if it is none.

    A device or a file system of the container's own could keep its reader waiting, so these are not opened. The end
    of a lease that was taken meanwhile is not awaited.
    """
    with closing_descriptor(os.open(descriptor.path, os.O_PATH | os.O_CLOEXEC)) as pinned:
        own = Link(Path(f"/proc/self/fd/{pinned}"), "")
        mount_id = read_descriptor_info(own).mount_id
        kinds = {mount.kind for mount in container.mounts if mount.mount_id == mount_id}
        if not stat.S_ISREG(os.fstat(pinned).st_mode) or not kinds or not kinds <= _PLAIN_FILE_SYSTEMS:
            return b""
        try:
            number = os.open(own.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except BlockingIOError:
            return b""
        with closing_descriptor(number) as opened:
            start = os.pread(opened, _SQLITE_VERSIONS.stop, 0)
    return start if start.startswith(_SQLITE) else b""


def _check_anon(container: Container, process: Process, descriptor: Link) -> Iterator[Finding]:
    kind = descriptor.target.removeprefix("anon_inode:")
    if kind == "[pidfd]":
        yield from _check_pidfd(container, process, descriptor)
    elif kind == "bpf-map":  # supported only by CRIU with libbpf
        what = "It holds a BPF map, which many builds of CRIU do not support."
        yield warning("bpf-map", process, what, "Have it closed before the checkpoint.")
    elif kind not in _SUPPORTED_ANON:
        yield _refuse_anon(process, kind)


def _refuse_anon(process: Process, kind: str) -> Finding:
    code, fix = _KNOWN_ANON.get(kind, ("anon-inode", "Let the application close it before the checkpoint."))
    return error(code, process, f"It uses {kind.strip('[]')}, and CRIU does not support it.", fix)


def _check_pidfd(container: Container, process: Process, descriptor: Link) -> Iterator[Finding]:
    """Check a pidfd like `dump_one_pidfd` in criu/pidfd.c."""
    info = read_descriptor_info(descriptor)
    target = next((int(line.split()[1]) for line in info.lines if line.startswith("Pid:")), -1)
    inside = target == -1 or any(each.pid == target for each in container.processes)  # -1: it has ended
    if not inside or info.flags & os.O_EXCL:  # PIDFD_THREAD
        owner = "a single thread" if inside else "a process outside the container"
        what = f"It holds a pidfd of {owner}, which CRIU cannot restore."
        yield error("pidfd", process, what, "Have the application close it before the checkpoint.")


def _check_pipe(process: Process, descriptor: Link) -> Iterator[Finding]:
    """Check a pipe like `dump_one_pipe` in criu/pipes.c."""
    if read_descriptor_info(descriptor).flags & os.O_DIRECT:
        what = f"Its {descriptor.target} is in packet mode (O_DIRECT), which CRIU does not support."
        yield error("pipe-packet", process, what, "Open the pipe without O_DIRECT.")


def _check_opened(container: Container, process: Process, descriptor: Link) -> Iterator[Finding]:
    info = descriptor.path.stat()
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        yield from _check_device(process, descriptor, info)
    if any(mount.device == info.st_dev and mount.kind == "mqueue" for mount in container.mounts):
        return  # a message queue: its whole mount is checked elsewhere
    mount_id = read_descriptor_info(descriptor).mount_id
    mount = next((each for each in container.mounts if each.mount_id == mount_id), None)
    if mount is None:
        what = f"Its open file {descriptor.target} lies in none of the container's mounts."
        yield error("file-outside", process, what, "Have the application close it before the checkpoint.")
    else:
        yield from _check_file(container, process, descriptor.target, mount, info)


def _check_device(process: Process, descriptor: Link, info: os.stat_result) -> Iterator[Finding]:
    """Check a device: `dump_chrdev` in criu/files.c, `get_tty_driver` in criu/tty.c, `dump_tunfile` in criu/tun.c."""
    path, _ = strip_deleted(descriptor.target)
    number = (os.major(info.st_rdev), os.minor(info.st_rdev))
    if number == (_MISC_MAJOR, _TUN_MINOR):
        lines = read_descriptor_info(descriptor).lines
        if any(line.startswith("iff:") and line[4:].strip() for line in lines):  # the network is not in the dump
            what = "It has made a network interface through /dev/net/tun, which a restored pod does not have."
            yield error("tun", process, what, "Take the interface down before the checkpoint.")
    elif stat.S_ISBLK(info.st_mode) or not _is_known_device(*number):
        yield _refuse_device(process, path)


def _is_known_device(major: int, minor: int) -> bool:
    if major in (_MEM_MAJOR, *_SERIAL_MAJORS, *_PTY_MAJORS):
        return True
    if major == _TTY_MAJOR:
        return minor <= _LAST_CONSOLE
    return (major == _TTY_AUX_MAJOR and minor <= 2) or (major, minor) == (_MISC_MAJOR, _AUTOFS_MINOR)


def _refuse_device(process: Process, path: str) -> Finding:
    if path.startswith(_GPU_DEVICES):  # plugins/cuda and plugins/amdgpu
        what = f"It uses the GPU by {path}, which restores only with CRIU's plugin for it and on a node that has one."
        return warning("gpu-device", process, what, "Build without the GPU, or first use it after the restore.")
    what = f"It uses the device {path}, which CRIU does not support."
    return error("device", process, what, "Have the application close it before the checkpoint.")


def _check_file(
    container: Container, process: Process, target: str, mount: MountInfo, info: os.stat_result
) -> Iterator[Finding]:
    path, deleted = strip_deleted(target)
    if mount.kind in _CGROUPS and stat.S_ISREG(info.st_mode):
        what = f"It has {path} open, which the runtime restores as a file of another cgroup, or as an empty one."
        yield warning("file-of-cgroup", process, what, "Close it before the checkpoint, or set `restore: [self]`.")
    if mount.kind in _KERNEL_FILE_SYSTEMS:
        return
    if deleted:
        yield from _check_deleted(process, path, info)
    elif _is_hidden(container, process, path, info):
        what = f"Its file {path} is in use, but that path now leads elsewhere: to another file, or into another mount."
        yield error("file-hidden", process, what, "Have the application open it again before the checkpoint.")
    elif stat.S_ISREG(info.st_mode) and mount.mount_point not in container.volumes:  # those are checked elsewhere
        yield from _check_location(process, path, mount.mount_point)
        if mount.mount_point == "/":
            yield from _check_holes(process, path, info)


def _is_hidden(container: Container, process: Process, path: str, info: os.stat_result) -> bool:
    """Apply the last test of `check_path_remap` in criu/files-reg.c."""
    own, first = container.resources.get(process.pid), container.resources.get(container.first.pid)
    if own is None or first is None or own.namespaces["mnt"] != first.namespaces["mnt"]:
        return False
    try:
        with open_below_root(container.proc, container.first.pid, path, os.O_PATH | os.O_NOFOLLOW) as opened:
            visible = os.fstat(opened)
    except PermissionError:
        raise
    except OSError:  # gone, or planted links: ENOENT, ENOTDIR, ELOOP
        return True
    return (visible.st_dev, visible.st_ino) != (info.st_dev, info.st_ino)


def _check_deleted(process: Process, path: str, info: os.stat_result) -> Iterator[Finding]:
    """Check a deleted file like `check_path_remap` and `dump_ghost_remap` in criu/files-reg.c."""
    size_bytes = info.st_blocks * BLOCK_BYTES
    if info.st_nlink:  # by another name, or in a lower layer of the image
        what = f"Its file {path} has been deleted, or replaced, while it is in use and exists elsewhere."
        fix = "Leave the file where it is until the checkpoint has been taken, or restart what uses it before."
        yield error("deleted-file-linked", process, what, fix)
    elif stat.S_ISREG(info.st_mode) and size_bytes > GHOST_LIMIT_BYTES:
        what = (
            f"Its file {path} has been deleted while it is in use, and its {size_bytes} bytes are more than CRIU keeps."
        )
        fix = f"Close it before the checkpoint, or keep it under {GHOST_LIMIT_BYTES} bytes."
        yield error("deleted-file-large", process, what, fix)


def _check_location(process: Process, path: str, mount_point: str) -> Iterator[Finding]:
    if is_below(path, _SHM):
        what = f"Its file {path} is in use, and a restored pod starts with an empty {_SHM}."
        yield error("file-in-dev-shm", process, what, _KEEP_SHM)
    elif mount_point in FILES_OF_POD:
        return  # with any size
    elif mount_point != "/":
        what = f"Its file {path} is in use and lies on the volume {mount_point}, which is not part of the image."
        fix = "Give the restored pod a volume that holds this file in the same size, or keep it outside of volumes."
        yield warning("file-on-volume", process, what, fix)


def _check_holes(process: Process, path: str, info: os.stat_result) -> Iterator[Finding]:
    """Check for a large sparse file: runtimes and images have its holes as zeros, in each container."""
    holes_bytes = info.st_size - info.st_blocks * BLOCK_BYTES
    if holes_bytes > HOLES_LIMIT_BYTES:
        what = (
            f"Its file {path} has {holes_bytes >> 20} MiB of holes, which images cannot have: each restored container "
            "would write them as zeros."
        )
        fix = "Create it after the restore, or with a smaller size (LMDB: map size), or keep it on a lasting volume."
        yield error("sparse-file", process, what, fix)


def _check_mapped(container: Container, process: Process, mapped: Link) -> Iterator[Finding]:
    target = mapped.target
    if target == "[uprobes]":  # handle_vma, without `allow-uprobes`
        what = "It is being watched by probes in its code (uprobes)."
        yield error("uprobes", process, what, "Stop the tracer, such as bpftrace or perf, before the checkpoint.")
    elif target.startswith("anon_inode:"):
        yield _refuse_anon(process, target.removeprefix("anon_inode:"))
    elif target.startswith("/") and not target.startswith(_ANONYMOUS_FILES):
        found = list(_check_mapped_file(container, process, mapped))
        yield from (each for each in found if mapped.is_unchanged())


def _check_mapped_file(container: Container, process: Process, mapped: Link) -> Iterator[Finding]:
    info = mapped.path.stat()
    mount = container.mount_of(strip_deleted(mapped.target)[0])
    if stat.S_ISREG(info.st_mode) and mount is not None:
        yield from _check_file(container, process, mapped.target, mount, info)
    elif stat.S_ISCHR(info.st_mode):  # /dev/zero is already excluded
        yield _refuse_device(process, mapped.target)
