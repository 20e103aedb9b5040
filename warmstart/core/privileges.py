"""Privileges beyond those of an ordinary pod, by the names that `--allow` takes.

An image describes the pod, recipe or process that it wants. Everyone who can push may have written that, so the user
must allow each privilege in it. Modules that read pods, recipes and checkpoints list privileges; this one
names and compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from warmstart.core.errors import PrivilegeError

#: What a pod may add under the baseline Pod Security Standard; runtimes grant no others by default
#: (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
ORDINARY_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
#: What each runtime gives a container that asks for none: CRI-O's default, the smallest.
DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"}
)
#: The capability that stands for every one.
ALL = "ALL"
UNCONFINED = "Unconfined"


class Kind(StrEnum):
    """Kinds of privileges. Those of NAMELESS are allowed as `KIND`, the others as `KIND=NAME`."""

    ANNOTATION = "annotation"
    APPARMOR = "apparmor"
    CAPABILITY = "capability"
    CLAIM = "claim"
    CONFIG_MAP = "config-map"
    DEVICE = "device"
    FIELD = "field"
    GROUP = "group"
    HOST_IPC = "host-ipc"
    HOST_NETWORK = "host-network"
    HOST_PATH = "host-path"
    HOST_PID = "host-pid"
    HOST_PORT = "host-port"
    IMAGE = "image"
    LABEL = "label"
    MOUNT = "mount"
    MOUNT_PROPAGATION = "mount-propagation"
    NODE = "node"
    NODE_AFFINITY = "node-affinity"
    NODE_SELECTOR = "node-selector"
    PRIORITY_CLASS = "priority-class"
    PRIVILEGED = "privileged"
    PRIVILEGE_ESCALATION = "privilege-escalation"
    PROBE_HOST = "probe-host"
    PROC_MOUNT = "proc-mount"
    PULL_SECRET = "pull-secret"  # noqa: S105 - no password
    RESOURCE = "resource"
    RESOURCE_CLAIM = "resource-claim"
    ROOT = "root"
    RUNTIME_CLASS = "runtime-class"
    SCHEDULER = "scheduler"
    SECCOMP = "seccomp"
    SECRET = "secret"  # noqa: S105 - no password
    SELINUX = "selinux"
    SERVICE_ACCOUNT = "service-account"
    SYSCTL = "sysctl"
    TOKEN = "token"  # noqa: S105 - no password
    TOLERATION = "toleration"
    VOLUME = "volume"
    WRITABLE_ROOT = "writable-root"


NAMELESS = frozenset(
    {
        Kind.HOST_IPC,
        Kind.HOST_NETWORK,
        Kind.HOST_PID,
        Kind.NODE_AFFINITY,
        Kind.PRIVILEGED,
        Kind.PRIVILEGE_ESCALATION,
        Kind.ROOT,
        Kind.WRITABLE_ROOT,
    }
)


@dataclass(frozen=True)
class Privilege:
    """A privilege; equal to another one of the same kind and name.

    Attributes:
        kind: its kind.
        name: the path, capability, image or the like; empty for kinds without names.
        why: where it is asked for.
    """

    kind: Kind
    name: str = ""
    why: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.kind}={self.name}" if self.name else str(self.kind)


def name_capability(name: str) -> str:
    """The name of a capability as Kubernetes writes it: `CAP_SYS_ADMIN` is `SYS_ADMIN`."""
    return name.upper().removeprefix("CAP_")


def parse_privilege(text: str) -> Privilege:
    """Read the value of `--allow`: KIND or KIND=NAME.

    Raises:
        ValueError: the kind is unknown, or a name is missing or superfluous.
    """
    word, _, name = text.partition("=")
    try:
        kind = Kind(word)
    except ValueError:
        raise ValueError(f"{word} is not a privilege: expected one of {', '.join(Kind)}") from None
    if kind in NAMELESS and "=" in text:
        raise ValueError(f"{kind} takes no name")
    if kind is Kind.CAPABILITY and name and not re.fullmatch(r"\w+", name, re.ASCII):
        raise ValueError(f"{name} is not a capability: expected a name such as SYS_ADMIN")
    if kind not in NAMELESS and not name:
        raise ValueError(f"{kind} needs a name: {kind}=NAME")
    return Privilege(kind, name_capability(name) if kind is Kind.CAPABILITY else name)


def list_refused(asked: Iterable[Privilege], allowed: Iterable[Privilege]) -> tuple[Privilege, ...]:
    """List the privileges that are asked for and not allowed: each once, in order."""
    named = set(allowed)
    return tuple(one for one in dict.fromkeys(asked) if not named & {one, *_list_covering(one)})


def _list_covering(one: Privilege) -> Iterator[Privilege]:
    """Yield privileges that include this one: a privileged container has all capabilities and devices, no filter."""
    if one.kind is Kind.CAPABILITY:
        yield Privilege(Kind.CAPABILITY, ALL)
    unconfined = one.kind in (Kind.SECCOMP, Kind.APPARMOR) and one.name == UNCONFINED
    if unconfined or one.kind in (Kind.CAPABILITY, Kind.DEVICE, Kind.PRIVILEGE_ESCALATION):
        yield Privilege(Kind.PRIVILEGED)


def require_allowed(asked: Iterable[Privilege], allowed: Sequence[Privilege], image: str) -> None:
    """Check that the user has allowed all privileges of an image.

    Raises:
        PrivilegeError: it asks for more; the error lists all of it.
    """
    if refused := list_refused(asked, allowed):
        raise PrivilegeError(
            f"{image} asks for {len(refused)} privileges that an ordinary pod does not have and --allow does not name",
            details=[f"{one}: {one.why}" for one in refused],
            hint=f"if you trust the image with them, add {' '.join(list_options(refused))}",
            refused=tuple(map(str, refused)),
        )


def list_options(privileges: Iterable[Privilege]) -> list[str]:
    """Return the command-line options that allow privileges."""
    return [word for one in privileges for word in ("--allow", str(one))]
