"""The lines of CRIU's logs that explain a failure."""

from __future__ import annotations

import pytest

from warmstart.dump.criu.log import find_errors, find_version, read_version

# CRIU 4.2.1, a dump that failed.
DUMP = """\
(00.000000) Version: 4.2.1 (gitid 0)
(00.003743) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory
(00.028995) Dumping processes (pid: 149 comm: server)
(00.029004) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.038467) sockets: Searching for socket 0x647869 family 2
(00.038468) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.
(00.038473) ----------------------------------------
(00.038485) Error (criu/cr-dump.c:1545): Dump files (pid: 149) failed with -1
(00.099752) Error (criu/cr-dump.c:1975): Dumping FAILED.
"""
# CRIU 4.2.1, a restore that failed.
RESTORE = """\
(00.041300)      1: inet: \\tRestore: family AF_INET    type SOCK_DGRAM
(00.041315)      1: Error (criu/sk-inet.c:1021): inet: Can't bind inet socket (id 5): Cannot assign requested address
(00.041400) Error (criu/cr-restore.c:1258): 42 exited, status=1
(00.041500) Warn  (criu/apparmor.c:1029): apparmor namespace
(00.051500) Error (criu/cr-restore.c:2384): Restoring FAILED.
(00.051500) Error (criu/cgroup.c:1970): cg: cgroupd: recv req error: No such file or directory"""


def test_a_dumps_reasons_are_told_in_order():
    assert find_errors(DUMP) == [
        "inet: Connected TCP socket, consider using --tcp-established option. (criu/sk-inet.c:200)",
        "Dump files (pid: 149) failed with -1 (criu/cr-dump.c:1545)",
    ]


def test_a_restores_reasons_are_told_in_order():
    assert find_errors(RESTORE) == [
        "inet: Can't bind inet socket (id 5): Cannot assign requested address (criu/sk-inet.c:1021)",
        "cg: cgroupd: recv req error: No such file or directory (criu/cgroup.c:1970)",
    ]


@pytest.mark.parametrize("log", [DUMP, RESTORE])
def test_a_runtime_that_quotes_a_log_tells_the_same(log):
    quoted = "".join(
        f'time="2026-11-24T12:54:50Z" level=warning msg="{number}:{line}"\n'
        for number, line in enumerate(log.splitlines())
    )
    assert find_errors(f"criu failed: type NOTIFY errno 0: {quoted}") == find_errors(log)


def test_a_reason_is_told_once():
    assert find_errors(DUMP + DUMP) == find_errors(DUMP)


@pytest.mark.parametrize("log", ["", "no reason at all\n", "Error: of somebody else (file.c:3)", "\0\xff" * 100])
def test_there_may_be_none(log):
    assert find_errors(log) == []


@pytest.mark.timeout(60)
def test_a_hostile_log_costs_no_more_than_its_length():
    line = "(00.000001) Error (criu/a.c:1): " + "x" * 200 + " " * 1000 + "y\n"
    assert len(find_errors(line * 5000)) == 1


@pytest.mark.parametrize(("log", "version"), [(DUMP, "4.2.1"), (RESTORE, None), ("Version: 4.2.1", None)])
def test_a_log_says_which_version_wrote_it(log, version):
    assert find_version(log) == version


def test_a_log_file_says_which_version_wrote_it(tmp_path):
    log = tmp_path / "dump.log"
    assert read_version(None) is None
    assert read_version(log) is None
    log.write_bytes(b"\xff\n" + DUMP.encode() + b"x" * (1 << 20))
    assert read_version(log) == "4.2.1"
