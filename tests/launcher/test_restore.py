"""The launcher and its criu build, dump and restore applications in containers like those of runtimes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from launcher.bundle import BUILD, DOCKER_CAPABILITIES, Setup, configure, like_crio, like_docker, resolve_profile
from support.memory_file import map_to_file
from support.once import MakeOnce
from support.page_cache import find_cached_bytes

from warmstart.cli.context import default_cache
from warmstart.core.network import connect_in
from warmstart.core.page_cache import evict
from warmstart.core.process import Finished
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.edit.environment import add_environment, link_environment
from warmstart.dump.edit.listeners import find_listeners
from warmstart.dump.edit.parents import clear_parent_death_signals
from warmstart.dump.edit.sizes import clear_growing_sizes
from warmstart.dump.preflight.filters import check_filters
from warmstart.dump.proc.container import read_tree
from warmstart.image.selfrestore.manifest_lines import describe_steps, describe_variables, make_salt
from warmstart.node.launcher import ensure_launcher
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.recipe.model import Exec, HttpGet, OnDifference, Signal, Step

pytestmark = pytest.mark.node

PROFILE = "/usr/share/containers/seccomp.json"
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
BUILT = ("GREETING=built",)
STARTED = ("GREETING=started",)
# Of fcntl(2); not in the module fcntl.
F_SETSIG = 10


@dataclasses.dataclass
class Container:
    """A running or ended container."""

    session: Session
    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def output(self) -> str:
        """Return its output."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the output matches the pattern this many times, and return the matches of its group."""
        for _ in range(1200):
            found = re.findall(pattern, self.output(), re.MULTILINE)
            if len(found) >= count:
                return found
            time.sleep(0.05)
        pytest.fail(f"no {count} times {pattern!r} in:\n{self.output()}")

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        self.session.run(["runc", "kill", self.name, name], timeout_s=60)

    def state(self) -> str:
        """Return the application's current report about itself."""
        before = len(re.findall("^state ", self.output(), re.MULTILINE))
        self.signal("USR1")
        return self.wait_for("^state (.*)$", before + 1)[-1]

    def count_processes(self) -> int:
        """Return the number of its processes, with the first one."""
        listed = self.session.run(["runc", "ps", "--format", "json", self.name], timeout_s=60).stdout
        return len(json.loads(listed))

    def end(self) -> int:
        """Wait until it ends, and return its exit status."""
        return self.process.wait(timeout=60)


