"""Container configurations for runc, as runtimes create them: of the build and of the start, with seccomp profiles."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUILD_CAPABILITIES = (
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_KILL",
    "CAP_NET_ADMIN",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_TIME",
)
#: What Docker gives a container that asks for nothing.
DOCKER_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
NAMESPACE_FLAGS = 0x7E020000
MOUNTS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
    {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "nodev", "ro"]},
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug")


@dataclass(frozen=True)
class Setup:
    """The permissions of a container. The defaults are those of a pod under the *restricted* standard.

    Attributes:
        seccomp: profile in runc's format, or None for no filter.
        namespaces: namespaces in addition to those of every container; `network` isolates it from the host's network.
    """

    user: int = 1000
    group: int = 1000
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = True
    seccomp: dict[str, Any] | None = None
    read_only: bool = True
    namespaces: tuple[str, ...] = ("pid", "ipc", "uts", "mount")
    environment: tuple[str, ...] = ()
    mounts: tuple[dict[str, Any], ...] = field(default=())


BUILD = Setup(user=0, group=0, capabilities=BUILD_CAPABILITIES, no_new_privileges=False, seccomp=None, read_only=False)


def configure(root: Path, command: Sequence[str], setup: Setup) -> str:
    """Return the `config.json` of a bundle with the root filesystem at `root`."""
    capabilities = list(setup.capabilities)
    empty: list[str] = []
    effective = capabilities if setup.user == 0 else empty
    linux: dict[str, Any] = {
        "namespaces": [{"type": name} for name in setup.namespaces],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if setup.seccomp is not None:
        linux["seccomp"] = setup.seccomp
    process = {
        "terminal": False,
        "user": {"uid": setup.user, "gid": setup.group, "additionalGids": list(setup.groups)},
        "args": list(command),
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *setup.environment],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities,
            "effective": effective,
            "permitted": effective,
            "inheritable": empty,
            "ambient": empty,
        },
        "noNewPrivileges": setup.no_new_privileges,
    }
    configuration = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": str(root), "readonly": setup.read_only},
        "hostname": "container",
        "mounts": [*MOUNTS, *setup.mounts],
        "linux": linux,
    }
    return json.dumps(configuration)


def resolve_profile(profile: dict[str, Any], capabilities: Sequence[str], architecture: str) -> dict[str, Any]:
    """Return a containers-common or Docker profile in runc's format, with its conditions resolved.

    The format is that of github.com/containers/common/pkg/seccomp; `includes` and `excludes` are about the
    container's capabilities and the machine's architecture.
    """
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("arches") and names[architecture] not in includes["arches"]:
            continue
        if excludes.get("arches") and names[architecture] in excludes["arches"]:
            continue
        if includes.get("caps") and not set(includes["caps"]) <= set(capabilities):
            continue
        if excludes.get("caps") and set(excludes["caps"]) & set(capabilities):
            continue
        rules.append({key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key)})
    resolved = {"defaultAction": profile["defaultAction"], "syscalls": rules}
    if "defaultErrnoRet" in profile:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return resolved


def like_crio(profile: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved containers-common profile as CRI-O uses it without CAP_SYS_ADMIN: no unshare.

    (github.com/cri-o/cri-o, internal/config/seccomp/seccomp.go).
    """
    stricter = copy.deepcopy(profile)
    for rule in stricter["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name != "unshare"]
    stricter["syscalls"].append({"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
    return stricter


def like_docker(profile: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved containers-common profile with Docker's additional restrictions without CAP_SYS_ADMIN.

    These concern clone3 (ENOSYS), unshare, setns, and clone with namespaces
    (github.com/moby/profiles, seccomp/default_linux.go).
    """
    stricter = copy.deepcopy(profile)
    for rule in stricter["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in ("clone", "clone3", "unshare", "setns")]
    stricter["syscalls"] = [rule for rule in stricter["syscalls"] if rule["names"]]
    no_namespaces = {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    stricter["syscalls"] += [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["unshare", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ]
    return stricter
