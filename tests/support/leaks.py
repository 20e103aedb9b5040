"""Find processes, mounts, cgroups and files that a command left behind on this machine.

Every name that the command creates (its workspace, and therefore its cgroup) contains a token. The token separates the
command's traces from other activity on the machine. Traces without any token count as the command's, except those of
another build.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

OTHER_BUILD = "warmstart-"
# Part of the names that container tools use when they run directly on a host.
TOOLS = ("buildah", "cni", "conmon", "containers", "crio", "crun", "kubepods", "netns", "runc")
# Directories in which container tools create files on a host. A build must not create any there.
DIRECTORIES = (
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
# CRIU writes what it knows of the kernel there for a moment, if a test runs it outside of a node.
PASSING = "criu.kdat.tmp"

Traces = frozenset[str]


def take_snapshot(token: str, *directories: Path) -> Traces:
    """List everything that a command with this token could have created, and all files below `directories`."""
    found = [
        *_processes(token),
        *_mounts(token),
        *_network(),
        *_cgroups(token),
        *(f"file {path}" for directory in DIRECTORIES for path in _list(Path(directory), token)),
        *(f"file {path}" for directory in directories for path in _walk(directory)),
    ]
    return frozenset(found)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield all paths below a directory. They may be removed meanwhile."""
    for parent, directories, files in os.walk(directory):
        yield from (Path(parent, name) for name in (*directories, *files))


def wait_until_clean(before: Traces, look: Callable[[], Traces], *, limit_s: float) -> list[str]:
    """Wait until `look` returns the same traces as `before`, and return the differences left after `limit_s` seconds.

    After a killed command, other processes clean up, and they need a moment.
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
        # The process may end meanwhile.
        with suppress(OSError):
            if _is_ours(directory, token):
                words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"process {directory.name} {(directory / 'comm').read_text().strip()}: {words}"


def _is_ours(process: Path, token: str) -> bool:
    """Return whether the process is our child, or its command line, environment, cgroup or mounts contain the token.

    The mounts of containers and of all processes in the node refer to the workspace.
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
        # Without the usage counters.
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


def _list(directory: Path, token: str) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            is_anothers = OTHER_BUILD in path.name and token not in path.name
            if not is_anothers and path.name != PASSING:
                yield path