class Machine:
    """A machine for containers with one image, `root`."""

    def __init__(self, session: Session, programs: Path, app: Path) -> None:
        self.session = session
        self.root = session.workspace / "root"
        self.files = self.root / ".warmstart"
        for name in ("proc", "sys", "dev", "tmp", "etc", ".warmstart"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("launcher", "criu"):
            shutil.copy2(programs / name, self.files / name)
        shutil.copy2(app, self.root / "app")
        (self.root / "etc/passwd").write_text(PASSWD)
        self.programs, self.state = session.workspace / "programs", session.workspace / "state"
        for name in ("state", "proc", "container"):
            (self.programs / name).mkdir(parents=True)
        for name in ("launcher", "criu"):
            shutil.copy2(programs / name, self.programs / name)
        self.count = 0
        self.options: Sequence[str] = ()

    @contextlib.contextmanager
    def run(self, command: Sequence[str], setup: Setup) -> Iterator[Container]:
        """Run a container during the block."""
        self.count += 1
        name = f"container-{self.count}"
        bundle, log = self.session.workspace / name, self.session.workspace / f"{name}.log"
        bundle.mkdir()
        (bundle / "config.json").write_text(configure(self.root, command, setup))
        with self.session.background(["runc", "run", "--bundle", bundle, name], log_file=log) as process:
            container = Container(self.session, name, log, process)
            try:
                yield container
            finally:
                self.session.run(["runc", "delete", "--force", name], timeout_s=60, check=False)

    @contextlib.contextmanager
    def building(
        self,
        *command: str,
        options: Sequence[str] = ("--user", "app"),
        volumes: Sequence[dict[str, object]] = (),
        read_only: bool = False,
        before_ready: Callable[[], object] = lambda: None,
    ) -> Iterator[Container]:
        """Run a command below the launcher, and call a function before it is awaited."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(mode=0o700)
        mounts = (
            {"destination": "/.warmstart", "source": str(self.programs), "options": ["bind", "ro"]},
            {"destination": "/.warmstart/state", "source": str(self.state), "options": ["bind"]},
            *volumes,
        )
        argv = ["/.warmstart/launcher", "build", *options, "--", *command]
        setup = dataclasses.replace(BUILD, environment=BUILT, mounts=mounts, read_only=read_only)
        with self.run(argv, setup) as container:
            before_ready()
            container.wait_for("^ready$")
            yield container

    def build(
        self, *app: str, options: Sequence[str] = ("--user", "app"), volumes: Sequence[dict[str, object]] = ()
    ) -> str:
        """Build and dump `/app` with these arguments, and return its report about itself before the dump."""
        with self.building("/app", *app, options=options, volumes=volumes) as container:
            state = container.state()
            dumped = self.launch(container, "dump", check=False)
            assert dumped.returncode == 0, dumped.stderr
        self.take_out()
        link_environment(self.files, add_environment(self.files / "checkpoint"))
        user = (self.files / "checkpoint").stat()
        clear_parent_death_signals(self.files / "checkpoint")
        clear_growing_sizes(self.files / "checkpoint")
        for path in (self.files / "checkpoint").iterdir():
            os.chown(path, user.st_uid, user.st_gid)
        self.list_files()
        return state

    def take_out(self) -> None:
        """Replace the launcher's state in the image by that of the build."""
        for old in self.files.iterdir():
            if old.name in ("manifest", "env", "checkpoint", "seed"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in self.state.iterdir():
            new.rename(self.files / new.name)

    def launch(self, container: Container, *arguments: str, check: bool = True) -> Finished:
        """Run the launcher in a container that builds."""
        argv = ["runc", "exec", container.name, "/launcher", *arguments]
        return self.session.run(argv, timeout_s=60, check=check)

    @contextlib.contextmanager
    def start(self, *app: str, before: Sequence[str] = (), **setup: object) -> Iterator[Container]:
        """Start the image. `before` is a command that runs the launcher, and other arguments change the setup."""
        command = [*before, "/.warmstart/launcher", "start", *self.options, "--", "/app", *app]
        attributes = {"seccomp": self.profile("docker"), "environment": STARTED, **setup}
        with self.run(command, dataclasses.replace(Setup(), **attributes)) as container:
            yield container

    def profile(self, kind: str, capabilities: Sequence[str] = ()) -> dict | None:
        """Return a seccomp profile: `docker`, `crio`, `containers` or `none`."""
        if kind == "none":
            return None
        text = self.session.run(["cat", PROFILE], timeout_s=60).stdout
        profile = resolve_profile(json.loads(text), capabilities, platform.machine())
        stricter = {"docker": like_docker, "crio": like_crio}
        return stricter[kind](profile) if kind in stricter else profile

    def edit_manifest(self, old: str, new: str) -> None:
        """Replace all matches of a pattern in the manifest."""
        manifest = self.files / "manifest"
        text, count = re.subn(old, new, manifest.read_text(), flags=re.MULTILINE)
        assert count == 1
        manifest.write_text(text)

    def add_lines(self, *lines: str) -> None:
        """Add lines to the manifest."""
        self.edit_manifest("^end$", "\n".join([*lines, "end"]).replace("\\", r"\\"))

    def list_files(self) -> None:
        """Update the manifest's list of files after changes to the checkpoint."""
        lines = [line for line in (self.files / "manifest").read_text().splitlines() if not line.startswith("file ")]
        files = sorted((self.files / "checkpoint").iterdir())
        lines[-1:-1] = [f"file {file.stat().st_size} {file.name}" for file in files]
        (self.files / "manifest").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def cache() -> Path:
    """Return the cache directory."""
    if os.geteuid() != 0:
        pytest.skip("the embedded node needs root")
    return Path(os.environ.get("WARMSTART_CACHE") or default_cache())


@pytest.fixture(scope="session")
def programs(cache) -> Path:
    """Return the launcher and criu."""
    return ensure_launcher(cache, print).directory


@pytest.fixture(scope="session")
def app(make_once: MakeOnce) -> Path:
    """Return the static program of app.c."""
    parts = Path(__file__).parents[1] / "programs"
    sources = [Path(__file__).with_name("app.c"), parts / "restrained.c", parts / "tuned.c"]
    command = ["gcc", "-static", "-pthread", "-O1", "-Wall", "-Wextra", "-Werror", *sources, "-o"]
    return make_once("launcher-app", lambda path: subprocess.run([*command, path], check=True))


@pytest.fixture(scope="module")
def session(cache) -> Iterator[Session]:
    """Open a session with runc."""
    with open_node("launcher", cache, Progress(SilentListener())) as session:
        yield session


@pytest.fixture
def machine(session, programs, app) -> Iterator[Machine]:
    """Return a new machine."""
    yield Machine(session, programs, app)
    for path in session.workspace.glob("container-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("root", "programs", "state"):
        shutil.rmtree(session.workspace / name, ignore_errors=True)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it never held")


def field(name: str, state: str) -> str:
    """Return a field of the application's report about itself."""
    match = re.search(rf"\b{name}=(\S*)", state)
    assert match, state
    return match[1]


def tasks(state: str) -> str:
    """Return the ids of all its threads."""
    return re.sub(r" [a-z]+=.*", "", state.partition(" tasks ")[2])


def assert_alternating(state: str) -> None:
    """Check that all processes have threads, and that the ids of those of the first lie between those of the others."""
    first, *others = ([int(tid) for tid in each.split(":")[1].split(",") if tid] for each in tasks(state).split())
    assert [len(each) for each in (first, *others)] == [3] * 4
    assert min(other[1] for other in others) < first[1] < max(other[-1] for other in others)


def assert_restored(container: Container, before: str) -> str:
    """Check that it is the same application as before, and return its report about itself."""
    container.wait_for(r"^warmstart: restored in \d+ ms$")
    after = container.state()
    assert field("id", after) == field("id", before)
    assert tasks(after) == tasks(before)
    return after


def assert_cold(container: Container, before: str, reason: str) -> None:
    """Check that it was started cold, for this reason."""
    container.wait_for(rf"^warmstart: cold start: {reason} \(\d+ ms\)$")
    container.wait_for("^ready$")
    assert field("id", container.state()) != field("id", before)


def test_there_is_no_manifest_before_the_application_runs(machine):
    manifest, seen = machine.state / "manifest", []
    with (machine.root / "app").open("rb") as program:

        def look() -> None:
            # The exec waits for the lease; see fcntl(2).
            for _ in range(1200):
                if fcntl.fcntl(program, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
                    break
                time.sleep(0.05)
            time.sleep(0.1)
            seen.append(manifest.exists())
            fcntl.fcntl(program, fcntl.F_SETLEASE, fcntl.F_UNLCK)

        # The signal for its end would end this process.
        fcntl.fcntl(program, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(program, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with machine.building("/app", before_ready=look):
            seen.append(manifest.exists())
    assert seen == [False, True]


@pytest.mark.parametrize("mode", ["family", "files"])
def test_restores_with_no_more_than_any_pod_has(machine, mode):
    before = machine.build(mode)
    if mode == "family":
        assert_alternating(before)
    for seccomp in ("docker", "containers", "none"):
        with machine.start(mode, seccomp=machine.profile(seccomp)) as container:
            after = assert_restored(container, before)
            assert field("GREETING", after) == "built"
            assert field("outer", after) == "started"
            if mode == "files":
                lost = field("connection", after)
                assert after.endswith(f" unlinked=8 locked=6,11 pipe=20000 connection={lost}")
                assert lost in ("32", "104")  # EPIPE, ECONNRESET
            container.signal("TERM")
            assert container.end() == 128 + 15


@pytest.mark.parametrize("mode", ["sandbox", "corner", "box"])
def test_filters_of_the_applications_own_are_restored(machine, mode):
    before = machine.build(mode)
    assert check_filters(machine.files / "checkpoint") == ()
    # One of the runtime's, where it has one, beside those that it had.
    for seccomp, added in (("docker", 1), ("none", 0)):
        with machine.start(mode, seccomp=machine.profile(seccomp)) as container:
            after = assert_restored(container, before)
        for name in ("denied", "other_denied") if mode != "box" else ("denied",):
            assert field(name, after) == field(name, before)
        for name in ("filters", "other_filters") if mode != "box" else ("filters",):
            assert int(field(name, after)) == int(field(name, before)) + added
        assert field("denied" if mode != "corner" else "other_denied", after) == str(errno.EACCES)


def test_restrictions_that_it_put_on_itself_are_restored(machine):
    """All restrictions in docs/restrictions.md that a program without capabilities can set."""
    before = machine.build("restrained")
    with machine.start("restrained") as container:
        after = assert_restored(container, before)
    names = ("dumpable", "files", "core", "umask", "reaper", "thp", "securebits", "privs", "locked", "undumped")
    names += ("slack",)
    assert {name: field(name, after) for name in names} == {name: field(name, before) for name in names}
    assert (field("dumpable", after), field("privs", after)) == ("0", "1")
    # What would be lost unseen is not there from the beginning, as with an older kernel.
    expected = {
        "landlock": errno.EOPNOTSUPP,
        "key": errno.ENOSYS,
        "protection": errno.ENOSPC,
        "sealed": errno.ENOSYS,
        "ring": errno.ENOSYS,
        "mdwe": errno.EINVAL,
    }
    assert {name: -int(field(name, before)) for name in expected} == expected


def test_settings_are_restored_that_images_of_criu_have_no_place_for(machine):
    before = machine.build("tuned")
    expected = {
        "semaphore": "1",
        "filter": "11",
        "tcp": "7,64,5000,1",
        "udp": "9,3,16,8",
        "reset": "7,7",  # TCP_CLOSE
        "devices": "7f000001,1",
        "source": "1:1:10.1.2.3",
        "group": "0:0:",
        "processors": "1",
        "nice": "5,0",
        "ioprio": str(2 << 13 | 6),
        "terminal": "answers",
        "future": "locked,fault",
    }
    assert {name: field(name, before) for name in expected} == expected
    with machine.start("tuned") as container:
        after = assert_restored(container, before)
    assert {name: field(name, after) for name in expected} == expected


def test_the_environment_is_told_whole_and_to_nobody_else(machine):
    """Each process has it, no directory contains it, and it cannot be changed."""
    before = machine.build("family")
    assert (machine.files / "env").readlink() == Path("/proc/self/fd/100")
    with machine.start("family", environment=(*STARTED, *(f"LONG_{n}={'x' * 60000}" for n in range(20)))) as container:
        container.wait_for("^warmstart: restored in")
        first_pid = json.loads(machine.session.run(["runc", "state", container.name], timeout_s=60).stdout)["pid"]
        proc = machine.session.proc
        processes = [proc / str(each.pid) for each in read_tree(proc, first_pid)[1:]]
        texts = {(process / "fd/100").read_bytes() for process in processes}
        assert len(processes) == 4
        assert list((proc / f"{first_pid}/root/dev/shm").iterdir()) == []
        assert stat.S_IMODE((processes[0] / "fd/100").stat().st_mode) == 0o400
        with pytest.raises(OSError, match="not permitted"), (processes[0] / "fd/100").open("ab", buffering=0) as file:
            file.write(b"more")
    assert len(texts) == 1
    assert b"GREETING=started\0" in texts.pop()
    assert field("outer", before) == "unknown"


def test_no_environment_is_told_where_a_runtime_is_to_take_a_checkpoint(machine):
    before = machine.build("")
    machine.options = ("--clocks", "node")
    with machine.start("", seccomp=machine.profile("none")) as container:
        assert field("outer", assert_restored(container, before)) == "unknown"


def test_restores_memory_that_is_mapped_from_the_image(machine):
    before = machine.build("memory")
    checkpoint = machine.files / "checkpoint"
    mapped = map_to_file(checkpoint, checkpoint / "memory", path_in_image="/.warmstart/checkpoint/memory")
    assert mapped.size_bytes > 60 << 20
    os.chown(checkpoint / "memory", 1000, 1000)
    machine.list_files()
    evict(checkpoint / "memory")
    with machine.start("memory") as container:
        container.wait_for("^warmstart: restored in")
        wait_until(lambda: find_cached_bytes(checkpoint / "memory") >= mapped.size_bytes)
        wait_until(lambda: container.count_processes() == 1 + len(tasks(before).split()))
        assert field("wrong", assert_restored(container, before)) == "0"


GATE = """\
#include <unistd.h>
int main(int count, char **arguments)
{
	while (access("/.warmstart/open", F_OK))
		usleep(1000);
	return execv("/.warmstart/criu.behind", arguments) - count;
}
"""


@pytest.fixture
def gate(machine, tmp_path) -> Path:
    """Let CRIU wait until a file exists, and return the path of the file."""
    (tmp_path / "gate.c").write_text(GATE)
    criu = machine.files / "criu"
    criu.rename(machine.files / "criu.behind")
    subprocess.run(["gcc", "-static", "-Wall", "-Werror", "-o", criu, tmp_path / "gate.c"], check=True)
    return machine.files / "open"


def test_who_connects_during_a_restore_is_served_after_it(machine, gate):
    before = machine.build("server")
    (listener,) = find_listeners(machine.files / "checkpoint")
    assert (listener.network, listener.port, listener.backlog) == ("tcp46", 8080, 7)
    # So large that the launcher waits for CRIU for a minute more: it is to wait for this test.
    with (machine.files / "checkpoint/sparse").open("wb") as sparse:
        sparse.truncate(6 * 10**9)
    machine.list_files()
    machine.edit_manifest("^end$", f"listen tcp46 8080 7 {listener.inode}\nend")
    with machine.start("server") as container:
        connections = [connect(machine) for _ in range(3)]
        assert "restored" not in container.output()
        gate.touch()
        assert [connection.recv(100) for connection in connections] == [b"hello"] * 3
        assert_restored(container, before)
        connections.append(connect(machine))
        assert connections[-1].recv(100) == b"hello"
        for connection in connections:
            connection.close()


def connect(machine: Machine) -> socket.socket:
    """Connect to the server as soon as it does not refuse connections."""
    for _ in range(3000):
        with contextlib.suppress(ConnectionRefusedError):
            return connect_in(machine.session.network, ("127.0.0.1", 8080), 60)
        time.sleep(0.02)
    pytest.fail("nobody listens")


def test_the_clock_goes_on_and_a_user_namespace_of_its_own_gives_no_capability(machine):
    """Where the kernel allows to set the clock, which takes such a namespace."""
    before = machine.build("")
    for seccomp in ("crio", "none"):
        with machine.start("", seccomp=machine.profile(seccomp)) as container:
            after = assert_restored(container, before)
            first_pid = json.loads(machine.session.run(["runc", "state", container.name], timeout_s=60).stdout)["pid"]
            application = (machine.session.proc / f"{first_pid}/task/{first_pid}/children").read_text().strip()
            status = (machine.session.proc / application / "status").read_text()
        assert 0 <= int(field("clock", after)) - int(field("clock", before)) < 300
        assert set(re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE)) == {"0" * 16}


def test_the_clocks_are_the_nodes_where_they_are_to_be(machine):
    before = machine.build("")
    machine.options = ("--clocks", "node")
    with machine.start("", seccomp=machine.profile("none")) as container:
        after = assert_restored(container, before)
    assert int(field("clock", after)) >= int(time.monotonic()) - 60


def test_a_signal_tells_the_application_that_it_was_restored(machine):
    before = machine.build("")
    machine.add_lines(f"step signal {signal.SIGUSR1.value}")
    with machine.start("") as container:
        state = container.wait_for("^state (.*)$")[0]
    assert field("id", state) == field("id", before)
    assert field("outer", state) == "started"


def add_steps(machine: Machine, *steps: Step | Signal) -> None:
    """Have the launcher do these steps after a restore."""
    machine.add_lines(*describe_steps(steps, 100))


def test_steps_are_done_before_the_restore_is_reported(machine):
    before = machine.build("web")
    (listener,) = find_listeners(machine.files / "checkpoint")
    machine.add_lines(f"listen tcp46 8080 7 {listener.inode}")
    # The command prints its end.
    add_steps(machine, Step(HttpGet(8080, "/refresh", method="POST")), Step(Exec(("/app", "init", "3", "/nowhere"))))
    with machine.start("web") as container:
        container.wait_for(r"^warmstart: restored in \d+ ms, after-restore steps in \d+ ms$")
        # runc copies the launcher's errors and the command's output side by side, in any order.
        container.wait_for("^init: status 127$")
        after = container.state()
    assert field("id", after) == field("id", before)


def test_a_restored_application_of_which_a_step_fails_is_ended(machine):
    machine.build("")
    add_steps(machine, Step(HttpGet(8080)))
    with machine.start("") as container:
        assert container.end() == 70
        (said,) = container.wait_for("^warmstart: .*$")
    assert said.endswith(
        "ms, but after-restore step 1 (GET /) failed: cannot connect to 127.0.0.1 port 8080: Connection refused"
    )


def test_an_application_that_crashes_during_a_step_is_started_cold(machine):
    before = machine.build("")
    add_steps(machine, Step(Exec(("/app",))))
    with machine.start("") as container:
        container.wait_for("^ready$")  # of the step
        container.signal("SEGV")
        reason = r"the restored application was killed by signal 11 \(Segmentation fault\) right after the restore"
        container.wait_for(rf"^warmstart: cold start: {reason} \(\d+ ms\)$")
        container.wait_for("^ready$", 2)
        assert field("id", container.state()) != field("id", before)


def test_an_application_may_be_stopped_during_a_step(machine):
    machine.build("")
    add_steps(machine, Step(Exec(("/app",))))
    with machine.start("") as container:
        container.wait_for("^ready$")
        container.signal("TERM")
        assert container.end() == 128 + 15
        assert "cold start" not in container.output()


def test_no_steps_are_done_where_a_runtime_is_to_take_a_checkpoint(machine):
    before = machine.build("")
    add_steps(machine, Step(Exec(("/nowhere",))))
    machine.options = ("--clocks", "node")
    with machine.start("", seccomp=machine.profile("none")) as container:
        assert_restored(container, before)


def test_variables_of_the_pod_are_compared(machine):
    before = machine.build("")
    machine.add_lines(*describe_variables({"GREETING": "started", "MODE": "a"}, [], OnDifference.COLD, make_salt("1d")))
    with machine.start("", environment=(*STARTED, "MODE=a")) as container:
        assert_restored(container, before)
    with machine.start("", environment=(*STARTED, "MODE=b")) as container:
        assert_cold(container, before, "the variable MODE differs from the checkpoint's")
    with machine.start("", environment=(*STARTED, "MODE=b", "WARMSTART_ON_DIFFERENCE=warn")) as container:
        assert_restored(container, before)
        container.wait_for("^warmstart: warning: the variable MODE differs from the checkpoint's")


def make_volumes(machine: Machine, name: str) -> list[dict[str, object]]:
    """Make a writable volume of the application's, and one with a secret in it, on the same file system."""
    data, conf = machine.session.workspace / f"container-{name}", machine.session.workspace / f"container-{name}-conf"
    (data / "conf").mkdir(parents=True)
    conf.mkdir()
    (conf / "secret").write_text(name)
    for path in (data, data / "conf", conf, conf / "secret"):
        os.chown(path, 1000, 1000)
    return [
        {"destination": "/data", "source": str(data), "options": ["bind"]},
        {"destination": "/data/conf", "source": str(conf), "options": ["bind"]},
    ]


def test_files_in_use_on_a_volume_are_put_back_on_the_pods(machine):
    (machine.root / "linked").symlink_to("data")
    built, started = make_volumes(machine, "built"), make_volumes(machine, "started")
    before = machine.build("volume", options=["--user", "app", "--volume", "/linked"], volumes=built)
    assert before.endswith(" secret=built log=11,11 changed=mapped,mapped")
    seed = {str(path.relative_to(machine.files / "seed")) for path in machine.files.glob("seed/**/*")}
    assert seed >= {"data/app.log", "data/changed"}
    assert not [name for name in seed if "secret" in name]
    with machine.start("volume", mounts=tuple(started)) as container:
        assert assert_restored(container, before).endswith(" secret=started log=16,16 changed=mapped,mapped")
    # The container is restarted: the volume is still there, and the log has grown.
    with machine.start("volume", mounts=tuple(started)) as container:
        assert assert_restored(container, before).endswith(" secret=started log=21,21 changed=mapped,mapped")


def test_a_directory_in_a_volume_at_tmp_is_kept_once(machine):
    # The launcher is not allowed to change what it has given to the application already.
    work = machine.session.workspace / "container-tmp/work"
    work.mkdir(parents=True)
    os.chown(work, 1000, 1000)
    volume = {"destination": "/tmp", "source": str(work.parent), "options": ["bind"]}
    machine.build(options=["--user", "app", "--volume", "/tmp"], volumes=[volume])
    assert (machine.files / "seed/tmp/work").is_dir()


def test_commands_in_a_build_run_as_the_applications_user(machine):
    with machine.building("/app", options=["--user", "app", "--groups", "4"]) as container:
        argv = ["runc", "exec", container.name, "/launcher", "exec", "--", "/app"]
        log = machine.session.workspace / "container-exec"
        with machine.session.background(argv, log_file=log) as process:
            other = dataclasses.replace(container, log=log, process=process)
            other.wait_for("^ready$")
            statuses = machine.session.proc.glob("[0-9]*/status")
            texts = [text for text in map(Path.read_text, statuses) if text.startswith("Name:\tapp\n")]
    fields = [re.findall(r"^(?:Uid|Gid|Groups|Cap\w+|NoNewPrivs):.*$", text, re.MULTILINE) for text in texts]
    assert len(fields) == 2
    assert fields[0] == fields[1]
    assert "Uid:\t1000\t1000\t1000\t1000" in fields[0]
    assert "CapBnd:\t0000000000000000" in fields[0]


def find_processes(machine: Machine, name: str) -> list[Path]:
    """Return the /proc directories of the processes with this name."""
    found = machine.session.proc.glob("[0-9]*/comm")
    return [comm.parent for comm in found if comm.read_text() == f"{name}\n"]


def test_the_application_of_a_build_does_not_see_the_launcher(machine):
    with machine.building("/app", options=["--user", "root"]):
        (app,) = find_processes(machine, "app")
        (launcher,) = find_processes(machine, "launcher")
        assert not (app / "root/.warmstart/state").exists()
        assert (launcher / "root/state/manifest").exists()
        points = [line.split()[4] for line in (app / "mountinfo").read_text().splitlines()]
        assert not [point for point in points if point.startswith("/.warmstart")]
        with pytest.raises(OSError, match="Read-only"):
            (launcher / "root/criu").open("r+b")


@pytest.mark.parametrize("read_only", [False, True], ids=["", "read-only root"])
def test_agents_that_the_image_does_not_have_are_copied_and_spoken_with(machine, read_only):
    (machine.programs / "hooks/python").mkdir(parents=True)
    (machine.programs / "hooks/python/agent.py").write_text("pass")
    with machine.building("/app", read_only=read_only) as container:
        (app,) = find_processes(machine, "app")
        hooks = app / "root/.warmstart/hooks"
        assert (hooks / "python/agent.py").read_text() == "pass"
        for name in ("reply", "checkpoint", "restored"):
            assert stat.S_IMODE((hooks / name).stat().st_mode) == 0o666
            assert (hooks / name).is_fifo()
        if read_only:
            with pytest.raises(OSError, match="Read-only"):
                (hooks / "other").touch()

        def say(text: str) -> None:
            fifo = os.open(hooks / "reply", os.O_RDWR | os.O_NONBLOCK)
            os.write(fifo, text.encode())
            os.close(fifo)

        def answer() -> None:
            os.close(os.open(hooks / "checkpoint", os.O_RDONLY))
            say("done\n")

        pids, *answers = machine.launch(container, "hooks", "look").stdout.splitlines()
        # The launcher, the application, and the exchange itself.
        assert pids.split()[:3] == ["pids", "1", "100"]
        assert len(pids.split()) == 4
        assert answers == []
        say("registered\n")
        assert machine.launch(container, "hooks", "look").stdout.splitlines()[1:] == ["registered"]
        agent = threading.Thread(target=answer)
        agent.start()
        said: list[str] = []
        while not said:
            said = machine.launch(container, "hooks", "ask").stdout.splitlines()[1:]
        agent.join()
        assert said == ["done"]


def test_a_build_tells_if_there_are_no_agents(machine):
    with machine.building("/app") as container:
        done = machine.launch(container, "hooks", "look", check=False)
    assert done.returncode == 70
    assert "cannot open the FIFOs of the hooks" in done.stderr


def test_commands_in_a_build_start_where_they_are_told_to(machine):
    with machine.building("/app", options=["--user", "app", "--directory", "/made/for/it"]) as container:
        (app,) = find_processes(machine, "app")
        assert (app / "cwd").readlink() == Path("/made/for/it")
        assert machine.launch(container, "exec", "--directory", "/proc/1/root", "--", "/app", check=False).returncode


LONG = "x" * 120


def pack(machine: Machine, container: Container) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of the tar that the launcher writes, with their contents."""
    file = machine.session.workspace / "container-pack.tar"
    with machine.session.background(["runc", "exec", container.name, "/launcher", "pack"], log_file=file) as process:
        assert process.wait(60) == 0, file.read_bytes()[-500:]
    with tarfile.open(file) as tar:
        for member in tar:
            content = tar.extractfile(member)
            yield member, content.read() if content else b""


def test_everything_that_an_image_needs_is_packed(machine):
    for name in ("old", "rest", "same", "sub/deep/file"):
        (machine.root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.root / "data" / name).write_text("before")
    other = {"destination": "/data/mount", "type": "tmpfs", "source": "tmpfs"}
    with machine.building("/app", "files", volumes=[other]) as container:
        assert machine.launch(container, "show").stdout == (machine.state / "manifest").read_text()
        assert "is not dumped" in machine.launch(container, "pack", check=False).stderr
        data = machine.root / "data"
        (data / LONG).write_bytes(b"new" * 100_000)
        os.link(data / LONG, data / "hard")
        os.chown(data / LONG, 3_000_000, 7)
        os.setxattr(data / LONG, "user.mark", b"a\nb=\xff")
        (data / "link").symlink_to("/" + LONG)
        (data / "sub/deep/file").write_text("after")
        os.utime(data / "sub/deep/file", (1, 1))
        (data / "old").unlink()
        machine.launch(container, "dump")
        packed = {member.name: (member, content) for member, content in pack(machine, container)}
    names = set(packed)
    assert {"state/manifest", "state/started", "state/dump.log", "state/checkpoint/inventory.img"} <= names
    assert [name for name in names if name.startswith("state/seed/tmp/")]
    assert {name for name in names if "/data" in name} == {
        *(f"changes/data{name}" for name in ("", f"/{LONG}", "/hard", "/link", "/sub/deep/file")),
        *(f"kept/data/{name}" for name in ("rest", "same", "sub", "mount")),
    }
    assert packed["changes/data/sub/deep/file"][1] == b"after"
    first, second = sorted((packed[f"changes/data/{name}"][0] for name in (LONG, "hard")), key=tarfile.TarInfo.islnk)
    assert (first.uid, first.gid, first.size) == (3_000_000, 7, 300_000)
    assert packed[first.name][1] == b"new" * 100_000
    assert first.pax_headers["SCHILY.xattr.user.mark"].encode("utf-8", "surrogateescape") == b"a\nb=\xff"
    assert second.linkname == first.name
    assert packed["changes/data/link"][0].linkname == "/" + LONG
    assert not [name for name in names if re.match("(changes|kept)/(proc|sys|tmp|dev)/", name)]


def test_a_process_that_is_not_below_the_application_is_refused(machine):
    with machine.building("/app") as container:
        argv = ["runc", "exec", container.name, "/launcher", "exec", "--", "/app"]
        with machine.session.background(argv, log_file=machine.session.workspace / "container-exec"):
            while len(find_processes(machine, "app")) < 2:
                time.sleep(0.02)
            done = machine.launch(container, "dump", check=False)
        assert done.returncode == 70
        assert re.search(r"process \d+ \(app\) is not a descendant of the application", done.stderr)
        assert not (machine.state / "checkpoint").exists()


def test_plugins_and_settings_of_the_image_are_not_crius(machine):
    plugins = machine.root / "usr/lib/criu"
    plugins.mkdir(parents=True)
    (plugins / "mine.so").write_text("not what CRIU could load")
    machine.build("")


KILLS_ITS_PARENT = """\
#include <signal.h>
#include <unistd.h>
int main(void)
{
	return kill(getppid(), SIGKILL);
}
"""


def test_no_program_of_the_image_takes_part_in_a_restore(machine, tmp_path):
    before = machine.build("family")
    (tmp_path / "kill.c").write_text(KILLS_ITS_PARENT)
    for name in ("bin", "usr/bin"):
        (machine.root / name).mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-static", "-Wall", "-Werror", "-o", machine.root / name / "sh", tmp_path / "kill.c"]
        subprocess.run(command, check=True)
    with machine.start("family") as container:
        assert_restored(container, before)


def test_starts_cold_where_the_clock_would_go_back(machine):
    before = machine.build("")
    machine.edit_manifest("^monotonic .*", f"monotonic {int((time.monotonic() + 3600) * 1e9)}")
    with machine.start("") as container:
        assert_cold(container, before, "CRIU: the monotonic clock would go backwards")
    with machine.start("", seccomp=machine.profile("none")) as container:
        assert_restored(container, before)


@pytest.mark.parametrize(
    ("options", "setup"),
    [
        ([], {"user": 0, "group": 0}),
        (["--user", "root"], {"user": 0, "group": 0, "capabilities": DOCKER_CAPABILITIES, "no_new_privileges": False}),
        (["--user", "1000"], {"capabilities": DOCKER_CAPABILITIES, "no_new_privileges": False, "read_only": False}),
        (["--user", "app:3000"], {"group": 3000}),
        (["--user", "app", "--groups", "4,2000"], {"groups": (2000, 1000, 4)}),
        (["--user", "app", "--groups", "4,2000"], {"groups": (4, 2000)}),
    ],
    ids=["root", "root-with-capabilities", "capabilities", "group", "groups", "same-groups"],
)
def test_restores_as_who_it_was(machine, options, setup):
    before = machine.build("", options=options)
    with machine.start("", **setup) as container:
        assert_restored(container, before)


def test_starts_cold_as_somebody_else(machine):
    before = machine.build("")
    for setup, reason in (
        ({"user": 0}, "uid is 0, the checkpoint was made as 1000"),
        ({"group": 1}, "gid is 1, the checkpoint was made as 1000"),
        ({"groups": (7,)}, "the supplementary groups differ from the checkpoint's"),
    ):
        with machine.start("", **setup) as container:
            assert_cold(container, before, reason)


def test_starts_cold_where_a_thread_is_older_than_a_process(machine):
    before = machine.build("older")
    with machine.start("older") as container:
        reason = "CRIU: Thread 101 of 100 is older than 102, can't restore them without choosing pids"
        assert_cold(container, before, reason)


def test_need_not_be_the_first_process(machine):
    before = machine.build("")
    with machine.start("", before=("/app", "init", "0")) as container:
        container.wait_for("^warmstart: restored in")
        machine.session.run(["sh", "-c", "kill -USR1 $(pidof app | tr ' ' '\\n' | sort -n | tail -1)"], timeout_s=60)
        assert field("id", container.wait_for("^state (.*)$")[-1]) == field("id", before)
        machine.session.run(["sh", "-c", "kill -TERM $(pidof launcher)"], timeout_s=60)
        container.wait_for("^init: signal 15$")


def test_starts_cold_where_the_pid_is_used_up(machine):
    machine.build("")
    with machine.start("", before=("/app", "init", "200")) as container:
        container.wait_for(r"^warmstart: cold start: CRIU: Pid 100 is used up, the last one is \d+ ")
        container.wait_for("^ready$")


def flip(image: Path) -> None:
    """Change the content of a file, but not its size."""
    image.write_bytes(bytes(byte ^ 0x55 for byte in image.read_bytes()))


def truncate(image: Path) -> None:
    """Truncate a file to half its size."""
    os.truncate(image, image.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("core-100.img", flip, "CRIU: .*"),
        ("inventory.img", flip, "CRIU: .*"),
        ("pages-1.img", truncate, r"pages-1.img of the checkpoint has \d+ bytes instead of \d+"),
        ("mm-100.img", Path.unlink, "mm-100.img of the checkpoint: No such file or directory"),
    ],
)
def test_starts_cold_where_the_checkpoint_is_damaged(machine, name, damage: Callable[[Path], None], reason):
    before = machine.build("")
    damage(machine.files / "checkpoint" / name)
    with machine.start("") as container:
        assert_cold(container, before, reason)


def test_starts_cold_where_memory_is_missing_that_criu_counts_on(machine):
    before = machine.build("")
    pages = machine.files / "checkpoint/pages-1.img"
    os.truncate(pages, pages.stat().st_size // 2)
    machine.edit_manifest("^file .* pages-1.img", f"file {pages.stat().st_size} pages-1.img")
    with machine.start("") as container:
        assert_cold(container, before, "CRIU: Can't read pages data .*")


def test_starts_cold_after_a_crash(machine):
    before = machine.build("")
    with machine.start("") as container:
        container.wait_for("^warmstart: restored in")
        container.signal("SEGV")
        reason = r"the restored application was killed by signal 11 \(Segmentation fault\) right after the restore"
        assert_cold(container, before, reason)
        container.signal("USR2")
        assert container.end() == 7


def test_ends_with_the_applications_exit_status(machine):
    machine.build("")
    with machine.start("") as container:
        container.wait_for("^warmstart: restored in")
        time.sleep(5.5)  # what ends badly before is taken for a failed restore
        container.signal("USR2")
        assert container.end() == 7


def test_a_build_passes_on_output_signals_and_exit_status(machine):
    with machine.building("/app", options=[]) as container:
        assert tasks(container.state()) == "100:100,"
        container.signal("USR2")
        assert container.end() == 7


def test_a_dump_that_fails_says_why_and_leaves_no_checkpoint(machine):
    with machine.building("/app") as container:
        (machine.programs / "criu").write_text("#!/nowhere\n")
        done = machine.launch(container, "dump", check=False)
    assert done.returncode == 70
    assert "warmstart: CRIU cannot dump the application: see /state/dump.log" in done.stderr
    machine.take_out()
    with machine.start() as container:
        container.wait_for("^warmstart: cold start: the checkpoint is incomplete ")


def test_a_second_dump_is_refused(machine):
    with machine.building("/app") as container:
        machine.launch(container, "dump")
        again = machine.launch(container, "dump", check=False)
    assert again.returncode == 70
    assert again.stderr.strip().endswith("warmstart: the application is already dumped")
