"""Findings of preflight in real containers: one without problems, and others with one each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from warmstart.core.errors import AppError, HostError, PreflightError
from warmstart.dump.preflight import check as preflight
from warmstart.dump.preflight.check import check_processes, raise_on_errors
from warmstart.dump.preflight.finding import Finding, Severity
from warmstart.dump.preflight.processes import find_in_processes
from warmstart.dump.proc.container import read_container
from warmstart.recipe.model import Volume, VolumeKind, VolumeMount

pytestmark = pytest.mark.linux

PROC = Path("/proc")
POD_IP = "192.0.2.7"
CONTAIN = Path(__file__).parents[1] / "programs/contain.sh"
# As with a container runtime, what starts the container stays outside of its namespaces.
CONTAINED = ("unshare", "--pid", "--fork", "--kill-child", "unshare")
NAMESPACES = ("--mount", "--net", "--ipc", "--uts")
PRELUDE = """
import ctypes, fcntl, mmap, os, select, shutil, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result
def keep(function):
    threading.Thread(target=function, daemon=True).start()
def state(pid):
    return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0]
def child(function):
    end, at_work = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        function()
        os.close(at_work)
        time.sleep(600)
    os.close(at_work)
    # Until it has done its work, runs another program, or has lost its main thread.
    while not select.select([end], [], [], 0.01)[0] and state(pid) != 'Z': pass
    os.close(end)
    return pid
def watch(path):
    assert libc.inotify_add_watch(libc.inotify_init(), path.encode(), 2) >= 0
"""
READY = "\nprint('ready', flush=True)\ntime.sleep(600)\n"


@dataclass(frozen=True)
class Started:
    """A running container, with this machine's pid of its first process."""

    pid: int


@contextmanager
def started(
    program: str,
    scratch: Path,
    namespaces: Sequence[str] = NAMESPACES,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> Iterator[Started]:
    """Run a Python program as the first process of a container, and wait until it is ready."""
    scratch.mkdir(exist_ok=True)
    words = [*CONTAINED, *namespaces, "--", CONTAIN, scratch, *before]
    words += [sys.executable, "-I", "-c", PRELUDE + program + READY]
    run = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=pass_fds
    )
    try:
        assert run.stdout is not None
        said = run.stdout.readline().decode()
        if said != "ready\n":
            run.kill()
            pytest.fail(said + run.stdout.read().decode())
        children = (PROC / f"{run.pid}/task/{run.pid}/children").read_text()
        yield Started(int(children))
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()


