"""Credentials in CRIU's entries: capabilities, and the number of seccomp filters of a process."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.checkpoint_image import real_dump

from warmstart.dump.criu import protos
from warmstart.dump.criu.credentials import CAPABILITIES, Credentials, read_credentials

CORE_MAGICS, SECCOMP_MAGICS = (0x54564319, 0x55053847), (0x54564319, 0x64413049)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    for name, data in real_dump().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def write(path: Path, magics: tuple[int, int], message: object) -> None:
    data = message.SerializeToString()
    path.write_bytes(struct.pack("<III", *magics, len(data)) + data)


def write_thread(dump: Path, number: int, **fields: object) -> None:
    core = protos.Core()
    thread = core.thread_core
    thread.creds.SetInParent()
    for name in ("seccomp_mode", "seccomp_filter"):
        if name in fields:
            setattr(thread, name, fields.pop(name))
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(thread.creds, name).extend(value)
        else:
            setattr(thread.creds, name, value)
    core.tc.comm = b"x"
    write(dump / f"core-{number}.img", CORE_MAGICS, core)


def read_first(dump: Path) -> Credentials:
    return read_credentials(dump)[17][0]


def test_all_that_a_thread_may_do_is_read(dump: Path) -> None:
    ids = dict.fromkeys(("uid", "euid", "suid", "fsuid"), 1000)
    write_thread(dump, 17, **ids, gid=1001, groups=[5, 6], no_new_privs=1, cap_eff=[1 << 21, 1 << 8], cap_amb=[1])
    found = read_first(dump)
    assert (found.uid, found.gid, found.groups, found.root, found.no_new_privs) == (1000, 1001, (5, 6), False, True)
    sets = dict(found.capabilities)
    assert sets["effective"] == ("SYS_ADMIN", "CHECKPOINT_RESTORE")
    assert sets["ambient"] == ("CHOWN",)
    assert sets["bounding"] == sets["permitted"] == sets["inheritable"] == ()


@pytest.mark.parametrize("name", ["uid", "euid", "suid", "fsuid"])
def test_any_id_of_root_is_root(dump: Path, name: str) -> None:
    ids = dict.fromkeys(("uid", "euid", "suid", "fsuid"), 1000) | {name: 0}
    write_thread(dump, 17, **ids)
    assert read_first(dump).root


@pytest.mark.linux
def test_names_of_capabilities_are_the_kernels() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(CAPABILITIES) == last + 1 == 41
    assert [CAPABILITIES.index(name) for name in ("CHOWN", "NET_RAW", "SYS_ADMIN", "SETFCAP")] == [0, 13, 21, 31]


@pytest.mark.parametrize(
    ("previous", "last", "expected"),
    [([None], 0, 1), ([None, 0, 1], 2, 3), ([None, 0, 0], 2, 2), ([1, 0], 0, 2), ([None], 7, 0), ([], 0, 0)],
)
def test_filters_are_counted_along_their_chain(dump: Path, previous, last, expected) -> None:
    seccomp = protos.Seccomp()
    for before in previous:
        one = seccomp.seccomp_filters.add(filter=b"12345678")
        if before is not None:
            one.prev = before
    write(dump / "seccomp.img", SECCOMP_MAGICS, seccomp)
    write_thread(dump, 17, seccomp_mode=2, seccomp_filter=last)
    assert read_first(dump).filters == expected


def test_a_thread_without_a_filter_has_none(dump: Path) -> None:
    write_thread(dump, 17, seccomp_mode=0)
    assert read_first(dump).filters == 0


def test_every_thread_counts(dump: Path) -> None:
    entries = [protos.Process(pid=17, ppid=0, threads=[17, 99])]
    data = b"".join(struct.pack("<I", len(one)) + one for one in (entry.SerializeToString() for entry in entries))
    (dump / "pstree.img").write_bytes(real_dump()["pstree.img"][:8] + data)
    write_thread(dump, 17)
    write_thread(dump, 99, cap_eff=[1 << 21])
    assert [dict(thread.capabilities)["effective"] for thread in read_credentials(dump)[17]] == [(), ("SYS_ADMIN",)]


@pytest.mark.parametrize(("flags", "expected"), [(1, [2, 2]), (0, [2, 0])])
def test_a_filter_for_all_threads_is_written_once(dump: Path, flags: int, expected: list[int]) -> None:
    seccomp = protos.Seccomp()
    seccomp.seccomp_filters.add(filter=b"12345678")
    seccomp.seccomp_filters.add(filter=b"12345678", prev=0, flags=flags)
    write(dump / "seccomp.img", SECCOMP_MAGICS, seccomp)
    data = protos.Process(pid=17, ppid=0, threads=[17, 99]).SerializeToString()
    (dump / "pstree.img").write_bytes(real_dump()["pstree.img"][:8] + struct.pack("<I", len(data)) + data)
    write_thread(dump, 17, seccomp_mode=2, seccomp_filter=1)
    write_thread(dump, 99)
    assert [thread.filters for thread in read_credentials(dump)[17]] == expected


def test_credentials_that_are_missing_are_all(dump: Path) -> None:
    """CRIU does not change the thread's capabilities then."""
    core = protos.Core()
    core.tc.comm = b"x"
    for filtered in (False, True):
        if filtered:
            core.thread_core.seccomp_mode = 2
        write(dump / "core-17.img", CORE_MAGICS, core)
        assert dict(read_first(dump).capabilities)["effective"] == CAPABILITIES
    (dump / "mm-17.img").unlink()
    core = protos.Core()
    core.tc.comm = b"x"
    write(dump / "core-17.img", CORE_MAGICS, core)
    assert read_credentials(dump)[17] == ()
