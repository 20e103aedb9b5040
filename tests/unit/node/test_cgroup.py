"""Cgroups: which hierarchies are used on which hosts, and that nothing of ours stays in them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.core.errors import HostError
from warmstart.node import cgroup
from warmstart.node.cgroup import (
    LEAF,
    Cgroup,
    Hierarchy,
    find_cgroup,
    find_hierarchies,
    freeze_for_a_moment,
    limits_processes,
    make_cgroup,
    sweep_cgroups,
)

pytestmark = pytest.mark.linux

# As Fedora, Debian 12 and Ubuntu 24.04 are.
UNIFIED = """\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
26 22 0:24 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw
29 26 0:26 / /sys/fs/cgroup rw,nosuid,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
30 26 0:27 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:5 - pstore pstore rw
"""
UNIFIED_MEMBERSHIP = "0::/user.slice/user-1000.slice/session-3.scope\n"

# As CentOS 7 is, with SELinux.
LEGACY = """\
24 17 0:20 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,seclabel,mode=755
25 24 0:21 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup \
rw,seclabel,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
27 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,noexec,relatime shared:10 - cgroup cgroup rw,seclabel,cpuacct,cpu
28 24 0:24 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,seclabel,memory
29 24 0:25 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime shared:12 - cgroup cgroup rw,seclabel,cpuset
"""
LEGACY_MEMBERSHIP = """\
5:cpuset:/
4:memory:/user.slice
3:cpuacct,cpu:/user.slice
1:name=systemd:/user.slice/user-0.slice/session-1.scope
"""

# As Ubuntu 20.04 is.
HYBRID = """\
32 24 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
33 32 0:29 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
34 32 0:30 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
38 32 0:34 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,memory
39 32 0:35 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,cpu,cpuacct
"""
HYBRID_MEMBERSHIP = """\
12:cpu,cpuacct:/user.slice
4:memory:/user.slice/user-1000.slice
1:name=systemd:/user.slice/user-1000.slice/session-1.scope
0::/user.slice/user-1000.slice/session-1.scope
"""

# In a container of Docker that has no cgroup namespace, on such a host.
CONTAINER = """\
600 599 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
601 600 0:34 /docker/0a1b /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime master:16 - cgroup cgroup rw,memory
602 600 0:35 /docker/0a1b /sys/fs/cgroup/cpu,cpuacct rw,nosuid,relatime master:17 - cgroup cgroup rw,cpu,cpuacct
"""
CONTAINER_MEMBERSHIP = """\
12:cpu,cpuacct:/docker/0a1b
4:memory:/docker/0a1b/nested
"""

SYSTEMD = Path("/sys/fs/cgroup")


def test_a_unified_host_has_one_hierarchy():
    assert find_hierarchies(UNIFIED, UNIFIED_MEMBERSHIP) == (
        Hierarchy(SYSTEMD, "", SYSTEMD / "user.slice/user-1000.slice/session-3.scope"),
    )
    assert find_hierarchies(UNIFIED, UNIFIED_MEMBERSHIP)[0].is_v2


def test_a_legacy_host_has_a_hierarchy_for_each_set_of_controllers():
    assert find_hierarchies(LEGACY, LEGACY_MEMBERSHIP) == (
        Hierarchy(
            SYSTEMD / "systemd", "none,name=systemd", SYSTEMD / "systemd/user.slice/user-0.slice/session-1.scope"
        ),
        Hierarchy(SYSTEMD / "cpu,cpuacct", "cpuacct,cpu", SYSTEMD / "cpu,cpuacct/user.slice"),
        Hierarchy(SYSTEMD / "memory", "memory", SYSTEMD / "memory/user.slice"),
        Hierarchy(SYSTEMD / "cpuset", "cpuset", SYSTEMD / "cpuset"),
    )


def test_on_a_hybrid_host_the_legacy_ones_are_used_and_the_other_is_there():
    *legacy, unified = find_hierarchies(HYBRID, HYBRID_MEMBERSHIP)
    assert [hierarchy.options for hierarchy in legacy] == ["none,name=systemd", "memory", "cpu,cpuacct"]
    assert [(hierarchy.is_v2, hierarchy.has_leaf) for hierarchy in legacy] == [(False, True)] * 3
    assert (unified.mount_point, unified.is_v2, unified.has_leaf) == (SYSTEMD / "unified", True, False)


def test_a_stray_legacy_hierarchy_does_not_make_a_host_a_legacy_one():
    stray = "900 29 0:99 / /sys/fs/cgroup/net_cls rw,relatime - cgroup none rw,net_cls\n"
    found = find_hierarchies(UNIFIED + stray, f"1:net_cls:/\n{UNIFIED_MEMBERSHIP}")
    assert [hierarchy.mount_point for hierarchy in found] == [SYSTEMD]


def test_systemd_of_its_own_does_not_make_a_host_a_legacy_one():
    lines = [line for line in HYBRID.splitlines() if "memory" not in line and "cpu" not in line]
    found = find_hierarchies("\n".join(lines), HYBRID_MEMBERSHIP)
    assert [hierarchy.mount_point for hierarchy in found] == [SYSTEMD / "unified"]


def test_in_a_container_the_own_cgroup_starts_where_the_mount_does():
    assert find_hierarchies(CONTAINER, CONTAINER_MEMBERSHIP) == (
        Hierarchy(SYSTEMD / "memory", "memory", SYSTEMD / "memory/nested"),
        Hierarchy(SYSTEMD / "cpu,cpuacct", "cpu,cpuacct", SYSTEMD / "cpu,cpuacct"),
    )


def test_in_a_container_with_a_cgroup_namespace_the_own_cgroup_is_the_root():
    mount = "700 699 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
    assert find_hierarchies(mount, "0::/\n") == (Hierarchy(SYSTEMD, "", SYSTEMD),)


def test_a_process_outside_of_its_cgroup_namespace_is_taken_for_one_at_the_root():
    mount = "700 699 0:26 /../.. /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw\n"
    assert find_hierarchies(mount, "0::/../../elsewhere\n")[0].mount_point == SYSTEMD
    found = find_hierarchies("700 699 0:26 /a/b /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/a/c\n")
    assert found == (Hierarchy(SYSTEMD, "", SYSTEMD),)


def test_a_hierarchy_that_is_mounted_twice_is_used_once():
    again = "610 600 0:34 / /var/lib/x/sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    assert find_hierarchies(CONTAINER + again, CONTAINER_MEMBERSHIP) == find_hierarchies(
        CONTAINER, CONTAINER_MEMBERSHIP
    )
    again = "610 600 0:26 / /run/other rw,relatime - cgroup2 cgroup2 rw\n"
    assert find_hierarchies(UNIFIED + again, UNIFIED_MEMBERSHIP) == find_hierarchies(UNIFIED, UNIFIED_MEMBERSHIP)


@pytest.mark.parametrize("controllers", ["cpu memory", "cpu memory pids"])
def test_whether_processes_can_be_limited_on_v2(tmp_path, controllers):
    (tmp_path / "cgroup.controllers").write_text(controllers)
    assert limits_processes([Hierarchy(tmp_path, "", tmp_path)]) == ("pids" in controllers)


def test_whether_processes_can_be_limited_on_v1(tmp_path):
    memory, pids = (Hierarchy(tmp_path, options, tmp_path) for options in ("memory", "pids"))
    (tmp_path / "cgroup.controllers").write_text("pids")
    spare = Hierarchy(tmp_path, "", tmp_path, has_leaf=False)
    assert limits_processes([memory, pids, spare])
    assert not limits_processes([memory, spare])
    assert not limits_processes([])


def test_a_host_without_any_says_so(monkeypatch):
    assert find_hierarchies(UNIFIED.splitlines()[0], UNIFIED_MEMBERSHIP) == ()
    monkeypatch.setattr(cgroup, "find_hierarchies", lambda *_: ())
    with pytest.raises(HostError, match="no cgroup hierarchy is mounted"), make_cgroup("warmstart-test"):
        pass


# For real


@pytest.fixture
def name() -> str:
    if os.geteuid() != 0:
        pytest.skip("needs root to make cgroups")
    return f"warmstart-test-{os.urandom(4).hex()}"


def directories(name: str) -> list[Path]:
    return [directory for _, directory in find_cgroup(name).directories]


def put(pid: int, made: Cgroup) -> None:
    """Put a process where the node's own are."""
    for hierarchy, directory in made.directories:
        place = directory / LEAF if hierarchy.has_leaf else directory
        (place / "cgroup.procs").write_text(str(pid))


