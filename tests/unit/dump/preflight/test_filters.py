"""Seccomp filters in CRIU's dumps, and whether a restore without privileges can install them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, write_image
from warmstart.dump.preflight.filters import check_filters

MUNMAP, FUTEX, SECCOMP, MKDIR = 11, 202, 317, 83
ALLOW, ERRNO, NOTIFY, LOG = 0x7FFF0000, 0x00050001, 0x7FC00000, 0x7FFC0000
TSYNC = 1
STRICT, FILTERED = 1, 2


def deny(number: int, answer: int = ERRNO) -> bytes:
    return b"".join(
        struct.pack("<HBBI", *each)
        for each in [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, answer), (0x06, 0, 0, ALLOW)]
    )


def write_dump(directory: Path, chains: Sequence[Sequence[bytes]], *, flags: int = 0, mode: int = FILTERED) -> Path:
    """Write a process with a chain of filters for each thread: the oldest first, or empty."""
    filters = protos.Seccomp()
    for at, chain in enumerate(chains):
        # CRIU writes the newest first, and the entry of a thread is the oldest one.
        for number, program in enumerate(reversed(chain)):
            newer = {"prev": len(filters.seccomp_filters) - 1} if number else {}
            filters.seccomp_filters.add(filter=program, flags=flags, **newer)
        core = protos.Core()
        core.tc.comm = b"service"
        if chain or mode == STRICT:
            core.thread_core.seccomp_mode = mode
            core.thread_core.seccomp_filter = max(0, len(filters.seccomp_filters) - 1)
        write_image(directory / f"core-{100 + at}.img", [Entry(core.SerializeToString())])
    process = protos.Process(pid=100, ppid=0, threads=reversed([100 + at for at in range(len(chains))]))
    write_image(directory / "pstree.img", [Entry(process.SerializeToString())])
    write_image(directory / "seccomp.img", [Entry(filters.SerializeToString())])
    return directory


def find_codes(directory: Path) -> list[tuple[str, str]]:
    return [(each.code, each.what) for each in check_filters(directory, "x86_64")]


def test_a_filter_that_allows_what_a_restore_ends_with_is_fine(tmp_path):
    assert find_codes(write_dump(tmp_path, [[deny(MKDIR), deny(425)]])) == []
    assert find_codes(write_dump(tmp_path, [[], []])) == []
    assert find_codes(write_dump(tmp_path, [[deny(MUNMAP, LOG)]])) == []


@pytest.mark.parametrize(
    ("chains", "flags", "missing"),
    [
        ([[deny(MUNMAP)]], 0, "munmap"),
        ([[deny(15)]], 0, "rt_sigreturn"),
        ([[deny(SECCOMP), deny(MKDIR)]], 0, "seccomp"),
        ([[deny(FUTEX)], []], TSYNC, "futex"),
        ([[], [deny(FUTEX)]], 0, "futex"),
    ],
)
def test_a_filter_that_does_not_is_named(tmp_path, chains, flags, missing):
    (code, what), *rest = find_codes(write_dump(tmp_path, chains, flags=flags))
    assert code == "seccomp-filter"
    assert f"does not allow {missing}," in what
    assert rest == []


@pytest.mark.parametrize(
    ("chains", "flags"),
    [
        ([[deny(MKDIR), deny(SECCOMP)]], 0),
        ([[deny(FUTEX)]], TSYNC),
        ([[deny(FUTEX)], []], 0),
        ([[], [deny(MUNMAP)]], 0),
    ],
    ids=["the last one denies more", "no other thread", "not in the other thread", "not in the main thread"],
)
def test_what_a_thread_does_not_call_may_be_denied(tmp_path, chains, flags):
    assert find_codes(write_dump(tmp_path, chains, flags=flags)) == []


def test_supervised_and_strict_processes_are_refused(tmp_path):
    assert [code for code, _ in find_codes(write_dump(tmp_path, [[deny(MKDIR, NOTIFY)]]))] == ["seccomp-notify"]
    assert [code for code, _ in find_codes(write_dump(tmp_path, [[]], mode=STRICT))] == ["seccomp-strict"]


def test_a_broken_file_is_an_error_of_the_archive(tmp_path):
    write_dump(tmp_path, [[b"12345678"]])
    with pytest.raises(ArchiveError, match=r"seccomp\.img: a seccomp filter"):
        check_filters(tmp_path, "x86_64")
    write_dump(tmp_path, [[deny(MKDIR)]])
    core = protos.Core()
    core.tc.comm = b"service"
    core.thread_core.seccomp_mode, core.thread_core.seccomp_filter = FILTERED, 7
    write_image(tmp_path / "core-100.img", [Entry(core.SerializeToString())])
    with pytest.raises(ArchiveError, match="has no filter 7"):
        check_filters(tmp_path, "x86_64")
    filters = protos.Seccomp()
    filters.seccomp_filters.add(filter=deny(MKDIR), prev=0)
    core.thread_core.seccomp_filter = 0
    write_image(tmp_path / "core-100.img", [Entry(core.SerializeToString())])
    write_image(tmp_path / "seccomp.img", [Entry(filters.SerializeToString())])
    with pytest.raises(ArchiveError, match="circle"):
        check_filters(tmp_path, "x86_64")
