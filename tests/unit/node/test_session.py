"""The embedded node's place: what is seen inside, and that nothing stays of it, however it ends.

The host's own root directory is the tools directory here: it has all that a node needs, and is no more written to than
the real one.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.nested import nest
from support.unified import run_unified

from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.process import ProgramError
from warmstart.core.workspace import open_workspace
from warmstart.node import session as session_module
from warmstart.node.cgroup import find_cgroup
from warmstart.node.host_files import CA_BUNDLE
from warmstart.node.keeper import Bind, Plan
from warmstart.node.session import Session, enter

pytestmark = pytest.mark.linux

ROOT = Path("/")
LIMIT_S = 60.0
SETTLE_S = 60.0


@pytest.fixture(autouse=True)
def scratch(monkeypatch) -> Iterator[Path]:
    """A directory for workspaces and what is bound, where overlay mounts work."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    parent = Path("/var/tmp") / f"ws-session-{secrets.token_hex(4)}"
    parent.mkdir()
    monkeypatch.setenv("WARMSTART_TMPDIR", str(parent))
    yield parent
    assert list(parent.glob("warmstart-*")) == []
    subprocess.run(["rm", "-rf", parent], check=True)


@pytest.fixture
def open_node() -> Callable[..., AbstractContextManager[Session]]:
    @contextmanager
    def open_one(*binds: Bind) -> Iterator[Session]:
        with open_workspace("test") as workspace, enter(ROOT, workspace, binds=binds) as session:
            yield session

    return open_one


def shell(session: Session, script: str, **options: object) -> str:
    return session.run(["sh", "-c", script], timeout_s=LIMIT_S, **options).stdout.strip()