def is_gone(name: str) -> bool:
    return not any(directory.exists() for directory in directories(name))


def test_a_cgroup_is_made_in_each_hierarchy_and_gone_at_the_end(name):
    with make_cgroup(name) as made:
        assert [directory for _, directory in made.directories] == directories(name)
        for hierarchy, directory in made.directories:
            assert directory.is_dir()
            assert (directory / LEAF).is_dir() == hierarchy.has_leaf
    assert is_gone(name)


def test_it_is_gone_after_an_error_which_stays_the_error(name):
    with pytest.raises(OSError, match=r"^its own$") as caught, make_cgroup(name):
        raise OSError("its own")
    assert type(caught.value) is OSError
    assert is_gone(name)


def test_it_is_gone_with_all_that_a_runtime_left_below_it(name):
    with make_cgroup(name) as made:
        for _, directory in made.directories:
            (directory / "pod" / "container").mkdir(parents=True)
    assert is_gone(name)


def test_its_removal_waits_for_processes_that_are_about_to_end(name):
    with make_cgroup(name) as made, subprocess.Popen(["sleep", "1000"]) as sleeper:
        put(sleeper.pid, made)
        timer = threading.Timer(0.3, sleeper.kill)
        timer.start()
        made.remove()
        assert is_gone(name)
        timer.join()


