"""Containers by their cgroup, in a fake procfs with the format of proc(5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.dump.proc.container import read_processes
from warmstart.dump.proc.other_processes import find_other_processes

STATUS = """Name:\t{name}
State:\tS (sleeping)
PPid:\t{parent}
TracerPid:\t0
Uid:\t0\t0\t0\t0
Gid:\t0\t0\t0\t0
Threads:\t1
NSpid:\t{pids}
NSsid:\t1
"""
V2 = "0::{}\n"
V1 = "9:name=systemd:{0}\n4:memory:{0}\n2:cpu:/\n0::/\n"
POD = "/kubepods/pod1"


class FakeProc:
    """A fake procfs with conmon (10) and the runtime's pause container (20), as for a pod."""

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        self.add(1, "systemd", 0, "/init.scope", "host")
        self.add(10, "conmon", 1, f"{POD}/conmon", "host")
        self.add(20, "pause", 10, f"{POD}/pause", "pod", 1)

    def add(self, pid: int, name: str, parent: int, cgroup: str, namespace: str, inner: int | None = None) -> None:
        directory = self.path / str(pid)
        (directory / "ns").mkdir(parents=True)
        pids = f"{pid}" if inner is None else f"{pid}\t{inner}"
        (directory / "status").write_text(STATUS.format(name=name, parent=parent, pids=pids))
        (directory / "cgroup").write_text(self.form.format(cgroup))
        (directory / "ns/pid").symlink_to(namespace)

    def find(self, first: int) -> list[str]:
        processes = read_processes(self.path)
        tree = [each for each in processes.values() if first in (each.pid, each.parent_pid)]
        return [
            each.name for each in find_other_processes(self.path, processes, sorted(tree, key=lambda each: each.pid))
        ]


@pytest.fixture(params=[V1, V2], ids=["cgroup v1", "cgroup v2"])
def proc(request, tmp_path) -> FakeProc:
    return FakeProc(tmp_path, request.param)


def test_the_containers_own_processes_are_not_found(proc):
    proc.add(100, "service", 10, f"{POD}/app", "app", 1)
    proc.add(101, "worker", 100, f"{POD}/app", "app", 2)
    assert proc.find(100) == []


@pytest.mark.parametrize("below", ["", "/nested/deeper"])
def test_a_process_of_its_cgroup_is_found_whatever_its_parent_and_namespace(proc, below):
    proc.add(100, "service", 10, f"{POD}/app", "app", 1)
    proc.add(200, "left-by-exec", 1, f"{POD}/app{below}", "host")
    proc.add(201, "of-another", 10, f"{POD}/app2", "app2", 1)
    assert proc.find(100) == ["left-by-exec"]


def test_the_other_containers_of_a_shared_pid_namespace_are_none(proc):
    proc.add(100, "service", 10, f"{POD}/app", "pod", 7)
    proc.add(101, "daemon", 20, f"{POD}/app", "pod", 9)
    proc.add(102, "sidecar", 10, f"{POD}/sidecar", "pod", 8)
    assert proc.find(100) == ["daemon"]


def test_a_process_below_the_launcher_is_not_found(proc):
    proc.add(100, "launcher", 10, f"{POD}/app", "app", 1)
    proc.add(101, "service", 100, f"{POD}/app", "app", 100)
    assert proc.find(101) == []
    proc.add(102, "daemon", 100, f"{POD}/app", "app", 103)
    assert proc.find(101) == ["daemon"]


def test_a_cgroup_that_the_runtime_is_in_says_nothing(proc):
    proc.add(100, "service", 10, f"{POD}/conmon", "app", 1)
    proc.add(101, "other", 10, f"{POD}/conmon", "other", 1)
    assert proc.find(100) == []


def test_a_process_that_ends_while_it_is_looked_at(proc):
    proc.add(100, "service", 10, f"{POD}/app", "app", 1)
    proc.add(200, "gone", 1, f"{POD}/app", "host")
    processes = read_processes(proc.path)
    (proc.path / "200/cgroup").unlink()
    (proc.path / "200/ns/pid").unlink()
    assert list(find_other_processes(proc.path, processes, [processes[100]])) == []
