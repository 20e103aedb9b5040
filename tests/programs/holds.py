"""A service that sets what a process can set in the kernel, and tells at /check which of it still holds.

Each trait is set by a function, which returns a check. A trait that this kernel or the container refuses is left out,
with the reason in place of the answer, and so are those that are named as arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT = 8080
MAIN, THREAD, CHILD = "main", "thread", "child"
libc = ctypes.CDLL(None, use_errno=True)
kept: list[object] = []

Check = Callable[[], bool]


@dataclass(frozen=True)
class Trait:
    """A trait.

    Attributes:
        name: its name.
        fact: the fact of the comparison that tells of it.
        place: where it is set: in the first process, in a thread of its own, or in a process of its own.
        make: sets it, and returns its check.
    """

    name: str
    fact: str
    place: str
    make: Callable[[], Check]


traits: list[Trait] = []


def trait(name: str, fact: str, place: str = MAIN) -> Callable[[Callable[[], Check]], Callable[[], Check]]:
    def add(make: Callable[[], Check]) -> Callable[[], Check]:
        traits.append(Trait(name, fact, place, make))
        return make

    return add


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(*words: object) -> int:
    return check(libc.prctl(*words, *[0] * (5 - len(words))))


def syscall(*words: object) -> int:
    return check(libc.syscall(*[ctypes.c_long(word) if isinstance(word, int) else word for word in words]))


def read_prctl(option: int, size: int = 4) -> int:
    buffer = ctypes.create_string_buffer(8)
    prctl(option, buffer)
    return int.from_bytes(buffer.raw[:size], "little")


def status(name: str, thread: int | None = None) -> str:
    number = thread or threading.get_native_id()
    lines = Path(f"/proc/self/task/{number}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


# Settings of threads


@trait("nice value", "nice", THREAD)
def make_nice() -> Check:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 9)
    return lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 9


@trait("batch scheduling", "policy", THREAD)
def make_batch() -> Check:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return lambda: os.sched_getscheduler(0) == os.SCHED_BATCH


@trait("idle scheduling", "policy", THREAD)
def make_idle() -> Check:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return lambda: os.sched_getscheduler(0) == os.SCHED_IDLE


@trait("reset on fork", "scheduling flags", THREAD)
def make_reset_on_fork() -> Check:
    os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    return lambda: bool(os.sched_getscheduler(0) & os.SCHED_RESET_ON_FORK)


@trait("time slice", "slice", THREAD)
def make_slice() -> Check:
    wanted = 5_000_000
    syscall(314, 0, struct.pack("=IIQiIQQQ", 48, 0, 0, 0, 0, wanted, 0, 0), 0)

    def holds() -> bool:
        buffer = ctypes.create_string_buffer(56)
        syscall(315, 0, buffer, 56, 0)
        return int(struct.unpack_from("=Q", buffer, 24)[0]) == wanted

    if not holds():
        raise OSError("this kernel has one slice for all")
    return holds


@trait("affinity", "Cpus_allowed_list", THREAD)
def make_affinity() -> Check:
    if len(os.sched_getaffinity(0)) < 2:
        raise OSError("there is one processor")
    one = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, one)
    return lambda: os.sched_getaffinity(0) == one


@trait("timer slack", "timer slack", THREAD)
def make_timer_slack() -> Check:
    prctl(29, 40_000_000)
    return lambda: prctl(30) == 40_000_000


@trait("blocked signals", "SigBlk", THREAD)
def make_blocked() -> Check:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    return lambda: signal.SIGWINCH in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@trait("no_new_privs", "NoNewPrivs", THREAD)
def make_no_new_privs() -> Check:
    prctl(38, 1)
    return lambda: prctl(39) == 1


@trait("keep capabilities", "securebits", THREAD)
def make_keep_capabilities() -> Check:
    prctl(8, 1)
    return lambda: prctl(7) == 1


@trait("no ambient capabilities", "securebits", THREAD)
def make_securebits() -> Check:
    prctl(28, 1 << 6)
    return lambda: prctl(27) & 1 << 6 != 0


@trait("bounding set", "CapBnd", THREAD)
def make_bounding_set() -> Check:
    if not prctl(23, 10):
        raise OSError("CAP_NET_BIND_SERVICE is not in the set")
    prctl(24, 10)
    return lambda: prctl(23, 10) == 0


@trait("effective capabilities", "CapEff", THREAD)
def make_effective() -> Check:
    header, data = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    check(libc.capget(header, data))
    words = list(struct.unpack("=6I", data.raw))
    if not words[0] & 1 << 10:
        raise OSError("it has no CAP_NET_BIND_SERVICE")
    words[0] &= ~(1 << 10)
    check(libc.capset(header, struct.pack("=6I", *words)))
    return lambda: not int(status("CapEff"), 16) & 1 << 10


@trait("seccomp filter", "Seccomp_filters", THREAD)
def make_filter() -> Check:
    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 171), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]  # setdomainname
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    prctl(38, 1)
    prctl(22, 2, struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    before = int(status("Seccomp_filters"))
    return lambda: int(status("Seccomp_filters")) >= before


@trait("Landlock", "Landlock", CHILD)
def make_landlock() -> Check:
    rules = check(libc.syscall(444, struct.pack("=Q", 1 << 8), 8, 0))  # LANDLOCK_ACCESS_FS_MAKE_REG
    prctl(38, 1)
    check(libc.syscall(446, rules, 0))
    os.close(rules)
    path = Path(f"/tmp/made.{os.getpid()}")

    def holds() -> bool:
        try:
            path.touch()
        except PermissionError:
            return True
        path.unlink()
        return False

    return holds


@trait("machine check policy", "machine check policy", THREAD)
def make_machine_check() -> Check:
    prctl(33, 1, 1)
    return lambda: prctl(34) == 1


@trait("parent-death signal", "parent-death signal", CHILD)
def make_parent_death() -> Check:
    prctl(1, signal.SIGUSR2)
    return lambda: read_prctl(2) == signal.SIGUSR2


@trait("parent-death signal of the first process", "parent-death signal")
def make_first_parent_death() -> Check:
    prctl(1, signal.SIGUSR2)
    return lambda: read_prctl(2) == signal.SIGUSR2


@trait("signal stack", "signal stack", THREAD)
def make_signal_stack() -> Check:
    stack = ctypes.create_string_buffer(1 << 16)
    kept.append(stack)
    check(libc.sigaltstack(struct.pack("PixxxxQ", ctypes.addressof(stack), 0, len(stack)), None))

    def holds() -> bool:
        old = ctypes.create_string_buffer(24)
        check(libc.sigaltstack(None, old))
        return bool(struct.unpack_from("P", old)[0] == ctypes.addressof(stack))

    return holds


@trait("memory policy", "memory policy", THREAD)
def make_memory_policy() -> Check:
    syscall(238, 3, struct.pack("=Q", 1), 64)  # MPOL_INTERLEAVE

    def holds() -> bool:
        mode = ctypes.c_int()
        syscall(239, ctypes.byref(mode), None, 0, None, 0)
        return mode.value == 3

    return holds


@trait("robust list", "robust list", THREAD)
def make_robust_list() -> Check:
    def read() -> int:
        head, size = ctypes.c_void_p(), ctypes.c_size_t()
        syscall(274, 0, ctypes.byref(head), ctypes.byref(size))
        return head.value or 0

    before = read()
    return lambda: read() == before != 0


@trait("address cleared at exit", "cleared at exit", THREAD)
def make_cleared() -> Check:
    before = read_prctl(40, 8)
    return lambda: read_prctl(40, 8) == before != 0


@trait("L1D flush", "L1D flush", THREAD)
def make_l1d_flush() -> Check:
    prctl(53, 2, 2)
    return lambda: prctl(52, 2) & 2 != 0


@trait("name of a thread", "name", THREAD)
def make_name() -> Check:
    prctl(15, b"named")
    return lambda: Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text() == "named\n"


def make_key(name: str, keyring: int) -> None:
    @trait(f"key in the keyring of the {name}", f"keys of the {name}", THREAD)
    def make() -> Check:
        number = syscall(248, b"user", f"warmstart:{name}".encode(), b"secret", 6, keyring)

        def holds() -> bool:
            with contextlib.suppress(OSError):
                buffer = ctypes.create_string_buffer(6)
                return syscall(250, 11, number, buffer, 6) == 6 and buffer.raw == b"secret"
            return False

        return holds


for _number, _name in enumerate(("thread", "process", "session"), 1):
    make_key(_name, -_number)

# Settings of processes


@trait("umask", "Umask")
def make_umask() -> Check:
    os.umask(0o027)
    return lambda: status("Umask") == "0027"


@trait("working directory", "cwd")
def make_cwd() -> Check:
    os.chdir("/tmp")
    return lambda: Path.cwd() == Path("/tmp")


def make_limit(number: int, name: str) -> None:
    @trait(f"limit of {name}", f"limit {name}")
    def make() -> Check:
        soft, hard = resource.getrlimit(number)
        wanted = (100_000_000 if soft in (-1, 0) else soft // 2, hard)
        if hard not in (-1, 0) and wanted[0] > hard:
            raise OSError("the hard limit is below it")
        resource.setrlimit(number, wanted)
        return lambda: resource.getrlimit(number) == wanted


for _number, _name in {
    resource.RLIMIT_NOFILE: "open files",
    resource.RLIMIT_FSIZE: "file size",
    resource.RLIMIT_CPU: "cpu time",
    resource.RLIMIT_STACK: "stack size",
    resource.RLIMIT_MEMLOCK: "locked memory",
    resource.RLIMIT_SIGPENDING: "pending signals",
    resource.RLIMIT_MSGQUEUE: "msgqueue size",
    resource.RLIMIT_RTTIME: "realtime timeout",
    10: "file locks",
}.items():
    make_limit(_number, _name)


@trait("ignored signal", "SigIgn")
def make_ignored() -> Check:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return lambda: signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN and int(status("SigIgn"), 16) & 1 << 9 != 0


@trait("handled signal", "SigCgt")
def make_handled() -> Check:
    signal.signal(signal.SIGHUP, lambda *_: None)
    return lambda: int(status("SigCgt"), 16) & 1 != 0


@trait("calls restart after a signal", "signal actions")
def make_restarting() -> Check:
    signal.signal(signal.SIGWINCH, lambda *_: None)
    signal.siginterrupt(signal.SIGWINCH, False)

    def holds() -> bool:
        old = ctypes.create_string_buffer(32)
        syscall(13, int(signal.SIGWINCH), None, old, 8)
        return struct.unpack_from("=Q", old, 8)[0] & 0x10000000 != 0

    return holds


def make_setting(name: str, fact: str, setter: tuple[int, ...], getter: int, value: int) -> None:
    @trait(name, fact, CHILD)
    def make() -> Check:
        prctl(*setter)
        return lambda: prctl(getter) == value


make_setting("not dumpable", "dumpable", (4, 0), 3, 0)
make_setting("no huge pages", "huge pages off", (41, 1), 42, 1)
make_setting("huge pages only where advised", "huge pages off", (41, 1, 2), 42, 3)
make_setting("memory-deny-write-execute", "no writable code", (65, 1), 66, 1)
make_setting("merged memory", "merges memory", (67, 1), 68, 1)
make_setting("I/O flusher", "I/O flusher", (57, 1), 58, 1)


@trait("child subreaper", "child subreaper", CHILD)
def make_subreaper() -> Check:
    prctl(36, 1)
    return lambda: read_prctl(37) == 1


def read_flags(address: int) -> set[str]:
    """Return the VmFlags of the mapping at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            start, end = (int(word, 16) for word in words[0].split("-"))
            inside = start <= address < end
        elif inside and words[0] == "VmFlags:":
            return set(words[1:])
    return set()


