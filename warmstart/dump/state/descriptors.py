"""Read the facts about descriptors. Source: proc_pid_fdinfo(5), and the `show_fdinfo` functions of the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import termios
from collections.abc import Iterator

from warmstart.core.linux import copy_descriptor
from warmstart.dump.proc.status import read_status, read_text
from warmstart.dump.state.model import IDENTITY, REGISTRATIONS, WATCHED, Facts
from warmstart.dump.state.sockets import read_socket
from warmstart.dump.state.tasks import read_link

#: Flags of open(2) that are compared, after the access mode.
FLAGS = ("append", "nonblock", "async", "direct", "dsync", "sync", "noatime", "path", "cloexec")
_MODES = ("read", "write", "read-write", "none")
_F_GETSIG, _F_GETOWN_EX, _F_GETPIPE_SZ, _F_GET_SEALS, _F_GET_HINT = 11, 16, 1032, 1034, 1036
_OWNERS = ("thread", "process", "process group")
_WINDOW = struct.Struct("=HHHH")

_LOCK = re.compile(r"^lock:\t\d+: (\w+) +(\w+) +(\w+) -?\d+ \S+ (\d+) (\w+)", re.MULTILINE)
_TIMERFD = re.compile(
    r"^clockid: (-?\d+)\nticks: (\d+)\nsettime flags: (\d+)\nit_value: \((\d+), (\d+)\)\nit_interval: \((\d+), (\d+)\)",
    re.MULTILINE,
)
_WATCH = re.compile(r"^inotify wd:(\w+) .*?mask:(\w+)", re.MULTILINE)
_NUMBER = re.compile(r":\[\d+\]$")
_EPOLL = re.compile(r"^tfd: +(\d+) events: +(\w+) data: +(\w+)(?: +pos:-?\d+ ino:(\w+))?", re.MULTILINE)
#: EPOLLET, EPOLLONESHOT, EPOLLWAKEUP and EPOLLEXCLUSIVE: the others change while the application runs.
_EPOLL_MODES = 0xF0000000
_FANOTIFY = re.compile(r"^fanotify flags:(\w+) event-flags:(\w+)", re.MULTILINE)
_MARK = re.compile(r"^fanotify (?:ino|mnt_id|sdev):.*?mask:(\w+) ignored_mask:(\w+)", re.MULTILINE)
# Descriptors of which a copy can be made and closed without effects.
_COPIED = ("socket:", "pipe:", "/memfd:", "/dev/pts/", "/dev/ptmx")


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
        facts |= _describe_watched(info, directory if pidfd is not None else None)
    if found := _FANOTIFY.search(info):
        facts["fanotify flags"] = " ".join(found.groups())
        facts["fanotify marks"] = ",".join(sorted(" ".join(mark) for mark in _MARK.findall(info)))
    if target == "anon_inode:[pidfd]":
        facts["process"] = fields.get("NSpid", fields.get("Pid", "")).split()[-1]
    if pidfd is not None and (target.startswith(_COPIED) or _is_file(f"{directory}/fd/{number}", target)):
        facts |= _look_inside(pidfd, number)
    return facts


def _is_file(link: str, target: str) -> bool:
    return target.startswith("/") and stat.S_ISREG(os.stat(link).st_mode)  # noqa: PTH116


def name_flags(flags: int) -> str:
    """Name the flags of a descriptor that are compared."""
    return " ".join([_MODES[flags & os.O_ACCMODE], *(name for name in FLAGS if _has(flags, name))])


def _has(flags: int, name: str) -> bool:
    bits: int = getattr(os, f"O_{name.upper()}")
    return flags & bits == bits


def _identify(target: str) -> str:
    """Return the part of a link's target that a restore keeps: without the number of a pipe or socket."""
    return target if target.startswith("/") else _NUMBER.sub("", target)


def _describe_watched(info: str, directory: str | None) -> Facts:
    """Describe the descriptors that an epoll descriptor watches.

    If the application has closed one, a copy of it may keep the registration. CRIU makes that again under the number
    of the copy, and the old number may be another file's.

    Args:
        info: the fdinfo of the epoll descriptor.
        directory: directory of its process in a procfs; None if links must not be followed.
    """
    watched = sorted(_EPOLL.findall(info), key=lambda each: int(each[0]))
    if directory:
        links = (f"{directory}/fd/{number}" for number, *_ in watched)
        watched = [each for each, link in zip(watched, links, strict=True) if not each[3] or _leads_to(link, each[3])]
    return {
        WATCHED: ",".join(dict.fromkeys(number for number, *_ in watched)),
        REGISTRATIONS: ",".join(
            f"{number}:{int(events, 16) & _EPOLL_MODES:x}:{data}" for number, events, data, _ in watched
        ),
    }


def _leads_to(link: str, inode: str) -> bool:
    try:
        return os.stat(link).st_ino == int(inode, 16)  # noqa: PTH116
    except OSError:  # closed
        return False


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
        facts = dict(_read_owner(copy))
        if stat.S_ISSOCK(kind):
            facts |= read_socket(copy)
        elif stat.S_ISCHR(kind):
            facts |= _read_terminal(copy)
        elif stat.S_ISFIFO(kind):
            facts["pipe size"] = str(fcntl.fcntl(copy, _F_GETPIPE_SZ))
        else:
            facts |= dict(_read_hints(copy))
        return facts
    finally:
        os.close(copy)


def _read_owner(copy: int) -> Iterator[tuple[str, str]]:
    """Read who gets which signal when input arrives."""
    with contextlib.suppress(OSError):  # O_PATH
        if number := fcntl.fcntl(copy, _F_GETSIG):
            yield "signal", str(number)
        kind, owner = struct.unpack("=ii", fcntl.fcntl(copy, _F_GETOWN_EX, bytes(8)))
        if owner and kind < len(_OWNERS):
            yield "owner", f"{_OWNERS[kind]} {_find_inner_number(owner)}"


def _find_inner_number(number: int) -> str:
    """Return the number in the container of a process in this process's PID namespace; "" if it has ended."""
    with contextlib.suppress(OSError, KeyError):
        return read_status(f"/proc/{number}")["NSpid"].split()[-1]
    return ""


def _read_hints(copy: int) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):  # only a memfd has seals
        yield "seals", str(fcntl.fcntl(copy, _F_GET_SEALS))
    with contextlib.suppress(OSError):
        if hint := int.from_bytes(fcntl.fcntl(copy, _F_GET_HINT, bytes(8)), "little"):
            yield "expected lifetime", str(hint)


def _read_terminal(copy: int) -> Facts:
    with contextlib.suppress(OSError, termios.error):
        *modes, _, _, characters = termios.tcgetattr(copy)
        window = _WINDOW.unpack(fcntl.ioctl(copy, termios.TIOCGWINSZ, bytes(_WINDOW.size)))
        settings = [f"{mode:x}" for mode in modes] + [b"".join(map(_as_byte, characters)).hex()]
        return {"terminal settings": " ".join(settings), "window size": "{} {}".format(*window)}
    return {}


def _as_byte(character: bytes | int) -> bytes:
    """Return a control character, which are numbers for MIN and TIME."""
    return character if isinstance(character, bytes) else bytes([character])
