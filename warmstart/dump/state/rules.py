"""The rules of the comparison, as data: which facts must be kept, and the meaning of each loss.

A fact without a rule is not compared. SILENT names the facts that must or may differ, with the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from warmstart.dump.preflight.finding import Severity
from warmstart.dump.state.model import IDENTITY, NAME, WATCHED
from warmstart.dump.state.sockets import list_options
from warmstart.dump.state.tasks import MAPPING_FLAGS

#: Decides whether a fact is lost. Args: the value before the dump; the value after the restore, "" if there is none.
IsLost = Callable[[str, str], bool]

#: A suggested fix for each code.
FIXES: Mapping[str, str] = {
    "lost-restriction": "See docs/restrictions.md of warmstart for the restrictions that each restorer keeps.",
    "lost-timer": "Have the application set its timers after the restore, for example in a step of afterRestore.",
    "lost-eventfd": "Use an eventfd without EFD_SEMAPHORE, or a pipe.",
    "lost-multicast": "Have the application join its groups after the restore.",
    "lost-socket-option": "Have the application set the option after the restore, or open the socket then.",
    "lost-lock": "Take the lock after the restore, or restore with the launcher (`restore: [self]`) if it keeps it.",
    "lost-affinity": "Limit the processors with the pod's resources, or set the affinity again after the restore.",
    "lost-scheduling": "Set it again after the restore.",
    "lost-limit": "Set it again after the restore.",
    "lost-descriptor": "Have the application open or set up the descriptor again after the restore.",
    "lost-signal": "Set it again after the restore.",
    "lost-setting": "Set it again after the restore.",
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
    "nice": _warning("nice value", "lost-scheduling", "It competes for the processor with another priority."),
    "policy": _warning("scheduling policy", "lost-scheduling", "It competes for the processor with another policy."),
    "real-time priority": _warning("real-time priority", "lost-scheduling", "It gets the processor later or earlier."),
    "timer slack": _warning("timer slack (ns)", "lost-scheduling", "Its sleeps and time limits end later or earlier."),
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
    "signal": _warning("signal for readiness", "lost-descriptor", "Another signal tells of input.", _set_before),
    "backlog": _warning("backlog", "lost-socket-option", "More or fewer clients can wait to be accepted."),
}
NETWORK_RULES: Mapping[str, Rule] = {
    "groups": _error(
        "multicast groups", "lost-multicast", "Messages to the group are not received any more.", _some_missing
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


#: Facts that no restorer keeps and no application that sets them can do without, with the values of those that do not.
CERTAIN: Mapping[str, str] = {
    "groups": "",
    "semaphore": "no",
    "UDP_SEGMENT": "0",
    "IP_RECVORIGDSTADDR": "0",
    "IPV6_RECVORIGDSTADDR": "0",
}


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
    "child subreaper": "only the process itself can read it; CRIU restores it",
    "parent-death signal": "only the process itself can read it; CRIU restores it, except of the first process",
    "Landlock": "the kernel shows it nowhere",
    "packet filters": "SO_GET_FILTER cannot be called without knowing their size",
    "queues": "data is consumed between two looks",
}
#: Prefixes of such fields.
SILENT_PREFIXES = {"Vm": "sizes change", "Rss": "sizes change", "HugetlbPages": "sizes change"}

_RULES: Mapping[str, Mapping[str, Rule]] = {
    "thread": THREAD_RULES,
    "process": PROCESS_RULES,
    "descriptor": {**DESCRIPTOR_RULES, **_make_option_rules()},
    "network": NETWORK_RULES,
}