def find_address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


@trait("lock of new mappings", "locks new mappings", CHILD)
def make_locking() -> Check:
    check(libc.mlockall(2 | 4))  # MCL_FUTURE | MCL_ONFAULT

    def holds() -> bool:
        mapping = mmap.mmap(-1, 1 << 16)
        kept.append(mapping)
        return "lo" in read_flags(find_address(mapping))

    return holds


@trait("contents of core dumps", "coredump_filter", CHILD)
def make_core_filter() -> Check:
    path = Path("/proc/self/coredump_filter")
    path.write_text("0x7")
    return lambda: int(path.read_text(), 16) == 7


@trait("oom_score_adj", "oom_score_adj", CHILD)
def make_oom_score() -> Check:
    path = Path("/proc/self/oom_score_adj")
    wanted = int(path.read_text()) + 7
    path.write_text(str(wanted))
    return lambda: int(path.read_text()) == wanted


@trait("personality", "personality", CHILD)
def make_personality() -> Check:
    wanted = check(libc.personality(0xFFFFFFFF)) | 0x0040000
    check(libc.personality(wanted))
    return lambda: libc.personality(0xFFFFFFFF) == wanted


@trait("session", "session", CHILD)
def make_session() -> Check:
    os.setsid()
    return lambda: os.getsid(0) == os.getpid()