def find_traces(name: str) -> list[str]:
    """Processes, cgroups and mounts that show the name of a node; not dead processes that nobody has asked after."""
    found = [str(directory) for _, directory in find_cgroup(name).directories if directory.exists()]
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                shown = (process / "cmdline").read_bytes() + (process / "cgroup").read_bytes()
                is_dead = "State:\tZ" in (process / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name.encode() in shown and not is_dead:
                found.append(f"{process}: {shown!r}")
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    return found


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# What is seen inside


def test_what_runs_inside_sees_itself_alone(open_node):
    with open_node() as session:
        assert shell(session, "echo /proc/[0-9]*").split() == ["/proc/1", "/proc/2"]
        assert shell(session, "uname -n") == session.workspace.name
        assert shell(session, "ls /sys/class/net; ls -A /tmp; ls -A /run -I cgroup2; ls -A /dev/shm") == "lo"
        assert shell(session, "cat /sys/class/net/lo/flags") == "0x9"  # IFF_UP | IFF_LOOPBACK
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
        inside = shell(session, f"cd /proc/self/ns; readlink {' '.join(kinds)}").split()
        assert not set(inside) & {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds}


def test_mounts_inside_are_the_nodes_own(open_node):
    with open_node() as session:
        lines = shell(session, "cat /proc/mounts").splitlines()
    places = {line.split()[1]: line.split()[2] for line in lines}
    assert places.pop("/") == "overlay"
    assert str(session.workspace) in places
    below = ("/dev", "/proc", "/run", "/sys", "/tmp", str(session.workspace))
    assert [place for place in places if not place.startswith(below)] == []


def test_the_workspace_is_shared_at_its_path(open_node):
    with open_node() as session:
        (session.workspace / "to").write_text("outside")
        assert shell(session, f"cat {session.workspace}/to; echo inside > {session.workspace}/from") == "outside"
        assert (session.workspace / "from").read_text() == "inside\n"


def test_the_tree_is_not_written_to(open_node):
    marker = f"/etc/warmstart-{secrets.token_hex(4)}"
    with open_node() as session:
        shell(session, f"echo x > {marker}")
        assert shell(session, f"cat {marker}") == "x"
        assert (session.root / marker[1:]).read_text() == "x\n"
        assert not Path(marker).exists()
    assert not Path(marker).exists()


def test_what_is_bound_is_read_only_unless_it_is_to_be_written(open_node, scratch):
    for name in ("read", "written"):
        (scratch / name).mkdir()
        (scratch / name / "file").write_text(name)
    (scratch / "single").write_text("single")
    binds = [Bind(f"{scratch}/read"), Bind(f"{scratch}/written", writable=True), Bind(f"{scratch}/single")]
    with open_node(*binds) as session:
        assert shell(session, f"cat {scratch}/read/file {scratch}/written/file {scratch}/single") == "readwrittensingle"
        for path in ("read/new", "read/file", "single"):
            with pytest.raises(ProgramError, match="exit status") as caught:
                shell(session, f"echo x > {scratch}/{path}")
            assert "Read-only file system" in caught.value.stderr
        shell(session, f"echo new > {scratch}/written/new")
    assert (scratch / "written/new").read_text() == "new\n"
    assert (scratch / "read/file").read_text() == "read"


@pytest.mark.parametrize("parent", ["/mnt", "/tmp", "/run", "/var/run", "/root"])
def test_what_is_bound_is_at_its_path_wherever_that_is(open_node, parent):
    """A link on the way, as /var/run is one, leads somewhere else inside."""
    place = Path(parent) / f"ws-session-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        (place / "file").write_text("here")
        with open_node(Bind(str(place))) as session:
            assert shell(session, f"cat {place}/file") == "here"
        assert [entry.name for entry in place.iterdir()] == ["file"]
    finally:
        (place / "file").unlink()
        place.rmdir()


def test_what_is_bound_may_be_a_link(open_node, scratch):
    (scratch / "real").write_text("real")
    (scratch / "link").symlink_to("real")
    with open_node(Bind(f"{scratch}/link")) as session:
        assert shell(session, f"cat {scratch}/link") == "real"


def test_certificates_are_the_hosts_own(open_node, scratch, monkeypatch):
    (scratch / "bundle.pem").write_text("trusted")
    before = Path(CA_BUNDLE).read_bytes() if Path(CA_BUNDLE).exists() else None
    monkeypatch.chdir(scratch)
    monkeypatch.setenv("SSL_CERT_FILE", "bundle.pem")
    with open_node() as session:
        assert shell(session, f"cat {CA_BUNDLE}") == "trusted"
    assert (Path(CA_BUNDLE).read_bytes() if Path(CA_BUNDLE).exists() else None) == before


def test_a_file_of_the_host_takes_the_place_of_a_link_and_of_nothing(scratch, monkeypatch):
    """What a link in the tree leads to is on the host while the node is made."""
    target = scratch / "target"
    target.write_text("precious")
    (scratch / "link").symlink_to(target)
    (scratch / "file").write_text("given")
    files = [(f"{scratch}/link", f"{scratch}/file"), (f"{scratch}/new/directory/file", f"{scratch}/file")]
    monkeypatch.setattr(session_module, "list_host_files", lambda: iter(files))
    with open_workspace("test") as workspace, enter(ROOT, workspace) as session:
        assert shell(session, f"cat {scratch}/link {scratch}/new/directory/file") == "givengiven"
    assert target.read_text() == "precious"
    assert not (scratch / "new").exists()


def test_only_what_leads_to_the_network_is_passed_on(open_node, monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.delenv("WARMSTART_DEBIAN_EXPIRED", raising=False)
    monkeypatch.setenv("SECRET", "password")
    monkeypatch.setenv("GOPROXY", "http://modules")
    with open_node() as session:
        seen = dict(line.split("=", 1) for line in shell(session, "env").splitlines())
    assert seen.pop("HTTPS_PROXY") == "http://proxy:3128"
    assert seen.pop("GOPROXY") == "http://modules"
    assert {name for name in seen if name not in ("PWD", "OLDPWD", "SHLVL", "_")} == {"PATH", "HOME", "LANG", "TMPDIR"}
    assert "password" not in repr(session)


def test_temporary_files_are_in_the_workspace_not_in_memory(open_node):
    with open_node() as session:
        made = Path(shell(session, "mktemp").strip())
        assert made.parent == session.workspace / "tmp"
        assert made.exists()


def test_programs_are_in_the_nodes_cgroup(open_node):
    with open_node() as session:
        lines = shell(session, "cat /proc/self/cgroup").splitlines()
        used = [hierarchy for hierarchy, _ in find_cgroup(session.workspace.name).directories]
        assert sum(line.endswith(":/node") for line in lines) == sum(hierarchy.has_leaf for hierarchy in used)


def test_nothing_of_the_hosts_cgroups_is_seen(open_node):
    """CRIU looks into the v2 hierarchy even where it is not in use; what it saw there would be in the image."""
    hierarchies = [hierarchy for hierarchy, _ in find_cgroup("x").directories]
    if hierarchies[-1].has_leaf:
        pytest.skip("needs a hybrid host")
    with open_node() as session:
        assert "0::/" in shell(session, "cat /proc/self/cgroup").splitlines()
        script = "mkdir /tmp/v2 && mount -t cgroup2 cgroup2 /tmp/v2 && find /tmp/v2 -type d && cat /tmp/v2/cgroup.procs"
        directory, *pids = shell(session, script).splitlines()
        assert (directory, pids[0]) == ("/tmp/v2", "1")


def test_the_tree_may_have_any_name(scratch):
    tree = scratch / r"a:b,c\d e"
    tree.symlink_to(ROOT)
    with open_workspace("te,s:t") as workspace, enter(tree, workspace) as session:
        assert shell(session, "echo works") == "works"


SHOW_CGROUP = """
from pathlib import Path
from warmstart.core.workspace import open_workspace
from warmstart.node.session import enter
script = '''
cat /proc/self/cgroup /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/pod
echo 0 > /sys/fs/cgroup/pod/cgroup.procs
cat /proc/self/cgroup /sys/fs/cgroup/node/cgroup.procs
'''
with open_workspace("test") as workspace, enter(Path("/"), workspace) as session:
    print(session.run(["sh", "-c", script], timeout_s=60).stdout)
    assert Path("/sys/fs/cgroup", workspace.name).is_dir()
assert not Path("/sys/fs/cgroup", workspace.name).exists()
"""


def test_a_host_with_cgroup_v2_alone_hands_its_controllers_on():
    output = run_unified([sys.executable, "-c", SHOW_CGROUP])
    # A program inside starts in the leaf, what its siblings are handed is the controller, a runtime's process can move
    # to one of them, and then PID 1 is in the leaf, with `cat`.
    lines = [line for line in output.splitlines() if line.startswith("0::") or ":" not in line]
    assert lines[:4] == ["0::/node", "hugetlb", "0::/pod", "1"]


# Programs


def test_programs_take_input_and_give_output_and_status(open_node, scratch):
    heard: list[str] = []
    with open_node() as session:
        done = session.run(["sh", "-c", "cat; pwd; exit 3"], timeout_s=LIMIT_S, check=False, cwd="/etc", stdin="in ")
        assert (done.returncode, done.stdout) == (3, "in /etc\n")
        session.stream(["sh", "-c", "echo a; echo b >&2"], on_line=heard.append, timeout_s=LIMIT_S)
        assert heard == ["a", "b"]
        assert shell(session, "readlink /proc/self/ns/net", host_network=True) == str(
            Path("/proc/self/ns/net").readlink()
        )
        assert session.network.readlink() == Path(shell(session, "readlink /proc/self/ns/net"))


def test_the_session_shows_its_proc(open_node):
    with open_node() as session, session.background(["sleep", "1000"], log_file=session.workspace / "log"):
        sleepers = lambda: [p for p in session.proc.glob("[0-9]*/comm") if p.read_text() == "sleep\n"]  # noqa: E731
        assert wait_until(lambda: len(sleepers()) == 1)


@pytest.mark.parametrize("how", ["background", "run", "stream"])
def test_a_program_inside_ends_with_the_one_that_brought_it_in(open_node, how):
    with open_node() as session:
        script = f"echo started > {session.workspace}/started; exec sleep 1000"
        if how == "background":
            with session.background(["sh", "-c", script], log_file=session.workspace / "log"):
                assert wait_until((session.workspace / "started").exists)
        elif how == "run":
            with pytest.raises(ProgramError, match="was stopped"):
                session.run(["sh", "-c", script], timeout_s=1)
        else:
            with pytest.raises(ProgramError, match="was stopped"):
                session.stream(["sh", "-c", script], on_line=print, timeout_s=1)
        assert wait_until(lambda: [path.name for path in session.proc.glob("[0-9]*")] == ["1"])


def test_what_programs_leave_behind_is_reaped(open_node):
    with open_node() as session:
        shell(session, "sh -c 'sleep 0.1 &' > /dev/null 2>&1")
        assert wait_until(lambda: [path.name for path in session.proc.glob("[0-9]*")] == ["1"])


def test_two_nodes_at_once_are_apart(open_node):
    with open_node() as one, open_node() as two:
        shell(one, "echo one > /etc/which")
        assert shell(two, "cat /etc/which 2>/dev/null || echo none") == "none"
        assert one.network.readlink() != two.network.readlink()


# Its end


def test_nothing_is_left_at_the_end(open_node):
    with open_node() as session:
        # In a session and a process group of its own, ignoring what it can.
        shell(session, "(trap '' TERM HUP INT; setsid sleep 1000) > /dev/null 2>&1 &")
        name = session.workspace.name
        assert find_traces(name)
    assert find_traces(name) == []


@pytest.mark.parametrize("error", [WarmstartError("its own"), KeyboardInterrupt()])
def test_nothing_is_left_after_an_error_which_stays_the_error(open_node, error):
    with pytest.raises(type(error)) as caught, open_node() as session:
        raise error
    assert caught.value is error
    assert find_traces(session.workspace.name) == []


HOLD = """
import sys
from pathlib import Path
from warmstart.core.workspace import open_workspace
from warmstart.node.session import enter
with open_workspace("test") as workspace, enter(Path("/"), workspace, leftovers=sys.argv[1:]) as session:
    with session.background(["sleep", "1000"], log_file=workspace / "log"):
        print(workspace, session.init_pid, flush=True)
        sys.stdin.read()
"""


ADOPT = """
import contextlib, ctypes, os, time
from pathlib import Path
from warmstart.core.process import ProgramError
from warmstart.core.workspace import open_workspace
from warmstart.node import session as session_module
session_module.END_S = 2.0
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
with open_workspace("test") as workspace, session_module.enter(Path("/"), workspace) as session:
    command = ["sh", "-c", f"touch {workspace}/started; exec sleep 1000"]
    with session.background(command, log_file=workspace / "log"):
        while not (workspace / "started").exists():
            time.sleep(0.01)
    for start in (session.run, lambda *words, **more: session.stream(*words, on_line=print, **more)):
        with contextlib.suppress(ProgramError):
            start(command, timeout_s=0.5)
with contextlib.suppress(ChildProcessError):
    print(os.waitpid(-1, os.WNOHANG))
"""


def test_no_dead_program_is_left_to_the_machines_first_process():
    # This one adopts them instead, and never asks after them, as some do that are the first process of a container.
    done = subprocess.run([sys.executable, "-c", ADOPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_left_when_the_command_is_killed():
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        workspace = Path(command.stdout.readline().split()[0].decode())
        assert workspace.exists()
        command.kill()
    assert wait_until(lambda: not workspace.exists() and find_traces(workspace.name) == [])


def test_what_the_command_was_writing_is_removed_when_it_is_killed(tmp_path):
    (tmp_path / ".out.1.partial/blobs").mkdir(parents=True)
    nest(tmp_path / ".out.1.partial/blobs")
    (tmp_path / ".out.2.partial").touch()
    (tmp_path / "out").touch()
    argv = [sys.executable, "-c", HOLD, f"{tmp_path}/.*.partial", f"{tmp_path}/none/.*"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        command.stdout.readline()
        command.kill()
    assert wait_until(lambda: list(tmp_path.iterdir()) == [tmp_path / "out"])


KILLED_AT_THE_END = """
import os, signal
from pathlib import Path
from warmstart.core.workspace import open_workspace
from warmstart.node import session
def end(keeper, name):
    keeper.stdin.write("done\\n")
    keeper.stdin.flush()
    os.kill(os.getpid(), signal.SIGKILL)
session._end = end
with open_workspace("test") as workspace, session.enter(Path("/"), workspace):
    print(workspace, flush=True)
"""


def test_nothing_is_left_when_the_command_is_killed_while_the_node_is_taken_down():
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THE_END], capture_output=True, text=True, check=False)
    workspace = Path(done.stdout.strip())
    assert done.returncode == -signal.SIGKILL
    assert wait_until(lambda: not workspace.exists() and find_traces(workspace.name) == [])


def find_keeper(session: Session) -> int:
    status = Path(f"/proc/{session.init_pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def test_nothing_is_left_when_the_keeper_is_killed(open_node):
    with open_node() as session:
        os.kill(find_keeper(session), signal.SIGKILL)
        assert wait_until(lambda: not Path(f"/proc/{session.init_pid}").exists())
        with pytest.raises(ProgramError):
            shell(session, "true")
        assert session.workspace.exists()
    assert find_traces(session.workspace.name) == []


def test_nothing_is_left_when_the_keeper_is_killed_during_a_checkpoint(open_node):
    """What is frozen for it is not even reached by SIGKILL on cgroup v1."""
    freeze = """
pod=/sys/fs/cgroup/freezer/pod
mkdir $pod
setsid sleep 1000 > /dev/null 2>&1 &
echo $! > $pod/cgroup.procs
echo FROZEN > $pod/freezer.state
until [ "$(cat $pod/freezer.state)" = FROZEN ]; do sleep 0.02; done
"""
    with open_node() as session:
        if not (session.root / "sys/fs/cgroup/freezer").exists():
            pytest.skip("cgroup v2 lets what is frozen be killed")
        # The shell waits to be told to end, or its child would end with it.
        with session.background(["sh", "-c", f"{freeze} echo frozen; wait"], log_file=session.workspace / "log"):
            assert wait_until(lambda: "frozen" in (session.workspace / "log").read_text())
            os.kill(find_keeper(session), signal.SIGKILL)
    assert not any(directory.exists() for _, directory in find_cgroup(session.workspace.name).directories)
    # A process leaves its cgroup when it dies, and is dead a moment later.
    assert wait_until(lambda: find_traces(session.workspace.name) == [])


def test_a_dead_node_leaves_the_commands_workspace_alone(open_node):
    with open_node() as session:
        os.kill(session.init_pid, signal.SIGKILL)
        assert wait_until(lambda: "State:\tZ" in Path(f"/proc/{session.init_pid}/status").read_text())
        with pytest.raises(ProgramError):
            shell(session, "true")
        assert session.workspace.exists()
    assert find_traces(session.workspace.name) == []


def test_signals_to_the_whole_foreground_do_not_reach_the_node(open_node):
    with open_node() as session:
        keeper = find_keeper(session)
        assert os.getsid(keeper) == keeper
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(keeper, number)
        assert shell(session, "echo works") == "works"


def test_a_keeper_that_hangs_is_killed(open_node, monkeypatch):
    monkeypatch.setattr(session_module, "END_S", 0.1)
    with open_node() as session:
        os.kill(find_keeper(session), signal.SIGSTOP)
    assert find_traces(session.workspace.name) == []


# What cannot be


def test_it_takes_root(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match=r"^the embedded node needs root$") as caught, enter(ROOT, tmp_path):
        pass
    assert "sudo" in caught.value.hint


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ("/nonexistent", "the tools directory does not exist: /nonexistent"),
        # No file system that overlay takes for a layer.
        ("/proc", "mount overlay: Invalid argument: "),
    ],
)
def test_a_tree_that_cannot_be_used_is_the_hosts_fault(tree, why):
    with open_workspace("test") as workspace:
        with (
            pytest.raises(HostError, match=f"^cannot set up the embedded node: {why}") as caught,
            enter(Path(tree), workspace),
        ):
            pass
        assert caught.value.details == ()
        assert workspace.exists()
    assert find_traces(workspace.name) == []


def test_what_is_not_there_cannot_be_bound(open_node, scratch):
    missing = f"{scratch}/missing"
    with pytest.raises(HostError, match=f"No such file or directory: {missing}$"), open_node(Bind(missing)):
        pass
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("path", ["/", "/usr", "/usr/local"])
def test_the_tools_cannot_be_hidden(open_node, path):
    with pytest.raises(HostError, match=f"^cannot bind {path}: it would hide the tools$"), open_node(Bind(path)):
        pass


def test_evidence_of_a_node_that_could_not_be_made_is_kept():
    with (
        pytest.raises(HostError, match="tools directory does not exist") as caught,
        open_workspace("test", keep_evidence=True) as workspace,
        enter(Path("/nonexistent"), workspace),
    ):
        pass
    assert caught.value.details[-1].endswith(str(workspace))
    assert workspace.exists()
    subprocess.run(["rm", "-r", workspace], check=True)


def test_a_plan_survives_its_way_to_the_keeper():
    binds = (Bind("/a"), Bind("/b", writable=True))
    plan = Plan("name", "/tree", "/work", (("/etc/hosts", "/etc/hosts"),), binds, ("/out/.*.partial",))
    assert Plan.from_json(plan.to_json()) == plan