@contextmanager
def beside(container: Started, *words: str) -> Iterator[None]:
    """Run a program in a namespace of the container, but not as a descendant of its first process."""
    run = subprocess.Popen(["nsenter", "--target", str(container.pid), *words])
    try:
        yield
    finally:
        for child in (PROC / f"{run.pid}/task/{run.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        run.kill()
        run.wait()


def wait_for(look: Callable[[], tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """Wait until there are findings, and return them."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail("nothing was found")


@pytest.fixture(scope="module")
def able_to_contain(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("starts containers, which takes root")
    words = [*CONTAINED, *NAMESPACES, "--", CONTAIN, tmp_path_factory.mktemp("try"), sys.executable, "-V"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this machine does not let containers be started: {tried.stderr.strip()}")


@pytest.fixture
def start(able_to_contain: None, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a container that runs a Python program until the end of the test."""
    with ExitStack() as stack:

        def begin(program: str, **options: Sequence[Any]) -> Started:
            return stack.enter_context(started(program, tmp_path / "container", **options))

        yield begin


def check(container: Started, **options: bool) -> tuple[Finding, ...]:
    return check_processes(PROC, container.pid, pod_ips=[POD_IP], **options)


INNOCENT = """
listener = socket.create_server(('0.0.0.0', 8080))
listener6 = socket.create_server(('::', 8081), family=socket.AF_INET6)
local = socket.create_server(('127.0.0.1', 8082))
unconnected = socket.socket()
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(('0.0.0.0', 5353))
pair = socket.socketpair()
half = socket.socketpair()
half[1].close()
served = socket.socket(socket.AF_UNIX)
served.bind('/tmp/served')
served.listen()
client = socket.socket(socket.AF_UNIX)
client.connect('/tmp/served')
waiting = socket.socket(socket.AF_UNIX)
accepted = served.accept()
waiting.connect('/tmp/served')
abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
abstract.bind('\\0abstract')
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.bind((0, 0))
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)

epoll = select.epoll()
epoll.register(listener)
eventfd = os.eventfd(0)
timer = libc.timerfd_create(1, 0)
signals = libc.signalfd(-1, (ctypes.c_char * 128)(), 0)
own_pidfd = os.pidfd_open(os.getpid())
ended = subprocess.Popen(['true'])
ended_pidfd = os.pidfd_open(ended.pid)
call(206, 128, ctypes.byref(ctypes.c_ulong()))
libc.inotify_init()
watch('/dev/shm')
watch('/etc')
watch('/')

pipe = os.pipe()
os.mkfifo('/tmp/fifo')
fifo = os.open('/tmp/fifo', os.O_RDWR)
terminal = os.openpty()
zero = open('/dev/zero', 'rb')
zeros = mmap.mmap(zero.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
random = open('/dev/urandom', 'rb')
status = open('/proc/self/status')
namespace = open('/proc/self/ns/net')
directory = os.open('/volume', os.O_RDONLY)

memory = os.memfd_create('heap')
os.ftruncate(memory, 4 << 20)
heap = mmap.mmap(memory, 4 << 20)
shared = mmap.mmap(-1, 4 << 20)
segment = libc.shmat(libc.shmget(0, 4 << 20, 0o1600), None, 0)

locked = open('/tmp/locked', 'w')
fcntl.flock(locked, fcntl.LOCK_EX)
log = open('/tmp/log', 'a')
os.rename('/tmp/log', '/tmp/log.1')
changed = open('/etc/passwd')
open('/etc/passwd', 'a').write('# changed')
deleted = open('/tmp/deleted', 'wb')
deleted.write(bytes(500_000))
deleted.flush()
os.unlink('/tmp/deleted')
sparse = open('/dev/shm/sparse', 'w+b')
sparse.truncate(64 << 20)
os.unlink('/dev/shm/sparse')
mapped = mmap.mmap(sparse.fileno(), 64 << 20)
os.mkdir('/tmp/gone')
os.chdir('/tmp/gone')
os.rmdir('/tmp/gone')
shutil.copy(shutil.which('sleep'), '/tmp/sleep')
child(lambda: os.execv('/tmp/sleep', ['sleep', '600']))
os.unlink('/tmp/sleep')

child(lambda: libc.unshare(0x20000))
child(lambda: (os.mkdir('/tmp/jail'), os.chroot('/tmp/jail')))
child(os.setsid)
"""


def test_an_innocent_container_gives_no_finding(start: Callable[..., Started]) -> None:
    assert check(start(INNOCENT)) == ()


# The code of the error, the program that provokes it, what it says, and the fix.
CASES = [
    (
        "coredump-filter",
        "open('/proc/self/coredump_filter', 'w').write('0x10')",
        "It keeps memory out of core dumps",
        "MADV_DONTDUMP",
    ),
    (
        "tcp-established",
        "s = socket.create_server(('127.0.0.1', 8080)); c = socket.create_connection(('127.0.0.1', 8080));"
        "a = s.accept()",
        "It holds a TCP connection inside the container, 127.0.0.1:",
        "`tcp: close`",
    ),
    (
        "tcp-established",
        "s = socket.create_server(('::1', 8080), family=socket.AF_INET6);"
        "c = socket.create_connection(('::1', 8080)); s.accept()[0].close()",
        "[::1]:8080, CLOSE_WAIT.",
        "`tcp: close`",
    ),
    (
        "tcp-established",
        "libc.system(b'ip link add v0 type veth peer name v1; ip address add 198.51.100.2/24 dev v0;"
        "ip link set v0 up; ip link set v1 up');"
        "s = socket.socket(); s.setblocking(False); s.connect_ex(('198.51.100.1', 80))",
        "It holds a TCP connection, 198.51.100.2:",
        "`tcp: close`",
    ),
    (
        "tcp-in-flight",
        "s = socket.create_server(('127.0.0.1', 8080)); socket.create_connection(('127.0.0.1', 8080)).close()",
        "A connection to its TCP port 8080 has not been accepted yet.",
        "stop the client",
    ),
    (
        "mptcp",
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.bind(('0.0.0.0', 8080)); s.listen()",
        "It uses Multipath TCP",
        "GODEBUG=multipathtcp=0",
    ),
    (
        "address-of-pod",
        f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{POD_IP}', 5353))",
        f"Its UDP socket is bound to {POD_IP}:5353",
        "Bind it to 0.0.0.0",
    ),
    (
        "address-of-pod",
        f"s = socket.create_server(('{POD_IP}', 8080))",
        f"Its TCP socket is bound to {POD_IP}:8080",
        "Bind it to 0.0.0.0",
    ),
    (
        "sparse-file",
        "f = open('/srv/map', 'w+b'); f.truncate(1 << 30); f.write(b'head'); f.flush()",
        "Its file /srv/map has 1023 MiB of holes",
        "with a smaller size",
    ),
    (
        "address-of-pod",
        f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('{POD_IP}', 53))",
        f"Its UDP socket is bound to {POD_IP}:",
        "close it before the checkpoint",
    ),
    (
        "socket-unsupported",
        "s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        "It holds a socket of the protocol AF_VSOCK",
        "close it before the checkpoint",
    ),
    (
        "netlink-pending",
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0));"
        "s.send(struct.pack('IHHII', 32, 18, 0x301, 1, 0) + bytes(16))",
        "holds messages that it has not read",
        "read them",
    ),
    ("io-uring", "call(425, 4, (ctypes.c_char * 120)())", "It uses io_uring", "default seccomp profile"),
    ("userfaultfd", "call(323, 0x80001)", "It uses userfaultfd", "page faults"),
    (
        "perf-event",
        "a = (ctypes.c_char * 128)(); struct.pack_into('IIQ', a, 0, 1, 128, 9); call(298, a, 0, -1, -1, 0)",
        "It uses perf_event",
        "Stop the profiler",
    ),
    ("device", "f = os.open('/dev/fuse', os.O_RDWR)", "It uses the device /dev/fuse", "close it before"),
    ("pidfd", "p = os.pidfd_open(os.getpid(), os.O_EXCL)", "a pidfd of a single thread", "close it before"),
    ("pipe-packet", "p = os.pipe2(os.O_DIRECT)", "is in packet mode", "without O_DIRECT"),
    ("file-outside", "call(447, 0)", "open file /secretmem (deleted) lies in none", "close it before"),
    (
        "deleted-file-large",
        "f = open('/tmp/large', 'wb'); f.write(bytes(2 << 20)); f.flush(); os.unlink(f.name)",
        "Its file /tmp/large has been deleted while it is in use, and its 2097152 bytes",
        "keep it under 1048576 bytes",
    ),
    (
        "deleted-file-large",
        "f = open('/dev/shm/large', 'w+b'); f.truncate(2 << 20); m = mmap.mmap(f.fileno(), 2 << 20);"
        "m.write(bytes([1]) * (2 << 20)); os.unlink(f.name); f.close()",
        "Its file /dev/shm/large has been deleted",
        "keep it under 1048576 bytes",
    ),
    (
        "deleted-file-linked",
        "f = open('/tmp/one', 'w'); os.link('/tmp/one', '/tmp/two'); os.unlink('/tmp/one')",
        "Its file /tmp/one has been deleted, or replaced",
        "Leave the file where it is",
    ),
    (
        "deleted-file-linked",
        "f = open('/etc/passwd'); os.unlink('/etc/passwd')",
        "Its file /etc/passwd has been deleted, or replaced",
        "Leave the file where it is",
    ),
    (
        "deleted-file-linked",
        "p = shutil.which('sleep'); child(lambda: os.execv(p, ['sleep', '600'])); os.unlink(os.path.realpath(p))",
        "sleep has been deleted, or replaced",
        "restart what uses it",
    ),
    (
        "file-hidden",
        "os.mkdir('/tmp/d'); f = open('/tmp/d/f', 'w'); libc.mount(b't', b'/tmp/d', b'tmpfs', 0, None)",
        "Its file /tmp/d/f is in use, but that path now leads elsewhere",
        "open it again",
    ),
    (
        "file-in-dev-shm",
        "f = open('/dev/shm/named', 'w')",
        "Its file /dev/shm/named is in use",
        "Close and delete it",
    ),
    (
        "file-watch",
        "os.makedirs('/srv/configuration'); watch('/srv/configuration')",
        "It watches /srv/configuration for changes",
        "Switch off file watching",
    ),
    ("mqueue", "librt = ctypes.CDLL('librt.so.1'); librt.mq_open(b'/q', 0o102, 0o600, None)", "(q)", "mq_unlink"),
    (
        "traced",
        "p = child(lambda: None); assert libc.ptrace(0x4206, p, None, None) == 0",
        "traces it, and CRIU cannot",
        "Detach the debugger",
    ),
    ("nested-namespace", "child(lambda: libc.unshare(0x40000000))", "(net)", "sandbox"),
    ("nested-namespace", "child(lambda: libc.unshare(0x80))", "(time)", "sandbox"),
    ("nested-namespace", "child(lambda: (libc.unshare(0x30000000), os.fork()))", "(user, pid)", "sandbox"),
    (
        "chroot",
        "os.mkdir('/tmp/jail'); child(lambda: (libc.unshare(0x20000), os.chroot('/tmp/jail')))",
        "Its root directory is /tmp/jail",
        "without chroot",
    ),
    (
        "zombie-threads",
        "child(lambda: (keep(lambda: time.sleep(600)), libc.syscall(60, 0)))",
        "Its main thread has ended but other threads still run",
        "pthread_join",
    ),
    (
        "shared-code",
        "libc.mmap.restype = ctypes.c_void_p; libc.mmap(ctypes.c_void_p(0x200000), 8192, 5, 0x31, -1, 0)",
        "Its first executable mapping is shared memory",
        "opcache.jit=disable",
    ),
]


