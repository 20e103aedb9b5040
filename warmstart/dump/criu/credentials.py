"""Read the users, capabilities and system call filters that CRIU restores for a dump's processes.

Sources: `images/creds.proto`, `images/seccomp.proto` and `criu/seccomp.c` of CRIU (4.2); capability.h of Linux's
include/uapi/linux.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import has_memory
from warmstart.dump.criu.entries import decode, read_image, read_only_entry

# In the order of their numbers.
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(_NAMES.split())
_SETS = {
    "effective": "cap_eff",
    "permitted": "cap_prm",
    "inheritable": "cap_inh",
    "bounding": "cap_bnd",
    "ambient": "cap_amb",
}
_IDS = ("uid", "euid", "suid", "fsuid")
_FILTERED = 2


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
    path = directory / "pstree.img"
    previous = _read_filters(directory)
    found = {}
    for entry in read_image(path):
        process = decode(path, entry, protos.Process)
        threads = dict.fromkeys((process.pid, *process.threads))
        cores = [_read_core(directory / f"core-{thread}.img") for thread in threads]
        alive = has_memory(directory, process.pid) or len(threads) > 1
        found[process.pid] = tuple(_describe(core, previous) for core in cores if alive or core.HasField("thread_core"))
    return found


def _read_core(path: Path) -> Any:
    return decode(path, read_only_entry(path), protos.Core)


def _read_filters(directory: Path) -> list[int | None]:
    """Return, for each filter of the dump, the one that was installed before it."""
    path = directory / "seccomp.img"
    if not path.exists():
        return []
    filters = [one for entry in read_image(path) for one in decode(path, entry, protos.Seccomp).seccomp_filters]
    return [one.prev if one.HasField("prev") else None for one in filters]


def _describe(core: Any, previous: Sequence[int | None]) -> Credentials:
    creds, thread = core.thread_core.creds, core.thread_core
    sets = {name: _name_bits(getattr(creds, field)) for name, field in _SETS.items()}
    if not thread.HasField("creds"):
        sets = dict.fromkeys(_SETS, CAPABILITIES)
    # Older dumps store the filter in the task.
    mode = thread.seccomp_mode or core.tc.old_seccomp_mode
    last = thread.seccomp_filter if thread.HasField("seccomp_mode") else core.tc.old_seccomp_filter
    return Credentials(
        uid=creds.uid,
        gid=creds.gid,
        groups=tuple(creds.groups),
        root=any(getattr(creds, name) == 0 for name in _IDS),
        capabilities=tuple(sets.items()),
        no_new_privs=bool(creds.no_new_privs),
        filters=_count(last, previous) if mode == _FILTERED else 0,
        lsm=creds.lsm_profile.decode(errors="replace"),
    )


def _name_bits(words: Sequence[int]) -> tuple[str, ...]:
    bits = sum(word << (32 * number) for number, word in enumerate(words))
    names = [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]
    # A newer kernel may know capabilities for bits that are unknown here.
    return (*names, *(f"CAP_{number}" for number in range(len(CAPABILITIES), bits.bit_length()) if bits >> number & 1))


def _count(last: int, previous: Sequence[int | None]) -> int:
    seen: set[int] = set()
    at: int | None = last
    while at is not None and at < len(previous) and at not in seen:
        seen.add(at)
        at = previous[at]
    return len(seen)
