"""What a command may leave behind on the machine that it ran on.

A token that is part of every name the command gives (its workspace's, and so its cgroup's) tells its processes from
those of others, and its directories from those of another build that happens to run at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

FOREIGN = "warmstart-"
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
        *(f"file {path}" for directory in directories for path in directory.rglob("*")),
    ]
    return frozenset(found)


def wait_until_clean(
    before: Traces, token: str, *directories: Path, limit_s: float = 0.0, more: Callable[[], Traces] = frozenset
) -> list[str]:
    """What is there beyond `before`, or has gone, when nothing is or when `limit_s` seconds have passed.

    What a killed command leaves is removed by others, who need a moment. `more` adds traces of another kind.
    """
    deadline = time.monotonic() + limit_s
    while True:
        after = take_snapshot(token, *directories) | more()
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
        if not _is_foreign(line, token):
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
                if not _is_foreign(directory, token):
                    yield f"cgroup {directory}"


def _is_foreign(text: str, token: str) -> bool:
    return FOREIGN in text and token not in text


def _list(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
