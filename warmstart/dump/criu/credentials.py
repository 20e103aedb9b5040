"""Read the users, capabilities and system call filters that CRIU restores for a dump's processes.

Sources: `images/creds.proto`, `images/seccomp.proto` and `criu/seccomp.c` of CRIU (4.2); capability.h of Linux's
include/uapi/linux.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import has_memory, read_cores
from warmstart.dump.criu.entries import decode, read_image

# In the order of their numbers.
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(_NAMES.split())


def number_capabilities(names: Iterable[str]) -> int:
    """Return a set of capabilities as the kernel does: bit N is the capability with number N."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


_SETS = {
    "effective": "cap_eff",
    "permitted": "cap_prm",
    "inheritable": "cap_inh",
    "bounding": "cap_bnd",
    "ambient": "cap_amb",
}
_IDS = ("uid", "euid", "suid", "fsuid")
_FILTERED = 2
_TSYNC = 1  # SECCOMP_FILTER_FLAG_TSYNC


@dataclass(frozen=True)
class Credentials:
    """Credentials of one thread.

    Attributes:
        uid, gid: real ids.
        groups: supplementary groups.
        root: whether any of its user ids is 0.
        capabilities: names of each set and of the capabilities in it.
        no_new_privs: whether it may gain no privileges.
        filters: number of its system call filters, including the runtime's.
        lsm: AppArmor profile or SELinux label; empty if the dump has none.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    root: bool
    capabilities: tuple[tuple[str, tuple[str, ...]], ...]
    no_new_privs: bool
    filters: int
    lsm: str = ""


def read_credentials(directory: Path) -> dict[int, tuple[Credentials, ...]]:
    """Read the credentials of all threads of a dump by process, its first thread first.

    A zombie has none. A thread without credentials in the dump keeps CRIU's own: all capabilities.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    filters = _read_filters(directory)
    found = {}
    for pid, threads in read_cores(directory).items():
        first, *others = threads.values()
        alive = has_memory(directory, pid) or bool(others)
        described = [_describe(core, filters) for core in (first, *others) if alive or core.HasField("thread_core")]
        found[pid] = _synchronize(described, first, filters)
    return found


def _synchronize(threads: Sequence[Credentials], first: Any, filters: Sequence[Any]) -> tuple[Credentials, ...]:
    """Give threads without a filter those of the first thread, if the kernel installs its last one in all of them.

    If all threads have the same filters, CRIU writes those of the first only (`try_use_tsync` in criu/seccomp.c).
    """
    _, last = _find_filter(first)
    if last < len(filters) and filters[last].flags & _TSYNC:
        return tuple(each if each.filters else replace(each, filters=threads[0].filters) for each in threads)
    return tuple(threads)


def _read_filters(directory: Path) -> list[Any]:
    """Return the filters of the dump; each refers to the one that was installed before it."""
    path = directory / "seccomp.img"
    if not path.exists():
        return []
    return [one for entry in read_image(path) for one in decode(path, entry, protos.Seccomp).seccomp_filters]


def _find_filter(core: Any) -> tuple[int, int]:
    """Return the seccomp mode of a thread and the position of its last filter. Older dumps have both in the task."""
    thread = core.thread_core
    mode = thread.seccomp_mode or core.tc.old_seccomp_mode
    return mode, thread.seccomp_filter if thread.HasField("seccomp_mode") else core.tc.old_seccomp_filter


def _describe(core: Any, filters: Sequence[Any]) -> Credentials:
    creds, thread = core.thread_core.creds, core.thread_core
    sets = {name: _name_bits(getattr(creds, field)) for name, field in _SETS.items()}
    if not thread.HasField("creds"):
        sets = dict.fromkeys(_SETS, CAPABILITIES)
    mode, last = _find_filter(core)
    return Credentials(
        uid=creds.uid,
        gid=creds.gid,
        groups=tuple(creds.groups),
        root=any(getattr(creds, name) == 0 for name in _IDS),
        capabilities=tuple(sets.items()),
        no_new_privs=bool(creds.no_new_privs),
        filters=_count(last, filters) if mode == _FILTERED else 0,
        lsm=creds.lsm_profile.decode(errors="replace"),
    )


def _name_bits(words: Sequence[int]) -> tuple[str, ...]:
    bits = sum(word << (32 * number) for number, word in enumerate(words))
    names = [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]
    # A newer kernel may know capabilities for bits that are unknown here.
    return (*names, *(f"CAP_{number}" for number in range(len(CAPABILITIES), bits.bit_length()) if bits >> number & 1))


def _count(last: int, filters: Sequence[Any]) -> int:
    seen: set[int] = set()
    at: int | None = last
    while at is not None and at < len(filters) and at not in seen:
        seen.add(at)
        at = filters[at].prev if filters[at].HasField("prev") else None
    return len(seen)