def test_its_removal_does_not_wait_for_ever(name, monkeypatch):
    monkeypatch.setattr(cgroup, "REMOVAL_S", 0.1)
    with make_cgroup(name) as made:
        with subprocess.Popen(["sleep", "1000"]) as sleeper:
            put(sleeper.pid, made)
            made.remove()
            assert not is_gone(name)
            sleeper.kill()
        monkeypatch.undo()
    assert is_gone(name)


def test_what_is_frozen_can_be_killed_when_it_is_thawed(name):
    with make_cgroup(name) as made:
        legacy = [place for hierarchy, place in made.directories if "freezer" in hierarchy.options.split(",")]
        if not legacy:
            pytest.skip("cgroup v2 lets what is frozen be killed")
        pod = legacy[0] / "pod"
        pod.mkdir()
        with subprocess.Popen(["sleep", "1000"]) as sleeper:
            (pod / "cgroup.procs").write_text(str(sleeper.pid))
            (pod / "freezer.state").write_text("FROZEN")
            sleeper.kill()
            with pytest.raises(subprocess.TimeoutExpired):
                sleeper.wait(0.1)
            made.thaw()
            assert sleeper.wait(60) == -signal.SIGKILL


WAITING = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
waiting = libc.epoll_create1(0)
print("waits", flush=True)
libc.epoll_wait(waiting, ctypes.create_string_buffer(12), 1, -1)
print(errno.errorcode[ctypes.get_errno()], flush=True)
"""


def test_a_wait_ends_when_its_process_is_frozen_for_a_moment(name):
    with make_cgroup(name) as made:
        command = [sys.executable, "-c", WAITING]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            put(waiting.pid, made)
            assert waiting.stdout.readline() == "waits\n"
            wait_until_asleep(waiting.pid)
            freeze_for_a_moment(Path(f"/proc/{waiting.pid}"))
            assert waiting.stdout.readline() == "EINTR\n"


LATE = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
waiting = libc.epoll_create1(0)
print("waits", flush=True)
while True:
    end = time.monotonic() + 0.1
    interrupted = libc.epoll_wait(waiting, ctypes.create_string_buffer(12), 1, 100) == -1
    if interrupted and time.monotonic() > end:
        break
print("late", flush=True)
sys.stdin.read()
"""