@pytest.mark.parametrize(("code", "program", "what", "fix"), CASES, ids=[case[0] for case in CASES])
def test_error(start: Callable[..., Started], code: str, program: str, what: str, fix: str) -> None:
    findings = [finding for finding in check(start(program)) if finding.code != "session-outside"]
    assert {finding.code for finding in findings} == {code}
    assert all(finding.is_error and fix in finding.fix for finding in findings)
    assert any(what in finding.what for finding in findings)


def test_warnings(start: Callable[..., Started]) -> None:
    container = start(f"""
f = open('/volume/file', 'w')
libc.personality(0x0040000)
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(('::ffff:{POD_IP}', 5353))
a = (ctypes.c_char * 128)()
struct.pack_into('IIII', a, 0, 2, 4, 8, 4)
call(321, 0, a, 72)
""")
    findings = {finding.code: finding for finding in check(container)}
    assert findings.keys() == {"file-on-volume", "address-of-pod", "bpf-map", "personality"}
    assert all(finding.severity is Severity.WARNING for finding in findings.values())
    assert "/volume/file is in use and lies on the volume /volume" in findings["file-on-volume"].what
    assert "it restores, but receives nothing" in findings["address-of-pod"].what


DATABASES = """
import sqlite3
journal, log = sqlite3.connect('/srv/journal.db'), sqlite3.connect('/srv/log.db')
log.execute('pragma journal_mode=wal')
for each in (journal, log):
    each.execute('create table t (n)')
    each.commit()
sqlite3.connect('file:/srv/journal.db?mode=ro', uri=True)
"""


