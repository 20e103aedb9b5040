"""The rules of the comparison, as data: which facts must be kept, and the meaning of each loss.

A fact without a rule is not compared. SILENT names the facts that must or may differ, with the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from warmstart.dump.preflight.finding import Severity
from warmstart.dump.state.asked import INTERVAL_TIMERS, KEYRINGS
from warmstart.dump.state.ipc import TITLES
from warmstart.dump.state.model import GONE, IDENTITY, LANDLOCK, NAME, REGISTRATIONS, WATCHED
from warmstart.dump.state.sockets import list_options
from warmstart.dump.state.tasks import MAPPING_FLAGS

#: Decides whether a fact is lost. Args: the value before the dump; the value after the restore, "" if there is none.
IsLost = Callable[[str, str], bool]

#: The way out of a loss by the runtime.
_OR_SELF = ", or let the image restore itself (`restore: [self]`), which keeps it."
#: A suggested fix for each code.
FIXES: Mapping[str, str] = {
    "lost-restriction": "See docs/restrictions.md of warmstart for the restrictions that each restorer keeps.",
    "lost-timer": "Have the application set its timers after the restore, for example in a step of afterRestore.",
    "lost-eventfd": f"Use an eventfd without EFD_SEMAPHORE, or a pipe{_OR_SELF}",
    "lost-multicast": f"Have the application join its groups after the restore{_OR_SELF}",
    "lost-socket-option": f"Have the application set the option after the restore, or open the socket then{_OR_SELF}",
    "lost-lock": f"Take the lock after the restore{_OR_SELF}",
    "lost-affinity": f"Limit the processors with the pod's resources, or set it again after the restore{_OR_SELF}",
    "lost-scheduling": f"Set it again after the restore{_OR_SELF}",
    "lost-limit": "Set it again after the restore.",
    "lost-descriptor": "Have the application open or set up the descriptor again after the restore.",
    "lost-signal": "Set it again after the restore.",
    "lost-setting": "Set it again after the restore.",
    "lost-ipc": "Use POSIX shared memory, sockets or files, or have the application make it again after the restore.",
    "lost-key": "Have the application add the key again after the restore, for example in a step of afterRestore.",
    "lost-process": "If it ends by itself, ignore this. Otherwise start it after the restore.",
}


def _changed(old: str, new: str) -> bool:
    return old != new


def _set_before(old: str, new: str) -> bool:
    return old not in ("", "0", "no") and old != new


def _less(old: str, new: str) -> bool:
    return new != "" and int(new) < int(old)


def _some_missing(old: str, new: str) -> bool:
    return bool(set(old.split(",")) - set(new.split(",")) - {""})


def _grown(old: str, new: str) -> bool:
    """Whether a set, as a hexadecimal number, has grown."""
    return bool(int(new or "0", 16) & ~int(old, 16))


def _signals_missing(old: str, new: str) -> bool:
    return bool(int(old, 16) & ~int(new or "0", 16))


def _fewer(old: str, new: str) -> bool:
    return int(new or "0") < int(old)


def _speculates(old: str, new: str) -> bool:
    """Whether speculation was off by the process's own wish, and is on."""
    return ("mitigated" in old and "vulnerable" in new) or ("disabled" in old and "enabled" in new)


@dataclass(frozen=True)
class Rule:
    """A rule for one fact.

    Attributes:
        title: name of the fact for people.
        code: code of the finding; FIXES has the fix.
        severity: ERROR if the application behaves differently, WARNING if it may.
        meaning: the consequence of a loss, in one sentence.
        is_lost: decides whether it is lost.
        exact: the same if the restorer must keep it exactly; None if this makes no difference.
        absent_is_none: whether a missing fact after the restore means that there is none; otherwise it is unknown.
    """

    title: str
    code: str
    severity: Severity
    meaning: str
    is_lost: IsLost = _changed
    exact: IsLost | None = None
    absent_is_none: bool = False


def _error(title: str, code: str, meaning: str, is_lost: IsLost = _changed, exact: IsLost | None = None) -> Rule:
    return Rule(title, code, Severity.ERROR, meaning, is_lost, exact)


def _warning(title: str, code: str, meaning: str, is_lost: IsLost = _changed, *, absent_is_none: bool = False) -> Rule:
    return Rule(title, code, Severity.WARNING, meaning, is_lost, absent_is_none=absent_is_none)


