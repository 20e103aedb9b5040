"""Objects of System V IPC are described by what does not change by use."""

from __future__ import annotations

from warmstart.dump.state.ipc import parse_table

QUEUES = """\
       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime
        77          3   600          12          1     9     0  1000  1001     0     0          5          0          4
        -5          0   644           0          0     0     0     0     0     0     0          0          0          4
"""


def test_a_queue_is_the_same_whatever_is_in_it():
    assert parse_table(QUEUES, "msg") == "-5 0 644 0 0,77 3 600 1000 1001"
    assert parse_table(QUEUES.replace("12          1", "0           0"), "msg") == parse_table(QUEUES, "msg")
    assert parse_table(QUEUES.splitlines()[0], "msg") == ""