def test_a_database_that_could_not_be_written_to_is_a_warning(start: Callable[..., Started]) -> None:
    (finding,) = check(start(DATABASES))
    assert (finding.code, finding.severity) == ("sqlite-journal", Severity.WARNING)
    assert "the SQLite database /srv/journal.db" in finding.what


LEASED = """
import signal
signal.signal(signal.SIGIO, signal.SIG_IGN)
leased = open('/srv/leased', 'w+b')
fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
"""


def test_a_lease_is_not_broken(start: Callable[..., Started]) -> None:
    container = start(LEASED)
    assert check(container) == ()
    descriptors = (PROC / f"{container.pid}/fdinfo").iterdir()
    assert any("LEASE  ACTIVE    WRITE" in descriptor.read_text() for descriptor in descriptors)


def test_a_client_of_datagrams_is_connected_anew(start: Callable[..., Started]) -> None:
    # The address of the pod, as it is chosen for any peer.
    program = (
        f"libc.system(b'ip address add {POD_IP}/24 dev lo');"
        f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{POD_IP}', 0));"
        "s.connect(('192.0.2.9', 8125))"
    )
    assert not [finding for finding in check(start(program)) if finding.code == "address-of-pod"]


def test_files_in_shared_memory_that_nobody_has_open_are_a_warning(start: Callable[..., Started]) -> None:
    container = start("open('/dev/shm/state', 'w').close()")
    (finding,) = check(container)
    assert (finding.code, finding.severity) == ("file-in-dev-shm", Severity.WARNING)
    assert "(state)" in finding.what
    assert check(container, by_runtime=False) == ()


