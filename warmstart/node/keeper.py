"""The process that holds the embedded node's namespaces, and takes them down whatever happens to us.

It runs beside the command that started it (`python -m warmstart.node.keeper`), with that command at the other end of
its standard input. When that pipe closes, however the command ended, everything in the namespaces is killed and the
cgroup removed, and, when the command could not do so itself, its workspace too. Should the keeper itself be killed,
the kernel ends the namespaces with it.

Protocol: the plan as JSON in argv[1]; on standard output one line, `ready PID` or `failed REASON`; on standard input
nothing, or the line `done` before the end when the workspace is not the keeper's to remove.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import traceback
from dataclasses import asdict, dataclass
from fcntl import ioctl
from pathlib import Path

from warmstart.core import linux
from warmstart.node.cgroup import LEAF, Cgroup, make_cgroup

NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWCGROUP
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
ENTER = "/usr/local/libexec/warmstart-enter"
# What a command run in the node starts with: join the node's cgroup, die with the nsenter that brought it in.
ENTER_SCRIPT = f"""#!/bin/sh
for procs in /sys/fs/cgroup/{LEAF}/cgroup.procs /sys/fs/cgroup/*/{LEAF}/cgroup.procs; do
    [ ! -e "$procs" ] || echo 0 > "$procs"
done
cd "$1" && shift && exec setpriv --pdeathsig KILL -- "$@"
"""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(frozen=True)
class Bind:
    """A path of the host that the node sees at the same place."""

    path: str
    writable: bool = False


@dataclass(frozen=True)
class Plan:
    """What the keeper is to hold.

    Attributes:
        name: of the cgroup and the host name.
        root: the tree of tools; it is never written to.
        workspace: a directory the node sees at the same path, writable.
        files: files of the host that replace the tree's: (path in the tree, path on the host).
        binds: more of the host.
    """

    name: str
    root: str
    workspace: str
    files: tuple[tuple[str, str], ...] = ()
    binds: tuple[Bind, ...] = ()

    def to_json(self) -> str:
        """As the keeper's argument."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Plan:
        """The reverse of `to_json`."""
        fields = json.loads(text)
        fields["files"] = tuple((inside, outside) for inside, outside in fields["files"])
        fields["binds"] = tuple(Bind(**bind) for bind in fields["binds"])
        return Plan(**fields)


def main() -> int:
    """Hold the namespaces of the plan in argv[1] until standard input ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    plan = Plan.from_json(sys.argv[1])
    told = False
    try:
        with make_cgroup(plan.name) as cgroup:
            told = _hold(plan, cgroup)
    except Exception as error:
        _say(f"failed {error}")
        return 1
    finally:
        if not told:
            shutil.rmtree(plan.workspace, ignore_errors=True)
    return 0


def _hold(plan: Plan, cgroup: Cgroup) -> bool:
    """Run PID 1 until standard input ends; whether we were told `done`."""
    linux.unshare(linux.CLONE_NEWPID)
    ready_read, ready_write = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(ready_read)
        _be_init(plan, cgroup, ready_write)
    os.close(ready_write)
    try:
        with os.fdopen(ready_read) as ready:
            verdict = ready.read()
        if verdict != "ready":
            raise OSError(verdict or "the node's first process died")
        _say(f"ready {init}")
        return _read_to_end(init)
    finally:
        # The kernel kills all that is in the PID namespace, and wait returns when all of it is gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(init, 0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _read_to_end(init: int) -> bool:
    life = os.pidfd_open(init)
    said = b""
    while True:
        readable, _, _ = select.select([sys.stdin.fileno(), life], [], [])
        if life in readable:
            return False
        chunk = os.read(sys.stdin.fileno(), 100)
        if not chunk:
            return said.strip() == b"done"
        said += chunk


def _be_init(plan: Plan, cgroup: Cgroup, ready: int) -> None:
    """PID 1 of the node: make the place, then reap. Never returns."""
    try:
        linux.set_parent_death_signal(signal.SIGKILL)
        cgroup.join(leaf=False)
        linux.unshare(NAMESPACES)
        cgroup.join(leaf=True)
        socket.sethostname(plan.name)
        _build_root(plan, cgroup)
        _raise_loopback()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        os.write(ready, b"ready")
        os.close(ready)
        while True:
            signal.sigwait({signal.SIGCHLD})
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    except BaseException as error:
        os.write(ready, f"{error}\n{traceback.format_exc(limit=-3)}".encode())
        os._exit(1)


def _build_root(plan: Plan, cgroup: Cgroup) -> None:
    """The tree with a thin writable layer in memory, and the workspace in it; then make that the root."""
    workspace = Path(plan.workspace)
    linux.mount("none", Path("/"), flags=linux.MS_REC | linux.MS_PRIVATE)
    scratch = workspace / "node"
    scratch.mkdir()
    linux.mount("tmpfs", scratch, "tmpfs", options="mode=755")
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    layers = f"lowerdir={plan.root},upperdir={scratch}/upper,workdir={scratch}/work"
    linux.mount("overlay", root, "overlay", options=layers)
    for inside, outside in plan.files:
        shutil.copyfile(outside, root / inside.lstrip("/"))
    enter = root / ENTER.lstrip("/")
    enter.parent.mkdir(parents=True, exist_ok=True)
    enter.write_text(ENTER_SCRIPT)
    enter.chmod(0o755)
    _mount_kernel(root, cgroup)
    for bind in (Bind(plan.workspace, writable=True), *plan.binds):
        _bind(root, bind)
    old = root / "mnt"
    linux.pivot_root(root, old)
    os.chdir("/")
    linux.unmount(Path("/mnt"), linux.MNT_DETACH)


def _mount_kernel(root: Path, cgroup: Cgroup) -> None:
    linux.mount("proc", root / "proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("sysfs", root / "sys", "sysfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for place in ("tmp", "run"):
        linux.mount("tmpfs", root / place, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    _mount_cgroups(root / "sys/fs/cgroup", cgroup)
    dev = root / "dev"
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name, minor in DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (dev / name).chmod(0o666)
    os.mknod(dev / "tty", stat.S_IFCHR | 0o666, os.makedev(5, 0))
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    linux.mount("devpts", dev / "pts", "devpts", options="newinstance,ptmxmode=0666,mode=620")
    linux.mount("tmpfs", dev / "shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("mqueue", dev / "mqueue", "mqueue")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _mount_cgroups(place: Path, cgroup: Cgroup) -> None:
    """Only the hierarchies in use: on a hybrid host the node sees plain cgroup v1."""
    if cgroup.directories[0][0].is_v2:
        linux.mount("cgroup2", place, "cgroup2")
        return
    linux.mount("tmpfs", place, "tmpfs", options="mode=755")
    for hierarchy, _ in cgroup.directories:
        directory = place / hierarchy.mount_point.name
        directory.mkdir()
        linux.mount("cgroup", directory, "cgroup", options=hierarchy.options)


def _bind(root: Path, bind: Bind) -> None:
    source = Path(bind.path)
    target = root / bind.path.lstrip("/")
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(source, target, flags=linux.MS_BIND)
    if not bind.writable:
        linux.mount("none", target, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)


def _raise_loopback() -> None:
    """As `ip link set lo up`, for which the tree may have no program. Structure: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", ioctl(control, SIOCGIFFLAGS, request))[1]
        ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


if __name__ == "__main__":
    sys.exit(main())
