"""Read the activity of a container: its processor time, and the TCP ports that it listens on.

Both are kept by the kernel: /proc/PID/net/tcp of the pod's network namespace, and the files of its cgroup,
cpuacct.usage (nanoseconds) in cgroup v1 and cpu.stat in v2. A container can write to neither.

Compilers are recognised by the names of their threads. A container can choose these, so they only decide whether a
warm-up may end. /proc/PID/task/TID/schedstat begins with the processor time of a thread in nanoseconds.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from warmstart.core.errors import EngineError
from warmstart.dump.proc.container import GONE, list_namespace
from warmstart.dump.proc.socket_tables import list_listening
from warmstart.engine.target import Activity
from warmstart.node.cgroup import read_cgroup_file

#: Beginnings of the names of threads that compile code: HotSpot, Graal, OpenJ9, .NET.
COMPILERS = ("C1 Compiler", "C2 Compiler", "JVMCI Compiler", "JIT Compilation", ".NET Tiered Com")


def read_activity(proc: Path, pid: int) -> Activity:
    """Read the activity of the container of a process; `proc` is the /proc that its number refers to.

    Raises:
        EngineError: the process has ended, or its cgroup counts no processor time.
    """
    try:
        listening = list_listening(proc / str(pid))
        cpu_s = _read_cpu_s(proc / str(pid))
        compilers_s = _read_compilers_s(proc, pid)
    except OSError as error:
        raise EngineError(f"cannot read the container's activity: {error}") from error
    ports = frozenset(end.port for end in listening if not end.address.is_loopback)
    inner_ports = frozenset(end.port for end in listening if end.address.is_loopback)
    return Activity(cpu_s, ports, inner_ports - ports, compilers_s)


def _read_compilers_s(proc: Path, pid: int) -> dict[tuple[int, int], float]:
    compilers_s = {}
    for process in list_namespace(proc, pid):
        with contextlib.suppress(*GONE):
            for thread in (proc / str(process) / "task").iterdir():
                with contextlib.suppress(*GONE):
                    if (thread / "comm").read_bytes().decode(errors="replace").startswith(COMPILERS):
                        spent_ns = int((thread / "schedstat").read_text().split()[0])
                        compilers_s[process, int(thread.name)] = spent_ns / 1e9
    return compilers_s


def _read_cpu_s(process: Path) -> float:
    if (usage := read_cgroup_file(process, "cpuacct.usage")) is not None:
        return int(usage) / 1e9
    for line in (read_cgroup_file(process, "cpu.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    raise EngineError("cannot read the container's processor time: its cgroup does not count it")