def test_the_launcher_keeps_files_in_shared_memory(start: Callable[..., Started]) -> None:
    assert check(start("f = open('/dev/shm/named', 'w')"), by_runtime=False) == ()


VOLUME = "file = open('/volume/file', 'w'); os.mkdir('/volume/in'); os.mkdir('/volume/hsperfdata_app')\n"


@pytest.mark.parametrize(
    ("kind", "program", "by_runtime", "fixes"),
    [
        (VolumeKind.EMPTY_DIR, VOLUME, True, ["restore: [self]"]),
        (VolumeKind.EMPTY_DIR, VOLUME + "os.chdir('/volume/in')", True, ["restore: [self]"] * 2),
        (VolumeKind.EMPTY_DIR, VOLUME + "os.chdir('/volume')", False, []),
        (VolumeKind.FILES, VOLUME, False, ["once it has been read"]),
        (VolumeKind.LASTING, VOLUME, False, ["first open it after the restore"]),
        (VolumeKind.LASTING, "os.chdir('/volume'); d = os.open('/volume', os.O_RDONLY)", True, []),
        (
            VolumeKind.EMPTY_DIR,
            "os.mkdir('/volume/hsperfdata_app'); f = open('/volume/hsperfdata_app/1', 'w+b'); f.write(b'x' * 4096);"
            "f.flush(); m = mmap.mmap(f.fileno(), 4096); f.close()",
            True,
            ["-XX:-UsePerfData"],
        ),
    ],
)
def test_files_in_use_on_a_volume_of_the_pod_are_errors(
    start: Callable[..., Started], kind: VolumeKind, program: str, by_runtime: bool, fixes: list[str]
) -> None:
    # The mount is found behind a link.
    container = start("os.symlink('/volume', '/linked')\n" + program)
    mount = VolumeMount(Volume("data", kind), "/linked")
    found = check_processes(PROC, container.pid, pod_ips=[], volumes=[mount], by_runtime=by_runtime)
    assert [finding.code for finding in found] == ["open-on-volume"] * len(fixes)
    assert all(fix in finding.fix for fix, finding in zip(fixes, found, strict=True))
    assert all("the volume data (/volume)" in finding.what for finding in found)


def test_connections_that_will_be_closed_only_warn(start: Callable[..., Started]) -> None:
    container = start(
        "s = socket.create_server(('127.0.0.1', 80)); c = socket.create_connection(('127.0.0.1', 80)); a = s.accept()"
    )
    (finding,) = check(container, close_tcp=True)
    assert (finding.code, finding.severity) == ("tcp-established", Severity.WARNING)
    assert "connect again" in finding.fix