def _gone(title: str, code: str, meaning: str) -> Rule:
    return Rule(title, code, Severity.WARNING, meaning, _some_missing, absent_is_none=True)


def _gone_restriction(title: str, meaning: str) -> Rule:
    return Rule(title, "lost-restriction", Severity.ERROR, meaning, _some_missing, absent_is_none=True)


_PRIORITY = "It competes for the processor with another priority."


def _missing(title: str, meaning: str) -> Rule:
    return Rule(title, "lost-descriptor", Severity.WARNING, meaning, _set_before, absent_is_none=True)


_WEAKER = "It is less restricted than before the checkpoint."
THREAD_RULES: Mapping[str, Rule] = {
    "Seccomp": _error("seccomp mode", "lost-restriction", _WEAKER, _set_before),
    "Seccomp_filters": _error("number of seccomp filters", "lost-restriction", _WEAKER, _less),
    "NoNewPrivs": _error("no_new_privs", "lost-restriction", _WEAKER, _set_before),
    "Uid": _error("user ids", "lost-restriction", "It runs as another user."),
    "Gid": _error("group ids", "lost-restriction", "It runs as another group."),
    "Groups": _error("supplementary groups", "lost-restriction", "It has other groups."),
    "CapEff": _error("effective capabilities", "lost-restriction", _WEAKER, _grown, _changed),
    "CapPrm": _error("permitted capabilities", "lost-restriction", _WEAKER, _grown, _changed),
    "CapInh": _error("inheritable capabilities", "lost-restriction", _WEAKER, _grown, _changed),
    "CapAmb": _error("ambient capabilities", "lost-restriction", _WEAKER, _grown, _changed),
    "CapBnd": _error("capability bounding set", "lost-restriction", _WEAKER, _grown),
    "Speculation_Store_Bypass": _error("speculative store bypass", "lost-restriction", _WEAKER, _speculates),
    "SpeculationIndirectBranch": _error("indirect branch speculation", "lost-restriction", _WEAKER, _speculates),
    "x86_Thread_features": _error("shadow stack", "lost-restriction", _WEAKER, _set_before),
    "Cpus_allowed_list": _warning("CPU affinity", "lost-affinity", "It runs on other processors."),
    "Mems_allowed_list": _warning("memory nodes", "lost-affinity", "Its memory is on other nodes."),
    "SigBlk": _warning("blocked signals", "lost-signal", "Signals reach another thread, or end the process."),
    "nice": _warning("nice value", "lost-scheduling", _PRIORITY),
    "policy": _warning("scheduling policy", "lost-scheduling", "It competes for the processor with another policy."),
    "real-time priority": _warning("real-time priority", "lost-scheduling", "It gets the processor later or earlier."),
    LANDLOCK: _gone_restriction("Landlock rules", "It can use files and ports that it had given up."),
    "timer slack": _warning("timer slack (ns)", "lost-scheduling", "Its sleeps and time limits end later or earlier."),
}
ASKED_THREAD_RULES: Mapping[str, Rule] = {
    "securebits": _error("securebits", "lost-restriction", _WEAKER, _set_before),
    "machine check policy": _warning("machine check policy", "lost-setting", "Memory errors end it sooner or later."),
    "I/O flusher": _warning("I/O flusher", "lost-setting", "It can wait for its own writes.", _set_before),
    "parent-death signal": _warning("parent-death signal", "lost-signal", "It outlives its parent.", _set_before),
    "timestamp counter": _warning("timestamp counter", "lost-setting", "Reading the counter ends it, or does not."),
    "cpuid": _warning("cpuid instruction", "lost-setting", "The instruction ends it, or does not."),
    "L1D flush": _warning("L1D flush", "lost-setting", "Its data stays in the processor's cache."),
    "memory policy": _warning("memory policy", "lost-affinity", "Its memory is on other nodes."),
    "signal stack": _warning("signal stack", "lost-signal", "Handlers of signals run on another stack."),
    "robust list": _warning("robust list", "lost-lock", "Locks of a thread that ends stay locked.", _set_before),
    "cleared at exit": _warning("address cleared at exit", "lost-setting", "Nobody learns of its end.", _set_before),
    "restartable sequences": _warning("restartable sequences", "lost-setting", "They do not restart.", _set_before),
    "scheduling flags": _warning("scheduling flags", "lost-scheduling", "Children inherit another priority."),
    "slice": _warning("time slice", "lost-scheduling", "It runs longer or shorter without interruption."),
    "deadline": _warning("deadline", "lost-scheduling", "It gets the processor later or earlier."),
    "utilization clamp": _warning("utilization clamp", "lost-scheduling", "The processor runs slower or faster."),
    **{name: _error(name, "lost-key", "It has fewer keys than before.", _fewer) for name in KEYRINGS},
}
PROCESS_RULES: Mapping[str, Rule] = {
    "Umask": _error("umask", "lost-setting", "New files get other permissions."),
    "SigIgn": _warning("ignored signals", "lost-signal", "A signal may end the process.", _signals_missing),
    "SigCgt": _warning("handled signals", "lost-signal", "A signal may end the process.", _signals_missing),
    "THP_enabled": _warning("transparent huge pages", "lost-setting", "It needs more or less memory."),
    "untag_mask": _warning("tagged addresses", "lost-setting", "System calls refuse tagged addresses."),
    "session": _warning("session", "lost-setting", "Signals to the session reach other processes."),
    "process group": _warning("process group", "lost-setting", "Signals to the group reach other processes."),
    "terminal": _warning("controlling terminal", "lost-setting", "It cannot open /dev/tty."),
    "oom_score_adj": _warning("oom_score_adj", "lost-setting", "It is killed sooner or later if memory runs out."),
    "personality": _warning("personality", "lost-setting", "Addresses of new mappings may differ."),
    "coredump_filter": _error("coredump_filter", "lost-restriction", "Core dumps contain more memory.", _grown),
    "dumpable": _error("not dumpable", "lost-restriction", "Processes of the same user can read its memory."),
    "cwd": _warning("working directory", "lost-setting", "Relative paths lead elsewhere."),
    "root": _error("root directory", "lost-restriction", "Paths lead elsewhere."),
    "timers": _error("POSIX timers", "lost-timer", "A timer of the application never expires.", _some_missing),
    "I/O priority": _warning("I/O priority", "lost-scheduling", "It competes for the disk with another priority."),
    **{
        f"mappings {name}": _warning(
            f"mappings {name}",
            "lost-setting",
            "No mapping has this property any more.",
            _set_before,
            absent_is_none=True,
        )
        for name in MAPPING_FLAGS.values()
    },
}
ASKED_PROCESS_RULES: Mapping[str, Rule] = {
    GONE: _warning("processes", "lost-process", "It has ended, or was not restored.", absent_is_none=True),
    "parent": _warning("parent", "lost-setting", "Another process learns of its end."),
    "namespaces": _error("namespaces of its own", "lost-restriction", _WEAKER, _some_missing),
    "nice value of the session": _warning("nice value of the session", "lost-scheduling", _PRIORITY),
    "protection keys": _gone_restriction("protection keys of mappings", "Any thread can use the memory."),
    "huge pages off": _warning("huge pages off", "lost-setting", "It needs more or less memory."),
    "no writable code": _error("memory-deny-write-execute", "lost-restriction", _WEAKER, _set_before),
    "merges memory": _warning("merged memory", "lost-setting", "It needs more memory.", _set_before),
    "child subreaper": _error("child subreaper", "lost-setting", "Its orphans get another parent.", _set_before),
    "locks new mappings": _warning("lock of new mappings", "lost-setting", "New memory can be swapped.", _set_before),
    "permitted CPU features": _error("permitted CPU features", "lost-setting", "They are refused.", _signals_missing),
    "LDT": _error("local descriptor table", "lost-setting", "Code that uses it crashes.", _set_before),
    "signal actions": _gone("actions at signals", "lost-signal", "A signal is handled otherwise, or ends the process."),
    "intervals of timers": _gone("intervals of timers", "lost-timer", "Timers expire at other times, or never."),
    **{
        f"{name} interval timer": _warning(
            f"{name} interval timer", "lost-timer", "It expires at other times, or never.", absent_is_none=True
        )
        for name in INTERVAL_TIMERS
    },
}
LIMIT_RULE = _warning("", "lost-limit", "It reaches a limit sooner or later than before.")
DESCRIPTOR_RULES: Mapping[str, Rule] = {
    "flags": _warning("flags", "lost-descriptor", "Reads and writes may block, or children inherit it."),
    "locks": _gone("file locks", "lost-lock", "Another process can take the lock."),
    "semaphore": _error("EFD_SEMAPHORE", "lost-eventfd", "A read takes the whole count instead of one.", _set_before),
    "clock": _error("clock of the timer", "lost-timer", "It expires at other times."),
    "interval": _warning("interval of the timer", "lost-timer", "It ticks faster or slower."),
    "ticking": _error("periodic timer", "lost-timer", "It never ticks again.", _set_before),
    "settime flags": _warning("flags of the timer", "lost-timer", "It does not notice that the clock is set."),
    "signals": _error("signals of the signalfd", "lost-descriptor", "Reads return other signals."),
    "watches": _gone("inotify watches", "lost-descriptor", "Changes of files go unnoticed."),
    WATCHED: _gone("descriptors watched by epoll", "lost-descriptor", "Events of a descriptor go unnoticed."),
    "seals": _warning("seals", "lost-restriction", "The memory can be changed or resized."),
    "pipe size": _warning("size of the pipe", "lost-descriptor", "Writes block sooner or later."),
    "signal": _missing("signal for readiness", "Another signal tells of input."),
    "owner": _missing("owner of the signal", "Another process learns of input."),
    GONE: _warning("open descriptors", "lost-descriptor", "It is not open any more.", absent_is_none=True),
    REGISTRATIONS: _gone("registrations at epoll", "lost-descriptor", "Events are delivered otherwise."),
    "fanotify flags": _warning("fanotify group", "lost-descriptor", "Other events are delivered."),
    "fanotify marks": _gone("fanotify marks", "lost-descriptor", "Events of files go unnoticed."),
    "process": _error("process of the pidfd", "lost-descriptor", "It refers to another process, or to none."),
    "terminal settings": _warning("settings of the terminal", "lost-descriptor", "Input is treated otherwise."),
    "window size": _warning("size of the window", "lost-descriptor", "Output is laid out for another size."),
    "expected lifetime": _missing("expected lifetime of data", "The file system may place data otherwise."),
    "socket name": _warning("name of the socket", "lost-descriptor", "Clients do not find it.", _set_before),
    "peer": _warning("peer of the socket", "lost-descriptor", "Nobody reads its messages.", _set_before),
    "shut down": _missing("shutdown", "It waits for data that it wanted no more."),
    "packet filter": Rule(
        "packet filter",
        "lost-socket-option",
        Severity.ERROR,
        "It receives packets that it wanted to drop.",
        _set_before,
        absent_is_none=True,
    ),
    "backlog": _warning("backlog", "lost-socket-option", "More or fewer clients can wait to be accepted."),
}
NETWORK_RULES: Mapping[str, Rule] = {
    "groups": _error(
        "multicast groups", "lost-multicast", "Messages to the group are not received any more.", _some_missing
    ),
    "sources of groups": _error(
        "sources of groups", "lost-multicast", "Messages of other senders are received, or none.", _some_missing
    ),
}
IPC_RULES: Mapping[str, Rule] = {
    **{
        title: _error(title, "lost-ipc", "Processes that use it fail, or lose its content.", _some_missing)
        for title in (*TITLES.values(), "POSIX message queues")
    },
    # CRIU fails if it cannot restore the content.
    TITLES["shm"]: _warning(
        TITLES["shm"], "lost-ipc", "Its processes share it as before, but no other can attach it.", _some_missing
    ),
}