def test_a_wait_reaches_its_limit_while_its_process_is_frozen(name):
    with make_cgroup(name) as made:
        command = [sys.executable, "-c", LATE]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiting:
            put(waiting.pid, made)
            assert waiting.stdout.readline() == "waits\n"
            for _ in range(5):  # it may be between two waits
                freeze_for_a_moment(Path(f"/proc/{waiting.pid}"), 0.2)
            assert waiting.stdout.readline() == "late\n"
            waiting.stdin.close()


def wait_until_asleep(pid: int) -> None:
    while "State:\tS" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)


def test_a_process_that_has_ended_cannot_be_frozen():
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
        with pytest.raises(FileNotFoundError):
            freeze_for_a_moment(Path(f"/proc/{ended.pid}"))


def test_a_process_joins_and_settles(name):
    script = """
import sys
from pathlib import Path
from warmstart.node.cgroup import find_cgroup
made = find_cgroup(sys.argv[1])
made.join()
print(Path("/proc/self/cgroup").read_text())
made.settle()
print(Path("/proc/self/cgroup").read_text())
"""
    with make_cgroup(name) as made:
        done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=True)
        joined, settled = done.stdout.split("\n\n")[:2]
        assert joined.count(f"/{name}\n") + joined.endswith(f"/{name}") == len(made.directories)
        assert settled.count(f"/{name}/{LEAF}") == sum(hierarchy.has_leaf for hierarchy, _ in made.directories)
    assert is_gone(name)


def test_all_that_can_be_controlled_is_handed_down_and_taken_back(name):
    unified = [place for hierarchy, place in find_cgroup(name).directories if hierarchy.is_v2 and hierarchy.has_leaf]
    if not unified:
        pytest.skip("needs a host with cgroup v2 alone")
    offered = unified[0].parent / "cgroup.controllers"
    handed = unified[0].parent / "cgroup.subtree_control"
    before = handed.read_text()
    with make_cgroup(name):
        assert (unified[0] / "cgroup.controllers").read_text() == offered.read_text()
    assert handed.read_text() == before


def test_what_somebody_else_uses_is_not_taken_back(name):
    unified = [place for hierarchy, place in find_cgroup(name).directories if hierarchy.is_v2 and hierarchy.has_leaf]
    if not unified:
        pytest.skip("needs a host with cgroup v2 alone")
    with make_cgroup(f"{name}-a"):
        with make_cgroup(f"{name}-b"):
            pass
        assert "cpu" in (unified[0].parent / "cgroup.subtree_control").read_text().split()


