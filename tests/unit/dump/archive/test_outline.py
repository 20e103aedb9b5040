"""Outlines of archives and of layers in a stream."""

from __future__ import annotations

import io
import os
import resource
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoint_archive import GOOD, Entry, crio, entry, link, open_files, replaced, tar_of, text, with_diff

from warmstart.core.errors import ArchiveError, HostError
from warmstart.dump.archive import outline
from warmstart.dump.archive.archive import Limits, extract_archive, read_contents
from warmstart.dump.archive.outline import MEMORY_END_BYTES, extract_outline, extract_spooled, spool_outline
from warmstart.dump.criu.contents import read_inventory, read_processes, read_sockets, sum_pages_bytes


def members_of(dump: Path) -> list[Entry]:
    """Return the members of a complete archive with this dump, in an unusual order."""
    images = [entry(f"checkpoint/{path.name}", path.read_bytes()) for path in sorted(dump.iterdir())]
    others = [(info, data) for info, data in crio() if not info.name.startswith("checkpoint")]
    return [*images, *others, entry("checkpoint/")]


def spooled(data: bytes, place: Path, limits: Limits = outline.DEFAULT_LIMITS) -> tuple[str, ...]:
    return spool_outline(io.BytesIO(data), place / "spool", "the layer", limits=limits)


def test_an_outline_has_what_the_whole_has_to_say(sample: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of(*members_of(sample)))
    whole = extract_archive(archive, tmp_path / "whole")
    taken = extract_outline(archive, tmp_path / "taken")
    assert vars(taken) | {"root": 0} == vars(whole) | {"root": 0}
    processes = read_processes(taken.checkpoint_dir)
    assert processes == read_processes(whole.checkpoint_dir)
    assert processes[0].arguments == ("/scratch/objects", "sysv")
    assert read_sockets(taken.checkpoint_dir) == read_sockets(whole.checkpoint_dir)
    assert read_inventory(taken.checkpoint_dir) == read_inventory(whole.checkpoint_dir)
    assert sum_pages_bytes(taken.checkpoint_dir) == sum_pages_bytes(whole.checkpoint_dir)


def test_only_the_end_of_memory_is_taken(tmp_path: Path) -> None:
    memory = os.urandom(3 * MEMORY_END_BYTES + 5)
    archive = tmp_path / "a.tar"
    archive.write_bytes(replaced("checkpoint/pages-1.img", memory))
    taken = extract_outline(archive, tmp_path / "taken")
    pages = taken.checkpoint_dir / "pages-1.img"
    expected = bytes(len(memory) - MEMORY_END_BYTES) + memory[-MEMORY_END_BYTES:]
    assert pages.read_bytes() == expected
    assert pages.stat().st_blocks * 512 <= MEMORY_END_BYTES + 8192


def test_what_says_nothing_is_left_where_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(GOOD)
    taken = extract_outline(archive, tmp_path / "taken")
    assert sorted(str(path.relative_to(taken.root)) for path in taken.root.rglob("*")) == [
        "bind.mounts",
        "checkpoint",
        "checkpoint/core-1.img",
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
        "config.dump",
        "deleted.files",
        "spec.dump",
    ]
    assert taken.rootfs_diff == read_contents(archive).rootfs_diff is not None


def test_a_stream_gives_the_same_outline(sample: Path, tmp_path: Path) -> None:
    data = tar_of(*members_of(sample))
    (tmp_path / "a.tar").write_bytes(data)
    from_file = extract_outline(tmp_path / "a.tar", tmp_path / "from-file")
    stream = io.BytesIO(data + b"what follows is read too")
    names = spool_outline(stream, tmp_path / "spool", "the layer")
    assert stream.read() == b""
    assert names == tuple(info.name.rstrip("/") for info, _ in members_of(sample))
    from_stream = extract_spooled(tmp_path / "spool", tmp_path / "from-stream", "the layer")
    assert {path.name: path.read_bytes() for path in from_stream.root.rglob("*") if path.is_file()} == {
        path.name: path.read_bytes() for path in from_file.root.rglob("*") if path.is_file()
    }
    assert vars(from_stream) | {"root": 0} == vars(from_file) | {"root": 0}


def test_a_spool_is_as_long_as_its_stream_and_mostly_holes(tmp_path: Path) -> None:
    memory = os.urandom(8 << 20)
    large = entry("usr/lib/large", os.urandom(8 << 20))
    data = tar_of(large, *crio(**{"checkpoint/pages-1.img": memory}), large)
    spooled(data, tmp_path)
    status = (tmp_path / "spool").stat()
    assert status.st_size == len(data)
    assert status.st_blocks * 512 < 1 << 20