#: Options of sockets whose loss changes the behaviour of each application that sets them.
_DECISIVE: Mapping[str, str] = {
    "IP_PKTINFO": "Received packets come without their destination address.",
    "IPV6_RECVPKTINFO": "Received packets come without their destination address.",
    "IP_RECVORIGDSTADDR": "Received packets come without their original destination.",
    "IPV6_RECVORIGDSTADDR": "Received packets come without their original destination.",
    "IP_TRANSPARENT": "It cannot act for other addresses any more.",
    "IPV6_TRANSPARENT": "It cannot act for other addresses any more.",
    "IP_HDRINCL": "The kernel adds a second header to packets.",
    "IPV6_V6ONLY": "It accepts other kinds of clients.",
    "SO_BROADCAST": "Sending to a broadcast address fails.",
    "SO_PASSCRED": "Messages come without the credentials of their sender.",
    "SO_RCVTIMEO": "Reads wait longer, or for ever.",
    "SO_SNDTIMEO": "Writes wait longer, or for ever.",
    "SO_BINDTODEVICE": "It receives packets of other network interfaces.",
    "UDP_SEGMENT": "Sending several packets at once fails.",
}
_OPTION = _warning("", "lost-socket-option", "The socket does not behave as the application has set it up.")


#: Facts that the runtime does not keep and no application that sets them can do without, with the values of those that
#: do not.
CERTAIN_BY_RUNTIME: Mapping[str, str] = {
    "groups": "",
    "semaphore": "no",
    LANDLOCK: "no",
    "UDP_SEGMENT": "0",
    "IP_RECVORIGDSTADDR": "0",
    "IPV6_RECVORIGDSTADDR": "0",
}
#: The same, if an image restores itself: CRIU restores these objects only with their whole namespace.
CERTAIN_BY_SELF: Mapping[str, str] = {TITLES["sem"]: "", TITLES["msg"]: ""}