def test_a_pool_of_connections_is_one_warning(start: Callable[..., Started]) -> None:
    container = start(
        "s = socket.create_server(('127.0.0.1', 80)); pid = os.fork();"
        "pool = [socket.create_connection(('127.0.0.1', 80)) if pid else s.accept() for _ in range(3)]"
    )
    findings = [finding for finding in check(container, close_tcp=True) if finding.code == "tcp-established"]
    assert len(findings) == 1
    assert "3 TCP connections" in findings[0].what


def test_a_stopped_process_where_the_freezer_is_of_cgroup_v1(start: Callable[..., Started]) -> None:
    container = start("pid = child(lambda: None); os.kill(pid, 19)\nwhile state(pid) != 'T': time.sleep(0.01)")
    found = [finding.code for finding in check(container)]
    has_v1_freezer = "freezer" in Path("/proc/self/cgroup").read_text()
    assert found == (["stopped"] if has_v1_freezer else [])


def test_a_session_from_outside(start: Callable[..., Started]) -> None:
    container = start("child(lambda: (libc.unshare(0x20000000), os.fork()))")
    assert "session-outside" in [finding.code for finding in check(container)]


def test_system_v_memory_of_the_host(start: Callable[..., Started]) -> None:
    program = "i = libc.shmget(0, 4096, 0o1600); a = libc.shmat(i, None, 0); libc.shmctl(i, 0, None)"
    container = start(program, namespaces=[word for word in NAMESPACES if word != "--ipc"])
    (finding,) = check(container)
    assert finding.code == "sysv-shm-host-ipc"
    assert "hostIPC" in finding.fix
    # The launcher is in the namespaces of its container.
    assert check(container, launched=True) == ()


