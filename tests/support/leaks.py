"""What a command may leave behind on the machine that it ran on.

A token that is part of every name the command gives (its workspace's, and so its cgroup's) tells what is its own from
what others do on the machine at the same time. What could be anybody's is taken for its own unless it is known to be
another build's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

OTHER_BUILD = "warmstart-"
# In the names of what container tools make when they are let loose on a host.
TOOLS = ("buildah", "cni", "conmon", "containers", "crio", "crun", "kubepods", "netns", "runc")
# Where programs that run containers keep what they should not have made here at all.
PLACES = (
    "/run",
    "/run/containers",
    "/run/crio",
    "/run/lock",
    "/run/netns",
    "/run/runc",
    "/run/crun",
    "/etc/cni",
    "/etc/containers",
    "/etc/criu",
    "/opt/cni",
    "/var/lib",
    "/var/lib/cni",
    "/var/lib/containers",
    "/var/log",
)

Traces = frozenset[str]


def take_snapshot(token: str, *directories: Path) -> Traces:
    """Everything there is now that a command with this token could have made; `directories` with all below them."""
    found = [
        *_processes(token),
        *_mounts(token),
        *_network(),
        *_cgroups(token),
        *(f"file {path}" for place in PLACES for path in _list(Path(place))),
        *(f"file {path}" for directory in directories for path in _walk(directory)),
    ]
    return frozenset(found)


def _walk(directory: Path) -> Iterator[Path]:
    """Everything below a directory, some of which may be removed meanwhile."""
    for parent, directories, files in os.walk(directory):
        yield from (Path(parent, name) for name in (*directories, *files))


def wait_until_clean(before: Traces, look: Callable[[], Traces], *, limit_s: float) -> list[str]:
    """How what `look` finds differs from `before`, as soon as it does not, or when `limit_s` seconds have passed.

    What a killed command leaves is removed by others, who need a moment.
    """
    deadline = time.monotonic() + limit_s
    while True:
        after = look()
        if after == before or time.monotonic() >= deadline:
            new = [f"new: {trace}" for trace in after - before]
            return sorted(new + [f"gone: {trace}" for trace in before - after])
        time.sleep(0.05)


def _processes(token: str) -> Iterator[str]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        # A process may end while it is looked at.
        with suppress(OSError):
            if _is_ours(directory, token):
                words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"process {directory.name} {(directory / 'comm').read_text().strip()}: {words}"


def _is_ours(process: Path, token: str) -> bool:
    """Whether it was started by us, or its words, cgroup or mounts show the token.

    A container's mounts lead into the workspace, and so do those of all that runs in the node.
    """
    if process.name == str(os.getpid()):
        return False
    status = (process / "status").read_text()
    if f"\nPPid:\t{os.getpid()}\n" in status:
        return True
    marked = token.encode()
    return any(marked in (process / name).read_bytes() for name in ("cmdline", "environ", "cgroup", "mountinfo"))


def _mounts(token: str) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if _is_suspect(line, token):
            yield f"mount {line}"


def _network() -> Iterator[str]:
    for device in Path("/sys/class/net").iterdir():
        yield f"network device {device.name}"
    for line in Path("/proc/net/route").read_text().splitlines():
        # Without the counters of its use.
        yield f"route {line.split()[:4]}"
    for name in ("ip_tables_names", "ip6_tables_names"):
        table = Path("/proc/net") / name
        if table.exists():
            yield f"{name} {table.read_text().split()}"
    yield f"ip_forward {Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"


def _cgroups(token: str) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup"):
            for directory, _, _ in os.walk(fields.split(" ")[4]):
                if _is_suspect(directory, token):
                    yield f"cgroup {directory}"


def _is_suspect(text: str, token: str) -> bool:
    return token in text or (OTHER_BUILD not in text and any(tool in text for tool in TOOLS))


def _list(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
