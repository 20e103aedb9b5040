"""Read the kernel state of a container on a node of a cluster, with a helper pod that sees the node's processes.

The helper has only a shell and a few programs. It writes out files and links of /proc, and here they become a directory
that is read like a procfs. So only that part of the state is known which files of /proc show: not the options of
sockets, for example, and not what only a thread itself can read.

Everything that the helper writes is untrusted: a container chooses the targets of its links. They are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from warmstart.core.errors import ClusterError
from warmstart.core.workspace import open_workspace
from warmstart.dump.proc.status import read_status
from warmstart.dump.state.model import IDENTITY, Facts, KernelState
from warmstart.dump.state.read import read_state
from warmstart.kube.helper import Helper
from warmstart.kube.pods import ContainerState

LIMIT_S = 30.0
LIMIT_BYTES = 64 << 20
#: Prints `PATH:LINE` for each line of files below /proc, and `@PATH TARGET` for links; the argument is the container's
#: id, which its cgroup has in its name. Mappings have many lines, of which two matter.
SCRIPT = """\
cd /proc || exit
for pid in $(grep -ls -- "$1" [0-9]*/cgroup | cut -d / -f 1); do
    cd "/proc/$pid" 2>/dev/null || continue
    tasks=$(ls task)
    cd /proc
    grep -sH '' "$pid/status" "$pid/stat" "$pid/limits" "$pid/timers" "$pid/autogroup" "$pid/oom_score_adj" \\
        "$pid/personality" "$pid/coredump_filter" "$pid/net/igmp" "$pid/net/igmp6" "$pid/net/mcfilter" \\
        "$pid"/task/*/status "$pid"/task/*/stat "$pid"/fdinfo/*
    grep -sHE '^(VmFlags|ProtectionKey):' "$pid/smaps"
    for task in $tasks; do
        grep -sH '' "$task/timerslack_ns"
    done
    for link in "$pid/cwd" "$pid/root" "$pid"/ns/* "$pid"/fd/*; do
        target=$(readlink "$link") && printf '@%s %s\\n' "$link" "$target"
    done
done
exit 0
"""
_ID = re.compile(r"[0-9a-f]{64}")
_NAMES = "status|stat|limits|timers|autogroup|oom_score_adj|personality|coredump_filter|smaps|timerslack_ns"
_FILE = re.compile(
    rf"([0-9]{{1,10}}/(?:{_NAMES}|net/(?:igmp6?|mcfilter)|task/[0-9]{{1,10}}/stat(?:us)?|fdinfo/[0-9]{{1,10}})):(.*)"
)
# Not those of the PID namespace: by their numbers, processes of this machine could be taken for those of the node.
_LINK = re.compile(r"@([0-9]{1,10}/(?:cwd|root|ns/(?!pid)[a-z_]{1,32}|fd/[0-9]{1,10})) (.+)")
#: Facts that belong to a machine: its processors, and whose user may read a directory of its /proc.
OF_THE_MACHINE = frozenset({"Cpus_allowed_list", "Mems_allowed_list", "dumpable", "nice value of the session"})


def read_state_on_node(helper: Helper, container: ContainerState) -> KernelState:
    """Read the kernel state of a container; empty if it has ended, or its runtime's id is not known.

    Args:
        helper: a helper on its node that sees processes.
        container: the container.

    Raises:
        ClusterError: the helper failed, or wrote too much.
    """
    number = container.runtime_id.rpartition("://")[2]
    if not _ID.fullmatch(number):
        return KernelState()
    data = bytearray()

    def write(piece: bytes) -> None:
        data.extend(piece)
        if len(data) > LIMIT_BYTES:
            raise ClusterError(f"the processes of the container {container.name} have more than {LIMIT_BYTES} bytes")

    try:
        helper.run(["sh", "-c", SCRIPT, "sh", number], write, LIMIT_S)
    except TimeoutError as late:
        raise ClusterError(f"the node {helper.pod.node} does not show its processes within {LIMIT_S:g} s") from late
    return parse_processes(data.decode(errors="replace"))


def settle_on_node(before: KernelState, helper: Helper, container: ContainerState) -> KernelState:
    """Read the state again after the checkpoint, and keep the facts that were the same before it.

    Raises:
        ClusterError: as for `read_state_on_node`.
    """
    if not before:
        return before
    return before.agree(read_state_on_node(helper, container)) or before


def parse_processes(text: str) -> KernelState:
    """Return the kernel state of the processes in a helper's output; empty if there are none."""
    with open_workspace("state") as proc:
        pids = set(_write_processes(proc, text))
        with contextlib.suppress(OSError, ValueError, LookupError):
            state = read_state(proc, _find_first(proc, pids))
            return KernelState(dict(_select(state.subjects)))
    return KernelState()


def _write_processes(proc: Path, text: str) -> Iterator[int]:
    """Make files and links of the output, and yield the processes that have a status."""
    files: dict[str, list[str]] = {}
    links: dict[str, str] = {}
    for line in text.split("\n"):
        if found := _FILE.fullmatch(line):
            files.setdefault(found[1], []).append(found[2])
        elif found := _LINK.fullmatch(line):
            links.setdefault(found[1], found[2])
    for name, lines in files.items():
        path = proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))
        pid, _, rest = name.partition("/")
        if rest == "status":
            yield int(pid)
    for name, target in links.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):  # a target too long for a link
            os.symlink(target, proc / name)  # noqa: PTH211


def _find_first(proc: Path, pids: Collection[int]) -> int:
    """Return the first process of a container: the parent of the others is among them.

    A command that runs by exec has no parent there either, but a higher number.
    """
    parents = {pid: int(read_status(proc / str(pid))["PPid"]) for pid in pids}
    return min(pid for pid in pids if parents[pid] not in pids)


def _select(subjects: Mapping[str, Facts]) -> Iterator[tuple[str, Facts]]:
    """Yield the facts that can be compared with those on another machine. Of sockets, too little is known."""
    for subject, facts in subjects.items():
        if not facts.get(IDENTITY, "").startswith("socket:"):
            yield subject, {name: value for name, value in facts.items() if name not in OF_THE_MACHINE}