def find_rule(subject: str, name: str) -> Rule | None:
    """Return the rule for a fact of a subject; None if it is not compared."""
    kind = subject.partition(" ")[0]
    if kind == "process" and name.startswith("limit "):
        return replace(LIMIT_RULE, title=f"limit of {name.removeprefix('limit ')}")
    return _RULES.get(kind, {}).get(name)


def _make_option_rules() -> Mapping[str, Rule]:
    rules = {name: replace(_OPTION, title=name) for name in list_options() if name not in SILENT}
    rules |= {
        name: replace(rules[name], severity=Severity.ERROR, meaning=meaning) for name, meaning in _DECISIVE.items()
    }
    return rules


#: Facts that are not compared, with the reasons: names of facts, fields of /proc/PID/status and of fdinfo, and options.
SILENT: Mapping[str, str] = {
    IDENTITY: "it tells whether two descriptors are the same",
    NAME: "an application may rename its processes",
    "exe": "the launcher's CRIU cannot set it without privileges; the code is compared by its mappings",
    "IP_MULTICAST_ALL": "it matters only to members of a group, and a lost membership is an error already",
    "IPV6_MULTICAST_ALL": "it matters only to members of a group, and a lost membership is an error already",
    # Of /proc/PID/status
    "Name": "an application may rename its threads",
    "State": "it changes all the time",
    "Tgid": "a number outside the container",
    "Ngid": "a number of the NUMA balancer",
    "Pid": "a number outside the container",
    "PPid": "an orphan has another parent",
    "TracerPid": "preflight refuses traced processes",
    "FDSize": "a size of a table in the kernel",
    "NStgid": "numbers outside the container",
    "NSpid": "it names the subject",
    "NSpgid": "compared as the process group",
    "NSsid": "compared as the session",
    "Kthread": "never of a container",
    "CoreDumping": "it lasts moments",
    "Threads": "threads come and go",
    "SigQ": "it changes all the time",
    "SigPnd": "signals are delivered between two looks",
    "ShdPnd": "signals are delivered between two looks",
    "Cpus_allowed": "the same as Cpus_allowed_list",
    "Mems_allowed": "the same as Mems_allowed_list",
    "voluntary_ctxt_switches": "a counter",
    "nonvoluntary_ctxt_switches": "a counter",
    # Of fdinfo
    "pos": "the application continues to read and write",
    "mnt_id": "another mount",
    "ino": "another file system",
    "ticks": "a counter",
    "it_value": "it runs down; whether a periodic timer runs is compared",
    "eventfd-count": "a counter",
    "eventfd-id": "a number of the kernel",
    # Not visible from outside
    "packet filters of groups": "the kernel does not show those of SO_ATTACH_REUSEPORT_EBPF",
    "dnotify": "the kernel shows it nowhere (F_NOTIFY); inotify is compared",
    "permitted tracer": "the kernel does not show it (PR_SET_PTRACER)",
    "advice for files": "the kernel does not show it (posix_fadvise)",
    "security labels": "each container has its own",
    "loginuid": "it belongs to the session that started the build",
    "timens_offsets": "the launcher makes the clocks continue",
    "futex hash": "the kernel chooses its size (PR_FUTEX_HASH)",
    "queues": "data is consumed between two looks",
}
#: Prefixes of such fields.
SILENT_PREFIXES = {"Vm": "sizes change", "Rss": "sizes change", "HugetlbPages": "sizes change"}

_RULES: Mapping[str, Mapping[str, Rule]] = {
    "thread": {**THREAD_RULES, **ASKED_THREAD_RULES},
    "process": {**PROCESS_RULES, **ASKED_PROCESS_RULES},
    "descriptor": {**DESCRIPTOR_RULES, **_make_option_rules()},
    "network": NETWORK_RULES,
    "ipc": IPC_RULES,
}