@trait("child that nobody has waited for", "zombie", CHILD)
def make_zombie() -> Check:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@trait("process group", "process group", CHILD)
def make_group() -> Check:
    os.setpgid(0, 0)
    return lambda: os.getpgid(0) == os.getpid()


@trait("nice value of the session", "nice value of the session", CHILD)
def make_autogroup() -> Check:
    os.setsid()
    path = Path("/proc/self/autogroup")
    path.write_text("5")
    return lambda: path.read_text().split()[-1] == "5"


@trait("I/O priority", "I/O priority")
def make_io_priority() -> Check:
    number = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
    syscall(number, 1, 0, (2 << 13) | 6)
    return lambda: syscall(number + 1, 1, 0) == (2 << 13) | 6


@trait("local descriptor table", "LDT", CHILD)
def make_ldt() -> Check:
    syscall(154, 1, struct.pack("=IIII", 1, 0x1000, 0xFFFF, 0x51), 16)

    def holds() -> bool:
        return any(ctypes.string_at(buffer, syscall(154, 0, buffer, 64)))

    buffer = ctypes.create_string_buffer(64)
    return holds


def make_interval_timer(name: str, which: int) -> None:
    @trait(f"{name} interval timer", f"{name} interval timer", CHILD)
    def make() -> Check:
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_IGN)
        signal.setitimer(which, 3000, 1000)
        return lambda: signal.getitimer(which)[0] > 0 and signal.getitimer(which)[1] == 1000


make_interval_timer("real", signal.ITIMER_REAL)
make_interval_timer("virtual", signal.ITIMER_VIRTUAL)
make_interval_timer("profiling", signal.ITIMER_PROF)


@trait("alarm", "real interval timer", CHILD)
def make_alarm() -> Check:
    signal.alarm(5000)
    return lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0