def test_a_layer_may_hold_anything_beside_the_checkpoint(tmp_path: Path) -> None:
    others = (entry("etc/"), link("etc/mtab", "/proc/mounts"), entry("dev/null", type=tarfile.CHRTYPE), entry(".wh.x"))
    names = spooled(tar_of(*others, *crio()), tmp_path)
    assert {"etc/mtab", ".wh.x", "config.dump"} <= set(names)
    taken = extract_spooled(tmp_path / "spool", tmp_path / "taken", "the layer")
    assert taken.ignored == ()
    assert not (taken.root / "etc").exists()


def test_a_layer_without_a_checkpoint_has_no_outline(tmp_path: Path) -> None:
    assert spooled(tar_of(entry("bin/"), entry("bin/app", b"x" * 5000)), tmp_path) == ("bin", "bin/app")
    with pytest.raises(ArchiveError, match=r"^the layer: has no 'config.dump'"):
        extract_spooled(tmp_path / "spool", tmp_path / "taken", "the layer")


@pytest.mark.parametrize(
    ("data", "limits", "problem"),
    [
        (b"", Limits(), "the layer: is not a tar archive"),
        (b"not a tar" * 200, Limits(), "the layer: is not a tar archive"),
        (GOOD[:-1024], Limits(), "the layer: ends without an end-of-archive mark: it is truncated"),
        (GOOD[:-512], Limits(), "the layer: has a damaged end-of-archive mark"),
        (GOOD[: len(GOOD) // 2], Limits(), "the layer: .* truncated"),
        (GOOD, Limits(members=12), "the layer: has more than 12 members"),
        (GOOD, Limits(total_bytes=len(GOOD) - 1), "the layer: holds more than"),
        (with_diff(entry("../x")), Limits(), "the layer: 'rootfs-diff.tar': '../x' leads out"),
        (tar_of(entry("x", pax_headers={"comment": "x" * (1 << 20)})), Limits(), "an extended header of"),
    ],
)
def test_a_stream_that_is_not_understood_is_refused(data: bytes, limits: Limits, problem: str, tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(ArchiveError, match=problem):
        spooled(data, tmp_path, limits)
    assert open_files() == before


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (entry("config.dump", b"{}"), "'config.dump' is there more than once"),
        (link("config.dump", "/etc/passwd"), "'config.dump' is there more than once"),
        (link("checkpoint/x", "/etc/passwd"), "'checkpoint/x' is a symbolic link; a checkpoint archive has only files"),
        (entry("checkpoint/a/b", b""), "'checkpoint/a/b' is too deep"),
    ],
)
def test_a_spool_is_judged_as_an_archive_is(member: Entry, problem: str, tmp_path: Path) -> None:
    spooled(tar_of(*crio(), member), tmp_path)
    with pytest.raises(ArchiveError, match=f"^the layer: {problem}"):
        extract_spooled(tmp_path / "spool", tmp_path / "taken", "the layer")
    assert not (tmp_path / "taken").exists()


def test_a_checkpoint_that_says_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline, "LIMIT_BYTES", 1 << 20)
    data = tar_of(*crio(), entry("checkpoint/mm-1.img", bytes((1 << 20) + 1)))
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ArchiveError, match="has metadata of more than 1048576 bytes"):
        extract_outline(tmp_path / "a.tar", tmp_path / "taken")
    with pytest.raises(ArchiveError, match="has metadata of more than 1048576 bytes"):
        spooled(data, tmp_path)
    assert (tmp_path / "spool").stat().st_blocks * 512 <= 2 << 20


def test_json_is_read_where_it_is(tmp_path: Path) -> None:
    spooled(replaced("deleted.files", text(["/a", "/b"])), tmp_path)
    assert extract_spooled(tmp_path / "spool", tmp_path / "taken", "the layer").deleted_files == ("/a", "/b")


def test_a_spool_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(HostError, match="spool: cannot be written: File too large"):
            spooled(GOOD, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_stream_is_judged_as_a_file_is(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "a.tar").write_bytes(data)
        found: list[object] = []
        for extract in (
            lambda: extract_outline(place / "a.tar", place / "file"),
            lambda: spooled(bytes(data), place) and extract_spooled(place / "spool", place / "stream", "the layer"),
        ):
            try:
                found.append(vars(extract()) | {"root": 0, "ignored": 0})
            except ArchiveError:
                found.append("refused")
    assert found[0] == found[1]
