from __future__ import annotations

from pathlib import Path

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_only_entry, write_image
from warmstart.dump.edit.parents import clear_parent_death_signals


def test_only_the_first_processs_signal_is_cleared(tmp_path):
    processes = [protos.Process(pid=100, ppid=0, threads=[100, 101]), protos.Process(pid=102, ppid=100, threads=[102])]
    write_image(tmp_path / "pstree.img", [Entry(process.SerializeToString()) for process in processes])
    for thread, number in ((100, 9), (101, 0), (102, 15)):
        core = protos.Core()
        core.thread_core.pdeath_sig = number
        write_image(tmp_path / f"core-{thread}.img", [Entry(core.SerializeToString())])
    assert clear_parent_death_signals(tmp_path) == 1
    assert [read_signal(tmp_path / f"core-{thread}.img") for thread in (100, 101, 102)] == [0, 0, 15]


def test_a_first_process_that_has_ended_has_one_thread(tmp_path):
    processes = [protos.Process(pid=100, ppid=0, threads=[100]), protos.Process(pid=101, ppid=0, threads=[727538016])]
    write_image(tmp_path / "pstree.img", [Entry(process.SerializeToString()) for process in processes])
    for pid, state in ((100, 1), (101, 2)):
        core = protos.Core()
        core.tc.comm, core.tc.task_state = b"x", state
        write_image(tmp_path / f"core-{pid}.img", [Entry(core.SerializeToString())])
    assert clear_parent_death_signals(tmp_path) == 0


def read_signal(path: Path) -> int:
    return decode(path, read_only_entry(path), protos.Core).thread_core.pdeath_sig