class SignalEvent(ctypes.Structure):
    """Struct sigevent."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_char * 48),
    )


def make_posix_timer(name: str, fact: str, clock: int) -> None:
    @trait(name, fact, CHILD)
    def make() -> Check:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        number, event = ctypes.c_void_p(), SignalEvent(None, signal.SIGUSR1, 0)
        check(libc.timer_create(clock, ctypes.byref(event), ctypes.byref(number)))
        check(libc.timer_settime(number, 0, struct.pack("qqqq", 500, 0, 900, 0), None))

        def holds() -> bool:
            buffer = ctypes.create_string_buffer(32)
            check(libc.timer_gettime(number, buffer))
            interval_s, _, value_s, _ = struct.unpack("qqqq", buffer)
            return interval_s == 500 and value_s > 0

        return holds


make_posix_timer("POSIX timer", "timers", time.CLOCK_MONOTONIC)
make_posix_timer("POSIX timer of the wall clock", "timers", time.CLOCK_REALTIME)
make_posix_timer("POSIX timer since boot", "intervals of timers", time.CLOCK_BOOTTIME)

# Mappings


def make_mapping(name: str, advice: int, flag: str) -> None:
    @trait(f"mapping {name}", f"mappings {name}")
    def make() -> Check:
        mapping = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        kept.append(mapping)
        address = find_address(mapping)
        check(libc.madvise(ctypes.c_void_p(address), 1 << 22, advice))
        if flag not in read_flags(address):
            raise OSError("the kernel does not show it")
        return lambda: flag in read_flags(address)


make_mapping("not inherited by fork", 10, "dc")
make_mapping("wiped on fork", 18, "wf")
make_mapping("not in core dumps", 16, "dd")
make_mapping("huge pages", 14, "hg")
make_mapping("no huge pages", 15, "nh")
make_mapping("mergeable", 12, "mg")
make_mapping("read in sequence", 2, "sr")
make_mapping("read at random", 1, "rr")


@trait("mapping locked", "mappings locked")
def make_locked() -> Check:
    mapping = mmap.mmap(-1, 4096)
    kept.append(mapping)
    check(libc.mlock(ctypes.c_void_p(find_address(mapping)), 4096))
    return lambda: "lo" in read_flags(find_address(mapping))


@trait("protection key", "protection keys")
def make_protection_key() -> Check:
    key = syscall(330, 0, 0)
    mapping = mmap.mmap(-1, 4096)
    kept.append(mapping)
    syscall(329, find_address(mapping), 4096, 3, key)
    return lambda: f"ProtectionKey: {key:>14}" in Path("/proc/self/smaps").read_text()


# Descriptors


def has_flag(descriptor: int, flag: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & flag)


def make_flag(name: str, flag: int) -> None:
    @trait(f"flag {name}", "flags")
    def make() -> Check:
        descriptor = os.open(f"/tmp/holds.{name}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flag)
        if not has_flag(descriptor, flag):
            raise OSError("the file system ignores it")
        return lambda: has_flag(descriptor, flag)


make_flag("append", os.O_APPEND)
make_flag("nonblock", os.O_NONBLOCK)
make_flag("noatime", os.O_NOATIME)
make_flag("direct", os.O_DIRECT)


@trait("inherited descriptor", "flags")
def make_inherited() -> Check:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    return lambda: os.get_inheritable(descriptor)


@trait("O_PATH", "flags")
def make_path() -> Check:
    descriptor = os.open("/usr", os.O_PATH)
    return lambda: has_flag(descriptor, os.O_PATH)


@trait("position in a file", "pos")
def make_position() -> Check:
    descriptor = os.open("/tmp/holds.position", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"12345")
    os.lseek(descriptor, 3, os.SEEK_SET)
    return lambda: os.lseek(descriptor, 0, os.SEEK_CUR) == 3


@trait("eventfd as semaphore", "semaphore")
def make_semaphore() -> Check:
    descriptor = os.eventfd(100, os.EFD_SEMAPHORE)
    return lambda: os.eventfd_read(descriptor) == 1


@trait("count of an eventfd", "eventfd-count")
def make_count() -> Check:
    descriptor = os.eventfd(7)
    return lambda: f"eventfd-count: {7:>16x}" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


def make_timerfd(name: str, fact: str, clock: int, flags: int, interval_s: int, interval_ns: int) -> None:
    @trait(name, fact)
    def make() -> Check:
        descriptor = check(libc.timerfd_create(clock, os.O_CLOEXEC | os.O_NONBLOCK))
        first = (int(time.clock_gettime(clock)) + 3600, 0) if flags & 1 else (interval_s, interval_ns)
        check(libc.timerfd_settime(descriptor, flags, struct.pack("qqqq", interval_s, interval_ns, *first), None))

        def holds() -> bool:
            text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
            is_set = f"settime flags: 0{flags:o}" in text and f"it_interval: ({interval_s}, {interval_ns})" in text
            ticks = True
            if not flags:
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 8)
                ticks = bool(select.select([descriptor], [], [], 0.5)[0])
            return is_set and ticks and f"clockid: {clock}" in text

        return holds


make_timerfd("timerfd of 5 ms", "ticking", time.CLOCK_MONOTONIC, 0, 0, 5_000_000)
make_timerfd("timerfd of 50 ms", "interval", time.CLOCK_MONOTONIC, 0, 0, 50_000_000)
make_timerfd("timerfd of the wall clock", "clock", time.CLOCK_REALTIME, 0, 0, 50_000_000)
make_timerfd("timerfd that is cancelled", "settime flags", time.CLOCK_REALTIME, 3, 77, 0)


@trait("signalfd", "signals")
def make_signalfd() -> Check:
    descriptor = check(libc.signalfd(-1, struct.pack("=Q", 1 << 9).ljust(128, b"\0"), os.O_CLOEXEC))
    return lambda: f"sigmask:\t{1 << 9:016x}" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


def make_epoll(name: str, fact: str, events: int) -> None:
    @trait(name, fact)
    def make() -> Check:
        reader, _ = os.pipe()
        watcher = select.epoll()
        kept.append(watcher)
        data = 0x1234_5678_9ABC
        check(libc.epoll_ctl(watcher.fileno(), 1, reader, struct.pack("=IQ", events, data)))

        def holds() -> bool:
            text = Path(f"/proc/self/fdinfo/{watcher.fileno()}").read_text().lower().split()
            return f"{events | 0x18:x}" in text and f"{data:x}" in text

        return holds


make_epoll("epoll", "watched descriptors", select.EPOLLIN)
make_epoll("edge-triggered epoll", "registrations", select.EPOLLIN | select.EPOLLET)
make_epoll("epoll once", "registrations", select.EPOLLIN | select.EPOLLONESHOT)
make_epoll("exclusive epoll", "registrations", select.EPOLLIN | select.EPOLLEXCLUSIVE)


@trait("inotify", "watches")
def make_inotify() -> Check:
    descriptor = check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    check(libc.inotify_add_watch(descriptor, b"/dev", 0x100))
    return lambda: "mask:100 " in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


@trait("fanotify", "fanotify marks")
def make_fanotify() -> Check:
    descriptor = check(libc.fanotify_init(0x200 | 1, 0))  # FAN_REPORT_FID | FAN_CLOEXEC
    check(libc.fanotify_mark(descriptor, 1, ctypes.c_uint64(0x100), -100, b"/dev"))
    return lambda: "mask:100 " in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


@trait("seals", "seals")
def make_seals() -> Check:
    memory = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(memory, 1033, 6)
    return lambda: fcntl.fcntl(memory, 1034) == 6


@trait("size of a pipe", "pipe size")
def make_pipe() -> Check:
    _, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 1 << 19)
    return lambda: fcntl.fcntl(writer, 1032) == 1 << 19


@trait("data in a pipe", "queues")
def make_pipe_data() -> Check:
    reader, writer = os.pipe()
    os.write(writer, b"data")
    size = ctypes.c_int()

    def holds() -> bool:
        check(libc.ioctl(reader, termios.FIONREAD, ctypes.byref(size)))
        return size.value == 4

    return holds


@trait("signal for input", "signal")
def make_signal_for_input() -> Check:
    reader, _ = os.pipe()
    fcntl.fcntl(reader, 10, signal.SIGUSR1)
    return lambda: fcntl.fcntl(reader, 11) == signal.SIGUSR1


@trait("owner of the signal", "owner")
def make_owner() -> Check:
    reader, _ = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
    return lambda: fcntl.fcntl(reader, fcntl.F_GETOWN) == os.getpid()


@trait("pidfd", "process")
def make_pidfd() -> Check:
    descriptor = os.pidfd_open(os.getpid())
    return lambda: f"NSpid:\t{os.getpid()}" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


def make_lock(name: str, lock: Callable[[int], object]) -> None:
    @trait(name, "locks")
    def make() -> Check:
        descriptor = os.open(f"/tmp/holds.{name.replace(' ', '-')}", os.O_RDWR | os.O_CREAT, 0o600)
        lock(descriptor)
        return lambda: "lock:" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()


make_lock("flock", lambda descriptor: fcntl.flock(descriptor, fcntl.LOCK_EX))
make_lock("POSIX lock", lambda descriptor: fcntl.lockf(descriptor, fcntl.LOCK_EX))
make_lock("OFD lock", lambda descriptor: fcntl.fcntl(descriptor, 37, struct.pack("hhqqi", 1, 0, 0, 0, 0)))
make_lock("lease", lambda descriptor: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK))


@trait("expected lifetime of data", "expected lifetime")
def make_hint() -> Check:
    descriptor = os.open("/tmp/holds.hint", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.fcntl(descriptor, 1037, struct.pack("=Q", 2))
    return lambda: fcntl.fcntl(descriptor, 1036, bytes(8)) == struct.pack("=Q", 2)


# Sockets

SOCKET, IP, TCP, UDP, IPV6 = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 41
TCP_OPTIONS = {
    "SO_KEEPALIVE": (SOCKET, 9, 1),
    "SO_OOBINLINE": (SOCKET, 10, 1),
    "SO_DEBUG": (SOCKET, 1, 1),
    "SO_REUSEPORT": (SOCKET, 15, 1),
    "SO_RCVLOWAT": (SOCKET, 18, 7),
    "SO_MAX_PACING_RATE": (SOCKET, 47, 10**6),
    "SO_ZEROCOPY": (SOCKET, 60, 1),
    "SO_BUSY_POLL": (SOCKET, 46, 9),
    "SO_TXREHASH": (SOCKET, 74, 0),
    "IP_TOS": (IP, 1, 0x10),
    "IP_MINTTL": (IP, 21, 3),
    "IP_BIND_ADDRESS_NO_PORT": (IP, 24, 1),
    "IP_LOCAL_PORT_RANGE": (IP, 51, struct.pack("=HH", 40000, 50000)),
    "IP_UNICAST_IF": (IP, 50, 1 << 24),
    "TCP_NODELAY": (TCP, 1, 1),
    "TCP_MAXSEG": (TCP, 2, 900),
    "TCP_CORK": (TCP, 3, 1),
    "TCP_KEEPIDLE": (TCP, 4, 77),
    "TCP_KEEPINTVL": (TCP, 5, 11),
    "TCP_KEEPCNT": (TCP, 6, 4),
    "TCP_SYNCNT": (TCP, 7, 3),
    "TCP_LINGER2": (TCP, 8, 30),
    "TCP_DEFER_ACCEPT": (TCP, 9, 3),
    "TCP_WINDOW_CLAMP": (TCP, 10, 9000),
    "TCP_THIN_LINEAR_TIMEOUTS": (TCP, 16, 1),
    "TCP_USER_TIMEOUT": (TCP, 18, 5000),
    "TCP_FASTOPEN": (TCP, 23, 64),
    "TCP_NOTSENT_LOWAT": (TCP, 25, 16384),
    "TCP_SAVE_SYN": (TCP, 27, 1),
    "TCP_FASTOPEN_NO_COOKIE": (TCP, 34, 1),
    "TCP_INQ": (TCP, 36, 1),
    "TCP_TX_DELAY": (TCP, 37, 5),
    "TCP_RTO_MAX_MS": (TCP, 44, 5000),
}
UDP_OPTIONS = {
    "SO_BROADCAST": (SOCKET, 6, 1),
    "SO_PRIORITY": (SOCKET, 12, 5),
    "SO_NO_CHECK": (SOCKET, 11, 1),
    "SO_TIMESTAMP": (SOCKET, 29, 1),
    "SO_RXQ_OVFL": (SOCKET, 40, 1),
    "SO_SELECT_ERR_QUEUE": (SOCKET, 45, 1),
    "SO_PEEK_OFF": (SOCKET, 42, 3),
    "SO_RCVPRIORITY": (SOCKET, 82, 1),
    "IP_TTL": (IP, 2, 33),
    "IP_RECVOPTS": (IP, 6, 1),
    "IP_RETOPTS": (IP, 7, 1),
    "IP_PKTINFO": (IP, 8, 1),
    "IP_MTU_DISCOVER": (IP, 10, 2),
    "IP_RECVERR": (IP, 11, 1),
    "IP_RECVTTL": (IP, 12, 1),
    "IP_RECVTOS": (IP, 13, 1),
    "IP_FREEBIND": (IP, 15, 1),
    "IP_PASSSEC": (IP, 18, 1),
    "IP_RECVORIGDSTADDR": (IP, 20, 1),
    "IP_CHECKSUM": (IP, 23, 1),
    "IP_RECVFRAGSIZE": (IP, 25, 1),
    "IP_RECVERR_RFC4884": (IP, 26, 1),
    "IP_MULTICAST_TTL": (IP, 33, 9),
    "IP_MULTICAST_LOOP": (IP, 34, 0),
    "UDP_SEGMENT": (UDP, 103, 1200),
    "UDP_GRO": (UDP, 104, 1),
}
IPV6_OPTIONS = {
    "SO_DONTROUTE": (SOCKET, 5, 1),
    "SO_TIMESTAMPNS": (SOCKET, 35, 1),
    "SO_TIMESTAMPING": (SOCKET, 37, 16),
    "IPV6_UNICAST_HOPS": (IPV6, 16, 44),
    "IPV6_MULTICAST_HOPS": (IPV6, 18, 5),
    "IPV6_MULTICAST_LOOP": (IPV6, 19, 0),
    "IPV6_MTU_DISCOVER": (IPV6, 23, 2),
    "IPV6_RECVERR": (IPV6, 25, 1),
    "IPV6_V6ONLY": (IPV6, 26, 1),
    "IPV6_RECVERR_RFC4884": (IPV6, 31, 1),
    "IPV6_FLOWINFO_SEND": (IPV6, 33, 1),
    "IPV6_RECVPKTINFO": (IPV6, 49, 1),
    "IPV6_RECVHOPLIMIT": (IPV6, 51, 1),
    "IPV6_RECVHOPOPTS": (IPV6, 53, 1),
    "IPV6_RECVRTHDR": (IPV6, 56, 1),
    "IPV6_RECVDSTOPTS": (IPV6, 58, 1),
    "IPV6_RECVPATHMTU": (IPV6, 60, 1),
    "IPV6_DONTFRAG": (IPV6, 62, 1),
    "IPV6_RECVTCLASS": (IPV6, 66, 1),
    "IPV6_TCLASS": (IPV6, 67, 8),
    "IPV6_AUTOFLOWLABEL": (IPV6, 70, 0),
    "IPV6_ADDR_PREFERENCES": (IPV6, 72, 1),
    "IPV6_MINHOPCOUNT": (IPV6, 73, 3),
    "IPV6_RECVORIGDSTADDR": (IPV6, 74, 1),
    "IPV6_RECVFRAGSIZE": (IPV6, 77, 1),
    "IPV6_FREEBIND": (IPV6, 78, 1),
    "IPV6_UNICAST_IF": (IPV6, 76, 1 << 24),
    "UDP_NO_CHECK6_TX": (UDP, 101, 1),
    "UDP_NO_CHECK6_RX": (UDP, 102, 1),
}
UNIX_OPTIONS = {"SO_PASSCRED": (SOCKET, 16, 1), "SO_PASSPIDFD": (SOCKET, 76, 1), "SO_PASSRIGHTS": (SOCKET, 83, 0)}
NETLINK_OPTIONS = {"NETLINK_PKTINFO": (270, 3, 1), "NETLINK_BROADCAST_ERROR": (270, 4, 1)}
NETLINK_OPTIONS |= {"NETLINK_NO_ENOBUFS": (270, 5, 1), "NETLINK_CAP_ACK": (270, 10, 1), "NETLINK_EXT_ACK": (270, 11, 1)}
NETLINK_OPTIONS |= {"NETLINK_GET_STRICT_CHK": (270, 12, 1)}


def make_option(opened: socket.socket, name: str, level: int, number: int, value: int | bytes) -> None:
    @trait(f"{name} of {opened.family.name}, {opened.type.name}", name)
    def make() -> Check:
        opened.setsockopt(level, number, value)
        size = len(value) if isinstance(value, bytes) else 0
        before = opened.getsockopt(level, number, size)
        return lambda: opened.getsockopt(level, number, size) == before


def make_sockets() -> None:
    tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    six, local = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    tables = [(tcp, TCP_OPTIONS), (udp, UDP_OPTIONS), (six, IPV6_OPTIONS), (local, UNIX_OPTIONS)]
    tables.append((socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0), NETLINK_OPTIONS))
    for opened, options in tables:
        for name, words in options.items():
            make_option(opened, name, *words)
    make_option(tcp, "SO_LINGER", SOCKET, 13, struct.pack("ii", 1, 5))
    make_option(tcp, "TCP_CONGESTION", TCP, 13, b"reno")
    make_option(tcp, "TCP_FASTOPEN_KEY", TCP, 33, bytes(range(16)))
    make_option(udp, "SO_RCVTIMEO", SOCKET, 20, struct.pack("qq", 3, 0))
    make_option(udp, "SO_SNDTIMEO", SOCKET, 21, struct.pack("qq", 4, 0))
    make_option(udp, "IP_OPTIONS", IP, 4, bytes([1, 1, 1, 0]))
    make_option(six, "IPV6_DSTOPTS", IPV6, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))

    @trait("bound and listening", "backlog")
    def bind() -> Check:
        tcp.bind(("", 0))
        tcp.listen(17)
        udp.bind(("", 0))
        six.bind(("::", 0))
        local.bind("\0warmstart-holds")
        return lambda: struct.unpack_from("=I", tcp.getsockopt(TCP, 11, 64), 28)[0] == 17


make_sockets()


@trait("buffer sizes", "SO_RCVBUF")
def make_buffers() -> Check:
    opened = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.setsockopt(SOCKET, socket.SO_RCVBUF, 150_000)
    opened.setsockopt(SOCKET, socket.SO_SNDBUF, 140_000)
    sizes = [opened.getsockopt(SOCKET, number) for number in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
    return lambda: [opened.getsockopt(SOCKET, number) for number in (socket.SO_RCVBUF, socket.SO_SNDBUF)] == sizes


def keep(opened: socket.socket) -> socket.socket:
    kept.append(opened)
    return opened


@trait("abstract name", "socket name")
def make_abstract_name() -> Check:
    opened = keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    opened.bind("\0warmstart-listens")
    opened.listen(5)

    def holds() -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect("\0warmstart-listens")
            return True
        return False

    return holds


@trait("pair of sockets", "peer")
def make_pair() -> Check:
    one, other = map(keep, socket.socketpair())

    def holds() -> bool:
        one.send(b"x")
        return other.recv(1) == b"x"

    return holds


@trait("shutdown", "shut down")
def make_shutdown() -> Check:
    one, _ = map(keep, socket.socketpair())
    one.shutdown(socket.SHUT_RD)
    one.setblocking(False)

    def holds() -> bool:
        with contextlib.suppress(BlockingIOError):
            return one.recv(1) == b""
        return False

    return holds


@trait("packet filter", "packet filter")
def make_packet_filter() -> Check:
    opened = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    opened.bind(("127.0.0.1", 0))
    opened.settimeout(0.2)
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # drops all
    opened.setsockopt(SOCKET, 26, struct.pack("HxxxxxxP", 1, ctypes.addressof(code)))

    def holds() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", opened.getsockname())
        with contextlib.suppress(TimeoutError):
            return opened.recv(1) is None
        return True

    return holds


@trait("multicast group", "groups")
def make_member() -> Check:
    member = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    member.bind(("", 0))
    group = socket.inet_aton("239.7.7.9") + socket.inet_aton("127.0.0.1")
    member.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, group)
    number = f"{struct.unpack('=I', socket.inet_aton('239.7.7.9'))[0]:08X}"
    return lambda: number in Path("/proc/net/igmp").read_text()


@trait("sources of a group", "sources of groups")
def make_source() -> Check:
    member = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    member.bind(("", 0))
    addresses = [socket.inet_aton(each) for each in ("232.7.7.9", "127.0.0.1", "127.0.0.9")]
    member.setsockopt(IP, 39, b"".join(addresses))  # IP_ADD_SOURCE_MEMBERSHIP
    return lambda: "0xe8070709" in Path("/proc/net/mcfilter").read_text()


@trait("netlink group", "NETLINK_LIST_MEMBERSHIPS")
def make_netlink() -> Check:
    opened = keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    opened.bind((0, 1))
    return lambda: opened.getsockname()[1] == 1


# System V objects: only a program that asks for them can be restored by each restorer


@trait("System V semaphores", "semaphores")
def make_semaphores() -> Check:
    number = check(libc.semget(0x7761726D, 3, 0o1600))
    return lambda: libc.semget(0x7761726D, 3, 0) == number


@trait("System V message queue", "message queues")
def make_queue() -> Check:
    number = check(libc.msgget(0x7761726D, 0o1600))
    return lambda: libc.msgget(0x7761726D, 0) == number


# The service


class Worker:
    """A place where traits are set and checked: one word in, one answer out."""

    def __init__(self, mine: list[Trait]) -> None:
        self.mine = mine
        self.checks: dict[str, Check] = {}
        self.refused: dict[str, str] = {}

    def make(self) -> None:
        for each in self.mine:
            try:
                self.checks[each.name] = each.make()
            except (OSError, ValueError, AttributeError, KeyError) as error:
                self.refused[each.name] = str(error)

    def look(self) -> dict[str, bool | str]:
        answers: dict[str, bool | str] = dict(self.refused)
        for name, holds in self.checks.items():
            try:
                answers[name] = holds()
            except (OSError, ValueError) as error:
                answers[name] = False
                print(f"{name}: {error}", file=sys.stderr, flush=True)
        return answers

    def serve(self, requests: int, answers: int) -> None:
        self.make()
        while os.read(requests, 1):
            text = json.dumps(self.look()).encode()
            os.write(answers, struct.pack("=I", len(text)) + text)


def start(mine: list[Trait], kind: str) -> Callable[[], dict[str, bool | str]]:
    """Start a worker in a thread or process of its own, and return a function that asks it."""
    (requests, to_worker), (from_worker, answers) = os.pipe(), os.pipe()
    worker = Worker(mine)
    if kind == THREAD:
        threading.Thread(target=worker.serve, args=(requests, answers), daemon=True).start()
    elif os.fork() == 0:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) not in (0, 1, 2, requests, answers):
                with contextlib.suppress(OSError):
                    os.close(int(name))
        worker.serve(requests, answers)
        os._exit(0)
    # Of a process that has ended, the other end is closed.
    if kind == CHILD:
        os.close(requests)
        os.close(answers)

    def ask() -> dict[str, bool | str]:
        try:
            os.write(to_worker, b"x")
            (size,) = struct.unpack("=I", os.read(from_worker, 4))
            found: dict[str, bool | str] = json.loads(os.read(from_worker, size))
        except (OSError, struct.error) as error:
            return {each.name: f"its process has ended: {error}" for each in mine}
        return found

    return ask


def start_all(chosen: list[Trait]) -> Iterator[Callable[[], dict[str, bool | str]]]:
    """Start all workers, processes first: an image that restores itself can only make them in this order."""
    children = [start([each], CHILD) for each in chosen if each.place == CHILD]
    for ask in children:
        ask()  # it has made its own children by now
    yield from children
    yield from [start([each], THREAD) for each in chosen if each.place == THREAD]
    main = Worker([each for each in chosen if each.place == MAIN])
    main.make()
    yield main.look


class Handler(BaseHTTPRequestHandler):
    """Answers each request; /check with what holds."""

    workers: Sequence[Callable[[], dict[str, bool | str]]] = ()

    def do_GET(self) -> None:
        workers = self.workers if self.path == "/check" else []
        body = json.dumps({name: it for ask in workers for name, it in ask().items()}).encode()
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Handler.workers = list(start_all([each for each in traits if each.name not in sys.argv[1:]]))
    HTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
