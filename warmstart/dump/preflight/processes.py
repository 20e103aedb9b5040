"""Find processes of a container that would prevent a dump, apart from their files and sockets.

Sources: `criu/seize.c`, `criu/cr-dump.c`, `criu/namespaces.c`, `criu/mount.c`, `criu/filesystems.c` of
https://github.com/checkpoint-restore/criu (4.2). Supported, and therefore not checked: zombies, seccomp filters, file
locks (CRI-O passes `file-locks`), System V semaphores and message queues, nested mount namespaces, a chroot of a child.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from warmstart.dump.preflight.finding import Finding, error, warning
from warmstart.dump.proc.container import (
    GONE,
    Container,
    Process,
    find_descendants,
    is_running,
    open_below_root,
    read_descriptor_info,
    read_process,
    read_processes,
)
from warmstart.dump.proc.other_processes import find_other_processes

# `dump_task_ns_ids`; a second network namespace fails because runtimes set `empty-ns` (`dump_one_netns` in criu/net.c).
_SINGLE_NAMESPACES = ("user", "pid", "ipc", "uts", "net", "cgroup", "time", "time_for_children")
_MASTERS = ("/dev/ptmx", "/dev/pts/ptmx")
_PTY_MAJORS = range(136, 144)
_TERMINAL_FIELD = 4  # of /proc/PID/stat, after the name
_UNINTERRUPTIBLE_CHECKS = 5
_OTHER_PROCESS_CHECKS = 5
_RECHECK_S = 0.05


_NOTIFIED = re.compile(r"^notify: \w+/tid\.(\d+)$", re.MULTILINE)


def find_in_processes(container: Container, *, by_runtime: bool = True) -> Iterator[Finding]:
    """Check the container's processes themselves.

    Args:
        container: the container.
        by_runtime: whether the runtime is to restore it.
    """
    for process in container.processes:
        try:
            if process.is_zombie:
                yield from _check_zombie(process)
                continue
            yield from _check_state(container, process)
            yield from _check_session(process)
            if container.resources.keys() >= {process.pid, container.first.pid}:
                yield from _check_namespaces(container, process)
                yield from _check_shared_memory(container, process)
                yield from _check_timers(container, process, by_runtime=by_runtime)
        except GONE:
            continue
    yield from _check_shared_code(container)
    if by_runtime:
        yield from _check_terminals(container)
    yield from _check_roots(container)
    yield from _check_message_queues(container)
    yield from _check_other_processes(container)


def _check_other_processes(container: Container) -> Iterator[Finding]:
    """Check for outside processes repeatedly, to ignore short-lived commands."""
    proc = container.proc
    # The tree of this very moment: the application may have started a process since.
    processes = read_processes(proc)
    if container.first.pid not in processes:
        return
    others = list(find_other_processes(proc, processes, find_descendants(processes, container.first.pid)))
    for _ in range(_OTHER_PROCESS_CHECKS):
        if not others:
            return
        time.sleep(_RECHECK_S)
        others = [each for each in others if is_running(proc, each)]
    for process in others:
        yield error(
            "not-in-tree",
            process,
            "It runs in the container, but does not descend from its first process, so the checkpoint would not "
            "contain it.",
            "End it before the checkpoint. If it is a daemon of the application's, have it stay in the foreground, or "
            "start it below a parent that does; a command of a probe, of a step or of kubectl exec ends by itself.",
        )


def _check_zombie(process: Process) -> Iterator[Finding]:
    if process.threads > 1:  # `collect_threads` in criu/seize.c
        yield error(
            "zombie-threads",
            process,
            "Its main thread has ended but other threads still run, and CRIU does not support this.",
            "Let the main thread wait for the others, for example with pthread_join.",
        )


def _check_state(container: Container, process: Process) -> Iterator[Finding]:
    if process.tracer_pid:
        yield error(
            "traced",
            process,
            f"Process {process.tracer_pid} traces it, and CRIU cannot.",
            "Detach the debugger or tracer before the checkpoint.",
        )
    elif process.state == "T" and _has_v1_freezer(container, process):
        # A stopped process in a frozen cgroup never responds to PTRACE_SEIZE: CRIU waits forever (observed with 4.2.1).
        yield error(
            "stopped",
            process,
            "It was stopped by a signal, and CRIU hangs on stopped processes with the freezer of cgroup v1.",
            "Let it continue (SIGCONT), or end it, before the checkpoint.",
        )
    elif process.state == "D" and _stays_uninterruptible(container, process):
        yield warning(
            "uninterruptible",
            process,
            "It is waiting in the kernel and cannot be frozen.",
            "Wait until its input or output is done.",
        )


def _has_v1_freezer(container: Container, process: Process) -> bool:
    groups = (container.proc / str(process.pid) / "cgroup").read_text()
    return any("freezer" in line.split(":")[1].split(",") for line in groups.splitlines())


def _stays_uninterruptible(container: Container, process: Process) -> bool:
    for _ in range(_UNINTERRUPTIBLE_CHECKS):
        time.sleep(_RECHECK_S)
        if read_process(container.proc, process.pid).state != "D":
            return False
    return True


def _check_session(process: Process) -> Iterator[Finding]:
    if process.inner_session == 0:  # `dump_one_task` in criu/cr-dump.c
        yield error(
            "session-outside",
            process,
            "The leader of its session is outside the container.",
            "Have the container's first process call setsid, as container runtimes do.",
        )


def _check_namespaces(container: Container, process: Process) -> Iterator[Finding]:
    outer, inner = container.resources[container.first.pid].namespaces, container.resources[process.pid].namespaces
    kinds = [kind for kind in _SINGLE_NAMESPACES if inner.get(kind) != outer.get(kind)]
    if kinds:
        names = ", ".join(dict.fromkeys(kind.removesuffix("_for_children") for kind in kinds))
        yield error(
            "nested-namespace",
            process,
            f"The process or its children have their own namespaces ({names}), and CRIU does not dump them.",
            "Switch off the application's sandbox or unshare step while it is built.",
        )


def _check_shared_memory(container: Container, process: Process) -> Iterator[Finding]:
    """Check like `check_sysvipc_map_dump` in criu/cr-dump.c: System V memory is dumped only with its namespace."""
    own = container.resources[process.pid]
    used = any(each.target.startswith("/SYSV") for each in own.mapped_files)
    if used and own.namespaces["ipc"] == container.parent_ipc:  # the runtime's, and so CRIU's
        yield error(
            "sysv-shm-host-ipc",
            process,
            "It uses System V shared memory in the host's IPC namespace. This memory is not dumped.",
            "Run the container without hostIPC.",
        )


def _check_shared_code(container: Container) -> Iterator[Finding]:
    """Check like `get_exec_start` in criu/parasite-syscall.c: CRIU writes its code into the first executable mapping.

    It does so by ptrace(2), and the kernel refuses to write to shared memory that the process itself cannot write to.
    """
    for process in container.processes:
        if process.pid in container.resources and _begins_with_shared_code(container.proc, process.pid):
            yield error(
                "shared-code",
                process,
                "Its first executable mapping is shared memory, for example the buffer of a just-in-time compiler, and "
                "CRIU cannot put its code there.",
                "Switch the compiler off, or let it use private memory (PHP: opcache.jit=disable and "
                "opcache.jit_buffer_size=0).",
            )
            return  # its children have the same mapping


def _begins_with_shared_code(proc: Path, pid: int) -> bool:
    try:
        lines = (proc / str(pid) / "maps").read_text(errors="replace").splitlines()
    except GONE:
        return False
    executable = [rights for rights in (line.split(maxsplit=2)[1] for line in lines) if "x" in rights]
    return bool(executable) and "w" not in executable[0] and executable[0].endswith("s")


def _check_timers(container: Container, process: Process, *, by_runtime: bool) -> Iterator[Finding]:
    """Check like `encode_notify_thread_id` in criu/timer.c: the container's PID namespace is not the runtime's."""
    directory = container.proc / str(process.pid)
    notified = set(_NOTIFIED.findall((directory / "timers").read_text()))
    if by_runtime and str(process.pid) in notified:
        yield error(
            "timer-of-main-thread",
            process,
            "A POSIX timer notifies its main thread by number (SIGEV_THREAD_ID), and the runtime cannot dump it.",
            "Let it notify the process (SIGEV_SIGNAL) or another thread, or restore with the launcher only (self).",
        )
    if notified - {path.name for path in (directory / "task").iterdir()}:
        yield error(
            "timer-of-ended-thread",
            process,
            "A POSIX timer notifies a thread that has ended (SIGEV_THREAD_ID), so it cannot be made again.",
            "Delete the timer (timer_delete) when the thread ends, or let the thread live on.",
        )


def _check_terminals(container: Container) -> Iterator[Finding]:
    """Check like `tty_verify_ctty` in criu/tty.c, which takes one end of a pseudo-terminal for the other."""
    masters: dict[str, Process] = {}
    for process, descriptor in container.each_descriptor():
        if descriptor.target in _MASTERS:
            with contextlib.suppress(*GONE):
                lines = read_descriptor_info(descriptor).lines
                masters |= {line.split()[1]: process for line in lines if line.startswith("tty-index:")}
    if not masters:
        return
    for process, descriptor in container.each_descriptor():
        holder = masters.get(_find_terminal(container, process)) if descriptor.target == "/dev/tty" else None
        if holder not in (None, process):
            yield error(
                "terminal",
                process,
                f"It has opened its pseudo-terminal as /dev/tty, and {holder.name} ({holder.pids[-1]}) has the other "
                "end of it. The runtime cannot dump it.",
                "Start the shell after the restore, or restore with the launcher only (self).",
            )


def _find_terminal(container: Container, process: Process) -> str:
    """Return the number of the pseudo-terminal that controls a process; "" if it has none or has ended."""
    with contextlib.suppress(*GONE):
        fields = (container.proc / str(process.pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        device = int(fields[_TERMINAL_FIELD])
        if os.major(device) in _PTY_MAJORS:
            return str(os.minor(device))
    return ""


def _check_roots(container: Container) -> Iterator[Finding]:
    """Check like `mntns_get_root_fd` in criu/mount.c: the first process of a mount namespace must see all of it."""
    seen: set[str] = set()
    for process in container.processes:
        if process.pid not in container.resources or container.resources[process.pid].namespaces["mnt"] in seen:
            continue
        seen.add(container.resources[process.pid].namespaces["mnt"])
        try:
            root = os.readlink(container.proc / str(process.pid) / "root")  # noqa: PTH115  (text, not a path of ours)
        except GONE:
            continue
        if root != "/":
            yield error(
                "chroot",
                process,
                f"Its root directory is {root}, not the root of its mount namespace.",
                "Start it without chroot.",
            )


def _check_message_queues(container: Container) -> Iterator[Finding]:
    """Check like `dump_empty_fs` in criu/filesystems.c."""
    for mount in container.mounts:
        if mount.kind != "mqueue":
            continue
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY
            with open_below_root(container.proc, container.first.pid, mount.mount_point, flags) as directory:
                queues = sorted(os.listdir(directory))  # noqa: PTH208  (a descriptor)
        except PermissionError:
            raise
        except OSError:  # gone, or planted links: ENOENT, ENOTDIR, ELOOP
            continue
        if queues:
            yield error(
                "mqueue",
                container.first,
                f"The container has POSIX message queues ({', '.join(queues[:5])}), and CRIU does not dump them.",
                "Have the application remove them (mq_unlink) before the checkpoint.",
            )
