"""CRIU's image files are written as they were read, bit by bit, and unknown content is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.internal import api_implementation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import entries as images
from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, is_image, read_image, read_only_entry, write_image

COMMON = struct.pack("<I", 0x54564319)
FILES = COMMON + struct.pack("<I", 0x56303138)


def write_all_again(dump: Path) -> list[str]:
    """Read and write every image file of a dump, and return the names of files that changed."""
    changed = []
    for path in filter(is_image, dump.iterdir()):
        before = path.read_bytes()
        write_image(path, list(read_image(path)))
        if path.read_bytes() != before:
            changed.append(path.name)
    return changed


def test_every_file_of_a_real_dump_comes_back_bit_for_bit(sample: Path) -> None:
    raw = {path.name for path in sample.iterdir() if not is_image(path)}
    assert raw == {f"pages-{number}.img" for number in range(1, 7)}
    assert write_all_again(sample) == []


@pytest.mark.parametrize("leads_somewhere", [True, False])
def test_a_link_in_the_way_is_not_written_through(sample: Path, tmp_path: Path, leads_somewhere: bool) -> None:
    victim = tmp_path / "victim"
    if leads_somewhere:
        victim.write_text("untouched")
    entries = list(read_image(sample / "files.img"))
    (sample / "files.img.new").symlink_to(victim)
    with pytest.raises(ArchiveError, match=r"files\.img\.new: is in the way"):
        write_image(sample / "files.img", entries)
    assert victim.exists() == leads_somewhere
    assert not leads_somewhere or victim.read_text() == "untouched"


def test_data_that_follows_a_message_is_told_from_the_next_entry(sample: Path) -> None:
    def sizes(name: str) -> list[int]:
        return [len(entry.extra) for entry in read_image(sample / name)]

    assert bytes(read_only_entry(sample / "pipes-data.img").extra) == b"in the pipe"
    assert bytes(read_only_entry(sample / "fifo-data.img").extra) == b"in the fifo"
    assert bytes(read_only_entry(sample / "sk-queues.img").extra) == b"queued"
    assert bytes(read_only_entry(sample / "ghost-file-1.img").extra) == b"deleted"
    assert sizes("ghost-file-2.img") == [0, 4096, 3]  # a header and two pieces
    assert b"in the queue" in bytes(read_only_entry(sample / "ipcns-msg-9.img").extra)
    assert struct.unpack("<5H6x", read_only_entry(sample / "ipcns-sem-9.img").extra) == (0, 0, 0, 42, 0)
    assert sizes("ipcns-shm-9.img") == [0]  # its pages are in a pages-*.img


def test_shared_memory_inside_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ipcns-shm-9.img"
    entries = [Entry(protos.IpcShm(size=5).SerializeToString(), b"12345\0\0\0"), Entry(b"\x10\0", b"")]
    write_image(path, entries)
    assert [bytes(entry.extra) for entry in read_image(path)] == [b"12345\0\0\0", b""]


def test_tcp_queues_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tcp-stream-1a.img"
    write_image(path, [Entry(protos.TcpStream(inq_len=3, outq_len=2).SerializeToString(), b"inout")])
    assert bytes(read_only_entry(path).extra) == b"inout"


@pytest.mark.parametrize("name", ["pages-1.img", "dump.log", "descriptors.json", "mm-1.img.new"])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES)
    with pytest.raises(ArchiveError, match=f"{name}: no image file of a known kind"):
        next(read_image(tmp_path / name))
    with pytest.raises(ArchiveError, match=f"{name}: no image file of a known kind"):
        write_image(tmp_path / name, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a magic number of 4 bytes, but only 0 bytes are left at offset 0"),
        (COMMON + b"\x38\x31", "a magic number of 4 bytes, but only 2 bytes are left at offset 4"),
        (b"\x7fELF1234", "magic 0x464c457f where 0x54564319 should be at offset 0"),
        (COMMON + b"\0\0\0\0", "magic 0x00000000 where 0x56303138 should be at offset 4"),
        # Version 1 has no common magic.
        (FILES[4:] + b"\0\0\0\0", "magic 0x56303138 where 0x54564319 should be at offset 0"),
        (FILES + b"\x01", "the length of a message of 4 bytes, but only 1 bytes are left at offset 8"),
        (FILES + b"\x05\0\0\0abc", "a message of 5 bytes, but only 3 bytes are left at offset 12"),
        (FILES + b"\x01\0\0\0ab", "the length of a message of 4 bytes, but only 1 bytes are left at offset 13"),
        (FILES + b"\xff\xff\xff\xff", "a message of 4294967295 bytes"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "files.img"
    path.write_bytes(content)
    with pytest.raises(ArchiveError) as refused:
        list(read_image(path))
    assert str(refused.value).startswith(f"{path}: {problem}")
    assert refused.value.hint


def test_data_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipes-data.img"
    write_image(path, [Entry(protos.PipeData(bytes=10).SerializeToString(), b"123456789")])
    with pytest.raises(ArchiveError, match=r"data \(bytes\) of 10 bytes, but only 9 bytes are left at offset 14"):
        list(read_image(path))


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_ENTRIES", 2)
    path = tmp_path / "files.img"
    path.write_bytes(FILES + bytes(8))
    assert len(list(read_image(path))) == 2
    path.write_bytes(FILES + bytes(12))
    with pytest.raises(ArchiveError, match="more than 2 entries at offset 16"):
        list(read_image(path))


def test_a_missing_file_and_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(FILES)
    (tmp_path / "files.img").symlink_to("target")
    for name in ("files.img", "pstree.img"):
        with pytest.raises(ArchiveError, match="cannot be read"):
            list(read_image(tmp_path / name))


def test_a_message_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mm-1.img"
    entry = Entry(b"\xff\xff", offset=8)
    with pytest.raises(ArchiveError, match=r"mm-1\.img: a message that is not of kind mm at offset 8"):
        decode(path, entry, protos.Mm)
    lacking = Entry(protos.Pagemap(vaddr=1, compat_nr_pages=1).SerializeToString()[:2], offset=8)
    with pytest.raises(ArchiveError, match=r"kind pagemap without compat_nr_pages at offset 8"):
        decode(path, lacking, protos.Pagemap)


def test_one_entry_means_one(tmp_path: Path) -> None:
    path = tmp_path / "inventory.img"
    for count in (0, 2):
        write_image(path, [Entry(b"")] * count)
        with pytest.raises(ArchiveError, match=f"has {count} entries where one is expected"):
            read_only_entry(path)


def test_fields_that_are_not_declared_survive_a_change(sample: Path) -> None:
    assert api_implementation.Type() == "upb"
    path = sample / "mm-16.img"
    entry = read_only_entry(path)
    message = decode(path, entry, protos.Mm)
    message.mm_arg_start += 1
    write_image(path, [entry.replaced_by(message)])
    changed = read_only_entry(path)
    assert len(changed.message) == len(entry.message)
    again = decode(path, changed, protos.Mm)
    again.mm_arg_start -= 1
    before, after = protos.Mm(), protos.Mm()
    before.ParseFromString(entry.message)
    after.ParseFromString(again.SerializeToString())
    assert before == after
    # The auxiliary vector is not declared: equality of messages covers it only by their unknown fields.
    assert sorted(raw_fields(entry.message)) == sorted(raw_fields(again.SerializeToString()))


def raw_fields(message: bytes) -> list[bytes]:
    """Split a message of unknown type into the bytes of its fields."""

    def varint_end(at: int) -> int:
        while message[at] & 0x80:
            at += 1
        return at + 1

    def varint(at: int) -> int:
        return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(message[at : varint_end(at)]))

    fields = []
    at = 0
    while at < len(message):
        tag_end = varint_end(at)
        wire_type = varint(at) & 7
        if wire_type == 0:
            end = varint_end(tag_end)
        elif wire_type == 2:
            end = varint_end(tag_end) + varint(tag_end)
        else:
            end = tag_end + {1: 8, 5: 4}[wire_type]
        fields.append(message[at:end])
        at = end
    return fields


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "files.img"
    write_image(path, [Entry(b"old")])
    path.chmod(0o600)

    def broken() -> Iterator[Entry]:
        yield Entry(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_image(path, broken())
    assert [left.name for left in tmp_path.iterdir()] == ["files.img"]
    assert read_only_entry(path) == Entry(b"old")
    write_image(path, [Entry(b"new")])
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_can_be_written_from_what_is_being_read_of_it(tmp_path: Path) -> None:
    path = tmp_path / "pipes-data.img"
    entry = Entry(protos.PipeData(bytes=100_000).SerializeToString(), os.urandom(100_000))
    write_image(path, [entry, entry])
    before = path.read_bytes()
    write_image(path, read_image(path))
    assert path.read_bytes() == before


ENTRIES = st.lists(st.binary(max_size=40).map(Entry), max_size=10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(entries=ENTRIES, cut=st.integers(min_value=1, max_value=60))
def test_a_file_that_is_cut_short_never_yields_what_was_not_written(
    tmp_path: Path, entries: list[Entry], cut: int
) -> None:
    path = tmp_path / "files.img"
    write_image(path, entries)
    assert list(read_image(path)) == entries
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    read = []
    try:
        for entry in read_image(path):
            read.append(entry)
    except ArchiveError:
        pass
    assert read == entries[: len(read)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(name=st.sampled_from(["ipcns-msg-1.img", "ghost-file-1.img", "tcp-stream-1.img"]), rest=st.binary(max_size=80))
def test_bytes_of_any_kind_are_read_or_refused(sample: Path, tmp_path: Path, name: str, rest: bytes) -> None:
    path = tmp_path / name
    write_image(path, [])
    with path.open("ab") as file:
        file.write(rest)
    try:
        entries = list(read_image(path))
    except ArchiveError:
        return
    write_image(path, entries)
    assert path.read_bytes()[8:] == rest


@pytest.mark.node
def test_a_dump_that_was_written_again_restores(machine, compile_program) -> None:
    compile_program("objects", machine.scratch)
    pid = machine.start("objects", "unshare", "--ipc", "--uts", "/scratch/objects", "system-v")
    dump = machine.dump(pid, "dump", "--file-locks")
    assert write_all_again(dump) == []
    (machine.scratch / "fifo").unlink()
    machine.run("mkfifo", "-m", "600", "/scratch/fifo")
    machine.restore("dump", "--file-locks")
    assert machine.proc(pid).exists()