def test_a_unix_socket_from_outside(start: Callable[..., Started]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        (finding,) = check(start("", pass_fds=[theirs.fileno()]))
    assert finding.code == "unix-outside"
    assert "another network namespace" in finding.what


def test_a_unix_connection_to_the_outside(start: Callable[..., Started]) -> None:
    container = start(r"""
s = socket.socket(socket.AF_UNIX)
s.bind('\0inside')
s.listen()
accepted = []
keep(lambda: accepted.append(s.accept()))
""")
    program = "import socket, time; s = socket.socket(socket.AF_UNIX); s.connect('\\0inside'); time.sleep(600)"
    with beside(container, "--net", sys.executable, "-c", program):
        findings = wait_for(lambda: check(container))
    (finding,) = findings
    assert finding.code == "unix-peer-outside"
    assert "@inside to a process outside the container" in finding.what


def test_a_pidfd_of_the_outside(start: Callable[..., Started]) -> None:
    mine = os.pidfd_open(os.getpid())
    try:
        (finding,) = check(start("", pass_fds=[mine]))
    finally:
        os.close(mine)
    assert finding.code == "pidfd"
    assert "a process outside the container" in finding.what


def test_what_was_started_by_exec_is_told_apart(start: Callable[..., Started]) -> None:
    container = start("")
    with beside(container, "--pid", "sleep", "600"):
        # Before it becomes a sleep, it is named as the program that starts it.
        (finding,) = wait_for(lambda: [each for each in check(container) if each.process == "sleep"])
    assert (finding.code, finding.severity) == ("not-in-tree", Severity.ERROR)


def test_a_command_that_is_about_to_end_is_no_finding(start: Callable[..., Started]) -> None:
    container = start("")
    with beside(container, "--pid", "sleep", "0.1"):
        assert check(container) == ()


LAUNCHER = """
if application := os.fork():
    while True:  # as the launcher, collect whatever ends
        os.waitpid(-1, 0)
"""
DAEMON = """
if not os.fork():
    os.fork() or os.execvp('sleep', ['sleep', '600'])
    os._exit(0)
"""


def test_a_daemon_below_the_launcher_is_found(start: Callable[..., Started]) -> None:
    """Its parent has ended, so it is a child of the launcher and a sibling of the application."""
    container = start(LAUNCHER + DAEMON)
    application = int((PROC / f"{container.pid}/task/{container.pid}/children").read_text().split()[0])
    # Before it becomes a sleep, it is named as its parent.
    while b"sleep" not in {path.read_bytes().strip() for path in list_names(container)}:
        time.sleep(0.01)
    (finding,) = wait_for(lambda: check_processes(PROC, application, pod_ips=[]))
    assert (finding.code, finding.process, finding.severity) == ("not-in-tree", "sleep", Severity.ERROR)


def list_names(container: Started) -> list[Path]:
    """List the files with the names of the children of a container's first process."""
    children = (PROC / f"{container.pid}/task/{container.pid}/children").read_text().split()
    return [PROC / child / "comm" for child in children]


def test_a_process_that_was_started_meanwhile_is_no_stranger(start: Callable[..., Started]) -> None:
    container = start("import signal; signal.signal(signal.SIGUSR1, lambda *_: child(lambda: None))")
    before = read_container(PROC, container.pid)
    os.kill(container.pid, signal.SIGUSR1)
    while len(read_container(PROC, container.pid).processes) == 1:
        time.sleep(0.01)
    assert [finding.code for finding in find_in_processes(before)] == []


def make_timer(thread: str) -> str:
    """Return a program with a POSIX timer that notifies a thread by its number (SIGEV_THREAD_ID)."""
    return (
        f"event = struct.pack('Qiii44x', 0, 40, 4, {thread}); timer = ctypes.c_void_p()\n"
        "def make(): assert libc.timer_create(1, event, ctypes.byref(timer)) == 0\n"
    )


def test_a_timer_of_the_main_thread_is_refused_only_by_the_runtime(start: Callable[..., Started]) -> None:
    container = start(make_timer("threading.get_native_id()") + "make()")
    (finding,) = check(container)
    assert (finding.code, finding.severity) == ("timer-of-main-thread", Severity.ERROR)
    assert check(container, by_runtime=False) == ()


@pytest.mark.parametrize("by_runtime", [True, False])
def test_a_timer_of_a_thread_that_has_ended_is_refused(start: Callable[..., Started], by_runtime: bool) -> None:
    program = """
def short():
    event = struct.pack('Qiii44x', 0, 40, 4, threading.get_native_id())
    assert libc.timer_create(1, event, ctypes.byref(ctypes.c_void_p())) == 0
thread = threading.Thread(target=short); thread.start(); thread.join()
while len(os.listdir('/proc/self/task')) > 1: time.sleep(0.01)  # it ends a moment later
"""
    (finding,) = check(start(program), by_runtime=by_runtime)
    assert (finding.code, finding.severity) == ("timer-of-ended-thread", Severity.ERROR)


def test_a_shell_in_a_terminal_is_refused_only_by_the_runtime(start: Callable[..., Started]) -> None:
    container = start("""
import pty
os.mknod('/dev/tty', 0o20666, os.makedev(5, 0))
pid, master = pty.fork()
if not pid:
    terminal = os.open('/dev/tty', os.O_RDWR)
    os.write(terminal, b'x')
    time.sleep(600)
os.read(master, 1)
""")
    assert [(finding.code, finding.is_error) for finding in check(container)] == [("terminal", True)]
    assert check(container, by_runtime=False) == ()


def test_core_dumps_with_less_memory_are_refused_only_by_the_runtime(start: Callable[..., Started]) -> None:
    container = start("open('/proc/self/coredump_filter', 'w').write('0x10')")
    assert [finding.code for finding in check(container)] == ["coredump-filter"]
    assert check(container, by_runtime=False) == ()


def test_a_timer_of_another_thread_restores(start: Callable[..., Started]) -> None:
    program = "keep(lambda: (number.append(threading.get_native_id()), time.sleep(600)))\n"
    program += "while not number: time.sleep(0.01)\n"
    assert check(start("number = []\n" + program + make_timer("number[0]") + "make()")) == ()


def test_an_application_below_the_launcher_gives_no_finding(start: Callable[..., Started]) -> None:
    container = start(LAUNCHER)
    application = int((PROC / f"{container.pid}/task/{container.pid}/children").read_text())
    assert check_processes(PROC, application, pod_ips=[]) == ()


def test_a_container_in_the_pid_namespace_of_its_pod(start: Callable[..., Started]) -> None:
    container = start("child(lambda: watch('/srv')); watch('/tmp')")
    child = int((PROC / f"{container.pid}/task/{container.pid}/children").read_text())
    findings = check_processes(PROC, child, pod_ips=[])
    assert [(finding.pid, finding.code) for finding in findings] == [(child, "file-watch")]
    assert "/srv" in findings[0].what


def test_the_procfs_of_another_pid_namespace(start: Callable[..., Started]) -> None:
    container = start(f"s = socket.create_server(('{POD_IP}', 8080)); watch('/tmp')")
    findings = check_processes(PROC / f"{container.pid}/root/proc", 1, pod_ips=[POD_IP])
    assert sorted((finding.code, finding.pid) for finding in findings) == [("address-of-pod", 1), ("file-watch", 1)]


def test_what_is_inherited_is_found_once(start: Callable[..., Started]) -> None:
    container = start(f"s = socket.create_server(('{POD_IP}', 8080)); [child(lambda: None) for _ in range(3)]")
    (finding,) = check(container)
    assert finding.pid == container.pid


def test_processes_and_descriptors_that_vanish_meanwhile(start: Callable[..., Started]) -> None:
    container = start("""
def churn():
    while True:
        a, b = socket.socketpair()
        f = open('/tmp/busy', 'w')
        f.close(), a.close(), b.close()
def fork():
    while True:
        subprocess.run(['true'])
[keep(churn) for _ in range(2)]
keep(fork)
""")
    for _ in range(20):
        assert {finding.code for finding in check(container)} == set()


def test_a_descriptor_that_was_another_file_for_a_moment(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    container, looks, stat_now = start("f = open('/tmp/file', 'w')"), [0], Path.stat

    def stat_another_at_first(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "fd" and path.readlink() == Path("/tmp/file"):
            looks[0] += 1
            if looks[0] == 1:
                return stat_now(Path("/"))
        return stat_now(path, **options)

    monkeypatch.setattr(Path, "stat", stat_another_at_first)
    assert check(container) == ()
    assert looks[0] > 1


def test_a_container_that_has_ended() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(AppError, match="has ended"):  # a zombie
        check_processes(PROC, ended.pid, pod_ips=[])
    ended.wait()
    with pytest.raises(AppError, match="has ended"):
        check_processes(PROC, ended.pid, pod_ips=[])


def test_looking_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/1/fd")

    monkeypatch.setattr(preflight, "read_container", refuse)
    with pytest.raises(HostError, match="/proc/1/fd: cannot read the container's processes: permission denied"):
        check_processes(PROC, 1, pod_ips=[])


def finding(code: str, severity: Severity = Severity.ERROR, pid: int = 7) -> Finding:
    return Finding(severity, code, pid, "java", f"It holds {code}.", f"Close {code}.")


def test_errors_are_raised_together_with_their_cures() -> None:
    warning = finding("file-on-volume", Severity.WARNING)
    with pytest.raises(PreflightError) as raised:
        raise_on_errors([finding("mptcp"), warning, finding("io-uring")])
    assert raised.value.brief == "2 things in the container would not dump or restore"
    assert raised.value.details == (
        "java (process 7): It holds mptcp. Close mptcp. [mptcp]",
        "java (process 7): It holds io-uring. Close io-uring. [io-uring]",
    )
    assert "--force" in raised.value.hint


def test_many_errors_of_a_kind_are_counted() -> None:
    with pytest.raises(PreflightError) as raised:
        raise_on_errors([finding("tcp-established", pid=pid) for pid in range(1000)])
    assert len(raised.value.details) == 6
    assert raised.value.details[-1] == "995 more [tcp-established]"


def test_warnings_and_force_raise_nothing() -> None:
    raise_on_errors([])
    raise_on_errors([finding("file-on-volume", Severity.WARNING)])
    raise_on_errors([finding("mptcp")], force=True)
