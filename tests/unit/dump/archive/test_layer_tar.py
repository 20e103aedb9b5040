"""Layers as common programs write them, and malicious layers."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive import tarball
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, Member, Span, walk_layer

END = bytes(1024)


class Trickle(io.RawIOBase):
    """A stream that returns a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._data.read(min(size, self._most))
        self.taken += len(data)
        return data


def members_of(data: bytes) -> list[Member]:
    """Return the members of a layer, after checking that a file and streams of any pace give the same."""
    found = list(walk_layer(StreamedTar(io.BytesIO(data), "layer")))
    assert list(walk_layer(StreamedTar(Trickle(data, 100), "layer"))) == found
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert list(walk_layer(Span(file.fileno(), 0, len(data), "layer"))) == found
    return found


def header(name: str = "x", kind: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """Return a header block. Write `fields` unchanged, at the offset in their name: at_257=b"ustar"."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[156:157] = kind
    raw = size if isinstance(size, bytes) else b"%011o\0" % size
    for offset, value in {124: raw, **{int(at.removeprefix("at_")): value for at, value in fields.items()}}.items():
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header("PaxHeaders/x", kind, len(data)) + padded(data)


def long(kind: bytes, text: bytes) -> bytes:
    return header("././@LongLink", kind, len(text)) + padded(text)


LONG = "/".join(["directory-with-a-name"] * 12)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / LONG).mkdir(parents=True)
    (root / LONG / "file").write_bytes(b"content")
    (root / "usr").mkdir()
    (root / "lib").symlink_to("usr/lib")
    (root / "to").symlink_to(LONG + "/file")
    (root / "plain").write_bytes(b"x" * 700)
    os.link(root / "plain", root / "hard")
    os.mkfifo(root / "fifo")
    with (root / "holes").open("wb") as file:
        for at in range(0, 40 << 16, 1 << 16):
            file.seek(at)
            file.write(b"data")
        file.truncate(1 << 23)
    (root / "after").write_bytes(b"the end")
    return root


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["--format=oldgnu"]])
@pytest.mark.parametrize(
    "sparse", [[], ["--sparse"], ["--sparse", "--sparse-version=0.0"], ["--sparse", "--sparse-version=0.1"]]
)
def test_what_gnu_tar_writes(tree: Path, options: list[str], sparse: list[str]) -> None:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.name != "after")
    command = ["tar", "-C", str(tree), *options, *sparse, "--no-recursion", "-cf", "-", *names, "after"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    found = {member.name: member for member in members_of(data)}
    assert set(found) == {*names, "after"}
    assert found[f"{LONG}/file"].kind is Kind.FILE
    assert (found["lib"].kind, found["lib"].link) == (Kind.SYMLINK, "usr/lib")
    assert found["to"].link == f"{LONG}/file"
    assert {found["plain"].kind, found["hard"].kind} == {Kind.FILE, Kind.HARDLINK}
    assert found["fifo"].kind is Kind.FIFO
    assert found["holes"].kind is (Kind.SPARSE_FILE if sparse else Kind.FILE)
    assert data[found["after"].offset :].startswith(b"the end")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes(tree: Path, form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "a global header"}) as tar:
        tar.add(tree, ".")
    found = {member.name: member.kind for member in members_of(buffer.getvalue())}
    assert found[""] is Kind.DIRECTORY
    assert {found["hard"], found["plain"]} == {Kind.HARDLINK, Kind.FILE}
    assert found[f"{LONG}/file"] is Kind.FILE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header("a/", b"\0", at_257=bytes(8)) + END, [("a", Kind.DIRECTORY)]),
        (header("a", b"\0", at_257=bytes(8)) + END, [("a", Kind.FILE)]),
        (header("/etc/./x//y") + END, [("etc/x/y", Kind.FILE)]),
        (header("a/../b/") + END, [("b", Kind.FILE)]),
        (header("dir", b"5", 1000) + header("next") + END, [("dir", Kind.DIRECTORY), ("next", Kind.FILE)]),
        (header("x", b"0", b"\x80" + bytes(10) + b"\x05") + padded(b"12345") + END, [("x", Kind.FILE)]),
        (header("x", b"0", b" 5 \0".ljust(12, b"\0")) + padded(b"12345") + END, [("x", Kind.FILE)]),
        (header("x", b"V") + header("y", b"7") + END, [("x", Kind.OTHER), ("y", Kind.OTHER)]),
        (pax(record("path", "g"), kind=b"g") + header("a") + END, [("a", Kind.FILE)]),
        (pax(record("path", "lost")) + pax(kind=b"g") + header("a") + END, [("a", Kind.FILE)]),
        (pax(record("path", "b"), record("path", "c")) + header("a") + END, [("c", Kind.FILE)]),
        (pax(record("path", "b")) + long(b"L", b"wins\0") + header("a") + END, [("wins", Kind.FILE)]),
        (pax(record("path", "")) + header("a") + END, [("a", Kind.FILE)]),
        (header("a") * 2 + END, [("a", Kind.FILE)] * 2),
        (header("no-mark"), [("no-mark", Kind.FILE)]),
        (header("half-a-mark") + bytes(512), [("half-a-mark", Kind.FILE)]),
        (header("a") + END + b"whatever follows", [("a", Kind.FILE)]),
        (header("unpadded", b"0", 5) + b"12345", [("unpadded", Kind.FILE)]),
        (b"", []),
    ],
)
def test_what_gos_reader_takes(data: bytes, expected: list[tuple[str, Kind]]) -> None:
    assert [(member.name, member.kind) for member in members_of(data)] == expected


SPARSE_ENTRY = b"%011o\0%011o\0" % (0, 0)

HOSTILE = {
    "a size of a petabyte": (header("x", b"0", b"\x80" + bytes(3) + struct.pack(">Q", 1 << 50)) + END, "truncated"),
    "a size of 80 bits": (header("y") + header("x", b"0", b"\x80\0\xff" + bytes(9)) + END, "more than 63 bits"),
    "a negative size": (header("x", b"0", b"\xff" * 12) + END, "is not a tar archive"),
    "a size in Python's octal": (header("y") + header("x", b"0", b"0o17\0") + END, "not a number"),
    "a pax size": (pax(record("size", "-1")) + header("x") + END, "size is not a number of bytes"),
    "a pax header of 6 GiB": (header("x", b"x", 6 << 30) + END, "extended header of 6442450944 bytes"),
    "a long name of 6 GiB": (header("x", b"L", 6 << 30) + END, "extended header of 6442450944 bytes"),
    "long names of long names": (long(b"L", b"a\0") * 5000 + header("x") + END, "more than 16 extended headers"),
    "pax headers of pax headers": (pax(record("path", "a")) * 5000 + header("x") + END, "more than 16 extended"),
    "global headers": (pax(kind=b"g") * 5000 + END, "more than 16 extended headers"),
    "a long name of nothing": (long(b"L", b"a\0") + END, "no member after it"),
    "a record without a length": (pax(b"zz a=b\n") + header("x") + END, "not LENGTH KEY=VALUE"),
    "a record that is too long": (pax(b"99 a=b\n") + header("x") + END, "not LENGTH KEY=VALUE"),
    "a name with a NUL": (pax(record("path", "a\0b")) + header("x") + END, "NUL byte"),
    "a sparse map without an end": (
        header("x", b"S", at_386=SPARSE_ENTRY * 4 + b"\1") + (SPARSE_ENTRY * 21 + b"\1").ljust(512, b"\0") * 50,
        "truncated",
    ),
    "a name above the root": (header("a/../../etc/passwd") + END, "leads out of the layer"),
    "a long component": (pax(record("path", "a" * 256)) + header("x") + END, "too long a name"),
    "a deep name": (pax(record("path", "a/" * 2100)) + header("x") + END, "too long a name"),
    "a wrong checksum": (header("a") + b"y" + header("x")[1:] + END, "wrong checksum"),
    "cut in a header": ((header("a") + header("b"))[:-1], "truncated"),
    "cut in content": (header("a", b"0", 1000) + b"x" * 999, "truncated"),
    "cut in a pax header": (header("x", b"x", 1000) + b"x" * 700, "truncated"),
    "garbage after half a mark": (header("a") + bytes(512) + b"x" * 512, "damaged end-of-archive mark"),
    "text": (b"some text\n" * 100, "is not a tar archive"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(what: str) -> None:
    data, reason = HOSTILE[what]
    with pytest.raises(ArchiveError, match=reason):
        members_of(data)


def test_a_checksum_of_signed_bytes_is_one_too() -> None:
    """Programs of old add up `char`, which is signed."""
    block = bytearray(header("ä"))
    block[148:156] = b" " * 8
    for total, is_right in ((sum(block) - 256 * 2, True), (sum(block) - 256, False)):
        data = bytes(block[:148]) + b"%06o\0 " % total + bytes(block[156:]) + END
        if is_right:
            assert [member.name for member in members_of(data)] == ["ä"]
        else:
            with pytest.raises(ArchiveError, match="is not a tar archive"):
                members_of(data)


def test_nothing_is_read_that_is_refused() -> None:
    stream = Trickle(header("x", b"x", 1 << 21) + bytes(1 << 22), 1 << 20)
    with pytest.raises(ArchiveError, match="extended header"):
        list(walk_layer(StreamedTar(stream, "layer")))
    assert stream.taken == 512


def test_members_and_their_headers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError, match="has more than 10 members"):
        list(walk_layer(StreamedTar(io.BytesIO(header() * 11 + END), "layer"), max_members=10))
    monkeypatch.setattr(tarball, "MAX_LAYER_HEADER_BYTES", 1000)
    many = (pax(record("comment", "a" * 90)) + header()) * 20
    with pytest.raises(ArchiveError, match="extended headers of more than 1000 bytes"):
        members_of(many + END)


def contents_of(data: bytes, skip_bytes: int = 0) -> Iterable[tuple[str, bytes]]:
    tar = StreamedTar(Trickle(data, 300), "layer")
    for member in walk_layer(tar):
        yield member.name, b"".join(tar.read_content(member, skip_bytes=skip_bytes)) if member.size_bytes else b""


def test_content_is_read_as_it_arrives() -> None:
    data = (
        header("a", b"0", 2000) + padded(b"a" * 1999 + b"!") + header("b", b"5") + header("c", b"0", 3) + padded(b"ccc")
    )
    assert dict(contents_of(data + END)) == {"a": b"a" * 1999 + b"!", "b": b"", "c": b"ccc"}
    assert dict(contents_of(header("a", b"0", 2000) + padded(b"a" * 1999 + b"!") + END, 1990)) == {"a": b"a" * 9 + b"!"}
    with pytest.raises(ArchiveError, match="ends within 'a': it is truncated"):
        list(contents_of(header("a", b"0", 2000) + b"a" * 1999))