def test_a_place_where_none_can_be_made_is_the_hosts_fault(name, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    hierarchy = Hierarchy(tmp_path / "file", "memory", tmp_path / "file")
    monkeypatch.setattr(cgroup, "find_hierarchies", lambda *_: (hierarchy,))
    with pytest.raises(HostError, match=r"^cannot make a cgroup: Not a directory: ") as caught, make_cgroup(name):
        pass
    assert "--privileged" in caught.value.hint


def test_what_was_made_before_one_could_not_be_made_is_gone(name, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    real = find_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    broken = Hierarchy(tmp_path / "file", "memory", tmp_path / "file")
    monkeypatch.setattr(cgroup, "find_hierarchies", lambda *_: (*real, broken))
    with pytest.raises(HostError), make_cgroup(name):
        pass
    monkeypatch.undo()
    assert is_gone(name)


def test_two_at_once_are_apart(name):
    with make_cgroup(f"{name}-a"), make_cgroup(f"{name}-b"):
        assert not is_gone(f"{name}-a")
        assert not is_gone(f"{name}-b")
    assert is_gone(f"{name}-a")
    assert is_gone(f"{name}-b")


# What killed commands leave

HOLD = """
import sys
from warmstart.node.cgroup import make_cgroup
with make_cgroup(sys.argv[1]) as made:
    for _, directory in made.directories:
        (directory / "pod" / "container").mkdir(parents=True)
    print("made", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(workspace_name) -> Iterator[subprocess.Popen]:
    """A process that has a cgroup of the name of a workspace."""
    command = [sys.executable, "-c", HOLD, workspace_name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"made\n"
        yield holder
        holder.kill()


@pytest.fixture
def workspace_name(name) -> Iterator[str]:
    # The fixture `name` sees to it that they may be made at all.
    called = f"warmstart-test-{secrets.token_hex(4)}"
    yield called
    find_cgroup(called).remove()


def test_the_cgroup_of_a_killed_owner_is_swept(held, workspace_name):
    held.kill()
    held.wait()
    assert not is_gone(workspace_name)
    sweep_cgroups()
    assert is_gone(workspace_name)


def test_a_frozen_process_that_was_killed_is_swept(held, workspace_name):
    legacy = [place for one, place in find_cgroup(workspace_name).directories if "freezer" in one.options.split(",")]
    if not legacy:
        pytest.skip("cgroup v2 lets what is frozen be killed")
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        (legacy[0] / "pod" / "cgroup.procs").write_text(str(sleeper.pid))
        (legacy[0] / "pod" / "freezer.state").write_text("FROZEN")
        sleeper.kill()
        held.kill()
        held.wait()
        reaper = threading.Thread(target=sleeper.wait)
        reaper.start()
        sweep_cgroups()
        reaper.join()
    assert is_gone(workspace_name)


def test_the_cgroup_of_a_living_owner_is_not_touched(held, workspace_name):
    sweep_cgroups()
    for _, directory in find_cgroup(workspace_name).directories:
        assert (directory / "pod" / "container").is_dir()


def test_a_cgroup_with_a_living_process_is_not_touched(held, workspace_name):
    held.kill()
    held.wait()
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        put(sleeper.pid, find_cgroup(workspace_name))
        sweep_cgroups()
        for _, directory in find_cgroup(workspace_name).directories:
            assert (directory / "pod" / "container").is_dir()
        sleeper.kill()


@pytest.mark.parametrize("called", ["warmstart-runner.service", "warmstart.slice", "mywarmstart-build-abcdefgh"])
def test_a_cgroup_of_another_name_is_not_touched(name, called):
    places = directories(called)
    try:
        for place in places:
            place.mkdir()
        sweep_cgroups()
        assert all(place.is_dir() for place in places)
    finally:
        for place in places:
            place.rmdir()


def test_a_sweep_removes_only_the_one_that_it_has_locked(workspace_name, monkeypatch):
    """When one of the same name takes its place, the sweep leaves it alone."""

    holds_living = cgroup._holds_living

    def replace_it(directory: Path) -> bool:
        if directory.name == workspace_name:
            directory.rmdir()
            directory.mkdir()
        return holds_living(directory)

    _, directory = find_cgroup(workspace_name).directories[0]
    directory.mkdir()
    try:
        monkeypatch.setattr(cgroup, "_holds_living", replace_it)
        sweep_cgroups()
        assert directory.is_dir()
    finally:
        directory.rmdir()


def test_who_makes_one_while_others_sweep_has_it(workspace_name):
    ended = threading.Event()

    def sweep() -> None:
        while not ended.is_set():
            sweep_cgroups()

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for _ in range(20):
            with make_cgroup(workspace_name) as made:
                assert all(directory.is_dir() for _, directory in made.directories)
            assert is_gone(workspace_name)
    finally:
        ended.set()
        for sweeper in sweepers:
            sweeper.join()
