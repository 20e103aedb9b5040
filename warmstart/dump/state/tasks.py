"""Read the facts about processes and threads. Source: proc(5), `Documentation/filesystems/proc.rst` of the kernel."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from warmstart.core.linux import read_io_priority, read_scheduling
from warmstart.dump.proc.status import read_limits, read_status, read_text
from warmstart.dump.state.model import NAME, Facts

#: Fields of /proc/PID/task/TID/status that are compared as they are.
THREAD_FIELDS = (
    "Uid",
    "Gid",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "Cpus_allowed_list",
    "Mems_allowed_list",
    "SigBlk",
    "x86_Thread_features",
    "x86_Thread_features_locked",
)
#: The same of /proc/PID/status, for those that all threads share.
PROCESS_FIELDS = ("Umask", "SigIgn", "SigCgt", "THP_enabled", "untag_mask")
#: Files of /proc/PID that hold one value.
PROCESS_FILES = ("oom_score_adj", "personality", "coredump_filter")
#: Flags of mappings (VmFlags in /proc/PID/smaps) that a process asks for with madvise(2), mlock(2) and mprotect(2).
MAPPING_FLAGS = {
    "lo": "locked",
    "dc": "not inherited by fork",
    "wf": "wiped on fork",
    "dd": "not in core dumps",
    "hg": "huge pages",
    "nh": "no huge pages",
    "mg": "mergeable",
    "sr": "read in sequence",
    "rr": "read at random",
    "ss": "shadow stack",
    "sl": "sealed",
}
#: Flags of mappings that the kernel made: no expansion, I/O, page frames.
_KERNELS = {"de", "io", "pf"}
POLICIES = {"0": "other", "1": "fifo", "2": "round robin", "3": "batch", "5": "idle", "6": "deadline", "7": "ext"}

_TIMER = re.compile(r"^ID: (\d+)\nsignal: (\d+)/.*\nnotify: (\w+)/(\w+)\.\d+\nClockID: (-?\d+)", re.MULTILINE)


def read_link(path: str) -> str:
    """Read a link of /proc, of which the target need not be a path."""
    return os.fsencode(os.readlink(path)).decode(errors="replace")  # noqa: PTH115


def read_thread(proc: str, tasks: int, name: str, depth: int) -> tuple[int, Facts]:
    """Read a thread.

    Args:
        proc: a procfs.
        tasks: descriptor of the directory of its process's threads in that procfs.
        name: name of the thread in that directory.
        depth: number of PID namespaces from the container's to the innermost one.

    Returns:
        Its number in the container, and its facts.
    """
    status = read_status(name, tasks)
    facts = {NAME: status["Name"]}
    facts |= {name: status[name].replace("\t", " ") for name in THREAD_FIELDS if name in status}
    # Some runtimes list the effective group among the supplementary ones.
    groups = {*map(int, status.get("Groups", "").split()), int(status["Gid"].split()[1])}
    facts["Groups"] = " ".join(map(str, sorted(groups)))
    fields = _parse_stat(read_text(f"{name}/stat", tasks))
    facts |= {"nice": fields[16], "policy": POLICIES.get(fields[38], fields[38]), "real-time priority": fields[37]}
    with contextlib.suppress(OSError):
        facts["timer slack"] = read_text(f"{proc}/{name}/timerslack_ns").strip()
    return int(status["NSpid"].split()[-depth]), facts


def read_process(directory: str, root: str) -> Facts:
    """Read the facts that all threads of a process share.

    Args:
        directory: directory of the process in a procfs.
        root: root directory of the container's first process; paths are relative to it.
    """
    status = read_status(directory)
    facts = {NAME: status["Name"]}
    facts |= {name: status[name] for name in PROCESS_FIELDS if name in status}
    facts |= {"session": status["NSsid"].split()[-1], "process group": status["NSpgid"].split()[-1]}
    facts["terminal"] = "none" if _parse_stat(read_text(f"{directory}/stat"))[4] == "0" else "yes"
    for name in PROCESS_FILES:
        facts[name] = read_text(f"{directory}/{name}").strip()
    facts |= dict(_read_paths(directory, root.rstrip("/")))
    with contextlib.suppress(OSError, IndexError):  # a kernel without groups for sessions
        facts["nice value of the session"] = read_text(f"{directory}/autogroup").split()[2]
    facts |= {f"limit {name}": f"{soft} {hard}" for name, (soft, hard) in read_limits(directory).items()}
    with contextlib.suppress(OSError):  # a kernel without POSIX timers
        facts["timers"] = ",".join(" ".join(found) for found in _TIMER.findall(read_text(f"{directory}/timers")))
    facts |= _read_mappings(directory)
    user, group = status["Uid"].split()[1], status["Gid"].split()[1]
    if (user, group) != ("0", "0"):
        owner = os.stat(directory)  # noqa: PTH116
        facts["dumpable"] = "yes" if (str(owner.st_uid), str(owner.st_gid)) == (user, group) else "no"
    return facts


def read_priority(own_pid: int) -> Facts:
    """Read the I/O priority of a process.

    Args:
        own_pid: the process in this process's PID namespace.
    """
    with contextlib.suppress(OSError):
        return {"I/O priority": str(read_io_priority(own_pid))}
    return {}


def read_attributes(own_number: int) -> Facts:
    """Read how a thread is scheduled.

    Args:
        own_number: the thread in this process's PID namespace.
    """
    with contextlib.suppress(OSError):
        found = read_scheduling(own_number)
        return {
            "scheduling flags": f"{found.flags:x}",
            "slice": str(found.slice_ns),
            "deadline": "{} {}".format(*found.deadline_ns),
            "utilization clamp": "{} {}".format(*found.clamp),
        }
    return {}


def _parse_stat(text: str) -> list[str]:
    """Return the fields of a stat file from the third on, which has index 0."""
    return text.rpartition(")")[2].split()


def _read_paths(directory: str, root: str) -> Iterator[tuple[str, str]]:
    for name in ("cwd", "root"):
        path = read_link(f"{directory}/{name}")
        yield name, path.removeprefix(root) or "/" if root and path.startswith(root) else path


def _read_mappings(directory: str) -> Facts:
    """Tell which flags any mapping has, except the kernel's own. Sizes change while the application runs."""
    text = read_text(f"{directory}/smaps")
    # A process has hundreds of mappings, of a few kinds.
    kinds = set(_find_values(text, "VmFlags:"))
    found = {flag for flags in map(str.split, kinds) if not _KERNELS.intersection(flags) for flag in flags}
    facts = {f"mappings {name}": "yes" for flag, name in MAPPING_FLAGS.items() if flag in found}
    if keys := {int(key) for key in set(_find_values(text, "ProtectionKey:"))} - {0}:
        facts["protection keys"] = ",".join(map(str, sorted(keys)))
    return facts


def _find_values(text: str, title: str) -> Iterator[str]:
    """Yield the ends of the lines that begin with a title."""
    for part in f"\n{text}".split(f"\n{title}")[1:]:
        yield part.partition("\n")[0]
