"""Hold the embedded node's namespaces in a process of its own, which takes them down however the command ends.

The command starts it as `python -m warmstart.node.keeper`, and holds the other end of its standard input. When that
pipe closes, the keeper kills everything in the namespaces and removes the cgroup. If the command did not end normally,
the keeper also removes its workspace and its unfinished output. If the keeper itself is killed, the kernel ends the
namespaces.

Protocol: argv[1] is the plan as JSON. Standard output is one line, `ready PID` or `failed` and a `Failure` as JSON.
Standard input is empty, or ends with the line `done` if the command removes the workspace itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fcntl import ioctl
from pathlib import Path

from warmstart.core import linux
from warmstart.core.errors import HostError
from warmstart.core.locking import remove_unless_locked
from warmstart.core.removal import remove_directory
from warmstart.core.workspace import remove_workspace, sweep_workspaces
from warmstart.node.cgroup import LEAF, Cgroup, make_cgroup, sweep_cgroups

NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWCGROUP
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
# Path of the host's root during setup.
OLD_ROOT = Path("/.host")
# Mount point of the v2 hierarchy of a hybrid host, at a path that runtimes do not search.
SPARE_CGROUP2 = "/run/cgroup2"
ENTER = "/usr/local/libexec/warmstart-enter"
# Each command in the node first joins the node's cgroup, and is set to die with its nsenter. It enters the cgroup
# namespace last: if cgroup2 is mounted with nsdelegate, a process from outside cannot be moved once it is in the
# namespace (cgroups(7)).
ENTER_SCRIPT = f"""#!/bin/sh
for procs in /sys/fs/cgroup/{LEAF}/cgroup.procs /sys/fs/cgroup/*/{LEAF}/cgroup.procs {SPARE_CGROUP2}/cgroup.procs; do
    [ ! -e "$procs" ] || echo 0 > "$procs" || exit
done
cd "$1" && shift && exec nsenter --cgroup=/proc/1/ns/cgroup -- setpriv --pdeathsig KILL -- "$@"
"""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(frozen=True)
class Bind:
    """A path of the host that is also visible in the node."""

    path: str
    writable: bool = False


@dataclass(frozen=True)
class Plan:
    """The setup of a node.

    Attributes:
        name: name of the cgroup, and the host name.
        root: tools directory; it is never written to.
        workspace: directory that the node shares with the host at the same path, writable.
        files: files of the host that replace files of the tools: (path in the node, path on the host).
        binds: more paths of the host.
        leftovers: glob patterns of files to remove if the command is killed.
    """

    name: str
    root: str
    workspace: str
    files: tuple[tuple[str, str], ...] = ()
    binds: tuple[Bind, ...] = ()
    leftovers: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Encode the plan as the keeper's argument."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Plan:
        """Decode the output of `to_json`."""
        fields = json.loads(text)
        fields["files"] = tuple((inside, outside) for inside, outside in fields["files"])
        fields["binds"] = tuple(Bind(**bind) for bind in fields["binds"])
        fields["leftovers"] = tuple(fields["leftovers"])
        return Plan(**fields)


@dataclass(frozen=True)
class Failure:
    """The reason why the setup failed; the fields are those of a `WarmstartError`."""

    brief: str
    details: tuple[str, ...] = ()
    hint: str = ""

    def to_json(self) -> str:
        """Encode the failure for the keeper's standard output."""
        return json.dumps(asdict(self))

    def to_error(self) -> HostError:
        """Convert the failure to an error of the command."""
        return HostError(f"cannot set up the embedded node: {self.brief}", details=self.details, hint=self.hint)

    @staticmethod
    def from_json(text: str) -> Failure:
        """Decode the output of `to_json`."""
        return Failure(**json.loads(text))


def main() -> int:
    """Hold the namespaces of the plan in argv[1] until standard input ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    plan = Plan.from_json(sys.argv[1])
    with contextlib.ExitStack() as node:
        try:
            sweep_cgroups()
            cgroup = node.enter_context(make_cgroup(plan.name))
            init = node.enter_context(_run_init(plan, cgroup))
            _say(f"ready {init}")
        except _InitError as failure:
            _say(f"failed {failure}")
        except Exception as error:
            _say(f"failed {_explain(error).to_json()}")
        is_done = sys.stdin.buffer.read().strip() == b"done"
    if is_done:
        # The command may have been killed after it wrote that line.
        sweep_workspaces()
    else:
        remove_workspace(Path(plan.workspace))
        _remove_leftovers(plan.leftovers)
    return 0


def _remove_leftovers(patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in list(Path("/").glob(pattern.lstrip("/"))):
            if path.is_dir():
                remove_directory(path)
            else:
                # A locked file belongs to another command.
                remove_unless_locked(path)


class _InitError(Exception):
    """PID 1 could not set up the node; the text is a `Failure` as JSON."""


@contextlib.contextmanager
def _run_init(plan: Plan, cgroup: Cgroup) -> Iterator[int]:
    """Run PID 1 of the node for the length of a `with` block, and yield its PID on the host."""
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
            raise _InitError(verdict or Failure("its first process died").to_json())
        yield init
    finally:
        # The kernel kills the whole PID namespace, and wait returns when all of its processes are gone. Until then the
        # number stays in use even if PID 1 died earlier, so no other process can get it.
        os.kill(init, signal.SIGKILL)
        while os.waitpid(init, os.WNOHANG) == (0, 0):
            # A container may be frozen by an interrupted checkpoint.
            cgroup.thaw()
            time.sleep(0.02)


def _say(line: str) -> None:
    # The command may have been killed.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _explain(error: BaseException) -> Failure:
    if isinstance(error, HostError):
        return Failure(error.brief, error.details, error.hint)
    if isinstance(error, OSError):
        hint = "run as root, and in a container with --privileged" if isinstance(error, PermissionError) else ""
        return Failure(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror), (), hint)
    return Failure(repr(error), tuple("".join(traceback.format_exception(error)).splitlines()))


def _be_init(plan: Plan, cgroup: Cgroup, ready: int) -> None:
    """Be PID 1 of the node: set it up, then reap processes. Never returns."""
    try:
        try:
            _make_namespaces(plan, cgroup)
        except BaseException as error:
            os.write(ready, _explain(error).to_json().encode())
            return
        os.write(ready, b"ready")
        os.close(ready)
        while True:
            signal.sigwait({signal.SIGCHLD})
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    finally:
        os._exit(1)


def _make_namespaces(plan: Plan, cgroup: Cgroup) -> None:
    linux.set_parent_death_signal(signal.SIGKILL)
    cgroup.join()
    linux.unshare(NAMESPACES)
    cgroup.settle()
    socket.sethostname(plan.name)
    _build_root(plan, cgroup)
    _raise_loopback()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


def _build_root(plan: Plan, cgroup: Cgroup) -> None:
    """Mount the tools directory with a writable layer in memory, and the workspace in it, as the root."""
    linux.mount("none", Path("/"), flags=linux.MS_REC | linux.MS_PRIVATE)
    scratch = Path(plan.workspace) / "node"
    scratch.mkdir()
    linux.mount("tmpfs", scratch, "tmpfs", options="mode=755")
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    if not Path(plan.root).is_dir():
        raise FileNotFoundError(errno.ENOENT, "the tools directory does not exist", plan.root)
    layers = {"lowerdir": plan.root, "upperdir": f"{scratch}/upper", "workdir": f"{scratch}/work"}
    linux.mount(
        "overlay", root, "overlay", options=",".join(f"{name}={_escape(path)}" for name, path in layers.items())
    )
    _mount_kernel(root, cgroup)
    enter = root / ENTER.lstrip("/")
    enter.parent.mkdir(parents=True, exist_ok=True)
    enter.write_text(ENTER_SCRIPT)
    enter.chmod(0o755)
    binds = [(_find_outside(bind.path), bind) for bind in (Bind(plan.workspace, writable=True), *plan.binds)]
    files = [(_find_outside(outside), Path(inside)) for inside, outside in plan.files]
    # Resolve the paths from inside: seen from the host, links in the tools directory lead elsewhere.
    old_root = root / OLD_ROOT.relative_to("/")
    old_root.mkdir()
    linux.pivot_root(root, old_root)
    os.chdir("/")
    for outside, inside in files:
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.unlink(missing_ok=True)
        shutil.copyfile(outside, inside)
    for source, bind in binds:
        _bind(source, bind)
    linux.unmount(OLD_ROOT, linux.MNT_DETACH)
    OLD_ROOT.rmdir()


def _escape(path: str) -> str:
    """Escape commas and colons in a path for an option of overlayfs; see ovl_next_opt in fs/overlayfs."""
    return re.sub(r"([:,\\])", r"\\\1", path)


def _find_outside(path: str) -> Path:
    """Return the path of a host file below OLD_ROOT."""
    return OLD_ROOT / Path(path).resolve(strict=True).relative_to("/")


def _mount_kernel(root: Path, cgroup: Cgroup) -> None:
    linux.mount("proc", root / "proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("sysfs", root / "sys", "sysfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name in ("tmp", "run"):
        linux.mount("tmpfs", root / name, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    _mount_cgroups(root, cgroup)
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


def _mount_cgroups(root: Path, cgroup: Cgroup) -> None:
    """Mount the hierarchies in use only: on a hybrid host, runtimes see plain cgroup v1."""
    target, spare = root / "sys/fs/cgroup", root / SPARE_CGROUP2.lstrip("/")
    if cgroup.directories[0][0].is_v2:
        linux.mount("cgroup2", target, "cgroup2")
        return
    linux.mount("tmpfs", target, "tmpfs", options="mode=755")
    for hierarchy, _ in cgroup.directories:
        directory = spare if hierarchy.is_v2 else target / hierarchy.mount_point.name
        directory.mkdir()
        linux.mount("cgroup", directory, "cgroup2" if hierarchy.is_v2 else "cgroup", options=hierarchy.options)


def _bind(source: Path, bind: Bind) -> None:
    target = Path(bind.path)
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(source, target, flags=linux.MS_BIND)
    if not bind.writable:
        linux.mount("none", target, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)


def _raise_loopback() -> None:
    """Do `ip link set lo up`; the tools may lack that program. Structure: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", ioctl(control, SIOCGIFFLAGS, request))[1]
        ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


if __name__ == "__main__":
    sys.exit(main())
