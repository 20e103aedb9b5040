"""Read the facts about descriptors. Source: proc_pid_fdinfo(5), and the `show_fdinfo` functions of the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat

from warmstart.core.linux import copy_descriptor
from warmstart.dump.state.model import IDENTITY, WATCHED, Facts
from warmstart.dump.state.sockets import read_socket
from warmstart.dump.state.tasks import read_link, read_text

#: Flags of open(2) that are compared, after the access mode.
FLAGS = ("append", "nonblock", "async", "direct", "dsync", "sync", "noatime", "path", "cloexec")
_MODES = ("read", "write", "read-write", "none")
_F_GETSIG, _F_GETPIPE_SZ, _F_GET_SEALS = 11, 1032, 1034

_LOCK = re.compile(r"^lock:\t\d+: (\w+) +(\w+) +(\w+) -?\d+ \S+ (\d+) (\w+)", re.MULTILINE)
_TIMERFD = re.compile(
    r"^clockid: (-?\d+)\nticks: (\d+)\nsettime flags: (\d+)\nit_value: \((\d+), (\d+)\)\nit_interval: \((\d+), (\d+)\)",
    re.MULTILINE,
)
_WATCH = re.compile(r"^inotify wd:(\w+) .*?mask:(\w+)", re.MULTILINE)
_NUMBER = re.compile(r":\[\d+\]$")
_EPOLL = re.compile(r"^tfd: +(\d+) ", re.MULTILINE)


def read_descriptor(directory: str, number: int, pidfd: int | None) -> Facts:
    """Read a descriptor.

    Args:
        directory: directory of its process in a procfs.
        number: the descriptor.
        pidfd: refers to the process; None if this process cannot get one.
    """
    target = read_link(f"{directory}/fd/{number}")
    info = read_text(f"{directory}/fdinfo/{number}")
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    facts = {IDENTITY: _identify(target), "flags": name_flags(int(fields["flags"], 8))}
    if locks := sorted(" ".join(found) for found in _LOCK.findall(info)):
        facts["locks"] = ",".join(locks)
    if "eventfd-semaphore" in fields:
        facts["semaphore"] = "yes" if fields["eventfd-semaphore"].strip() == "1" else "no"
    if found := _TIMERFD.search(info):
        facts |= _describe_timer(*map(int, found.groups()))
    if "sigmask" in fields:
        facts["signals"] = fields["sigmask"].strip()
    if watches := _WATCH.findall(info):
        facts["watches"] = ",".join(sorted(" ".join(watch) for watch in watches))
    if "tfd" in fields:
        facts[WATCHED] = ",".join(sorted(set(_EPOLL.findall(info)), key=int))
    if pidfd is not None and target.startswith(("socket:", "pipe:", "/memfd:")):
        facts |= _look_inside(pidfd, number)
    return facts


def name_flags(flags: int) -> str:
    """Name the flags of a descriptor that are compared."""
    return " ".join([_MODES[flags & os.O_ACCMODE], *(name for name in FLAGS if _has(flags, name))])


def _has(flags: int, name: str) -> bool:
    bits: int = getattr(os, f"O_{name.upper()}")
    return flags & bits == bits


def _identify(target: str) -> str:
    """Return the part of a link's target that a restore keeps: without the number of a pipe or socket."""
    return target if target.startswith("/") else _NUMBER.sub("", target)


def _describe_timer(
    clock: int, ticks: int, flags: int, value_s: int, value_ns: int, interval_s: int, interval_ns: int
) -> Facts:
    """Describe a timerfd: a periodic one that has just expired shows ticks, and no next expiration until it is read."""
    facts = {"clock": str(clock), "interval": f"{interval_s}.{interval_ns:09}"}
    if interval_s or interval_ns:
        facts["ticking"] = "yes" if value_s or value_ns or ticks else "no"
        # Of a timer that is not set, they are left over.
        facts["settime flags"] = str(flags)
    return facts


def _look_inside(pidfd: int, number: int) -> Facts:
    """Read what only the descriptor itself tells, from a copy of it."""
    try:
        copy = copy_descriptor(pidfd, number)
    except OSError:  # it was closed, or a sandbox refuses the call
        return {}
    try:
        kind = os.fstat(copy).st_mode
        if stat.S_ISSOCK(kind):
            return read_socket(copy)
        name, command = ("pipe size", _F_GETPIPE_SZ) if stat.S_ISFIFO(kind) else ("seals", _F_GET_SEALS)
        with contextlib.suppress(OSError):
            return {name: str(fcntl.fcntl(copy, command)), "signal": str(fcntl.fcntl(copy, _F_GETSIG))}
    finally:
        os.close(copy)
    return {}
