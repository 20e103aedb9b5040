"""Layers that a snapshotter reads chunk by chunk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from warmstart.core.errors import ImageError
from warmstart.image import lazy_layer
from warmstart.image.chunk_format import TOC, ChunkFormat, Estargz, ZstdChunked
from warmstart.image.lazy_layer import (
    CHUNK_BYTES,
    LANDMARK,
    MAPPED_LIMIT_BYTES,
    NO_LANDMARK,
    TOC_DIGEST,
    UNCOMPRESSED_SIZE,
    LazyLayer,
    read_entries,
    write_lazy_layers,
)

LARGE = os.urandom(2 * CHUNK_BYTES + 5)
GZIP, ZSTD = Estargz(4), ZstdChunked(3)


def make_tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                tar.addfile(make_info(member[0], size=len(member[1])), io.BytesIO(member[1]))
    return path


def make_info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write(tar: Path, first=(), mapped=(), chunk_format: ChunkFormat = GZIP) -> tuple[LazyLayer, bytes]:
    with tar.open("rb") as file:
        file.seek(0, os.SEEK_END)  # as it has just been written
        [layer] = write_lazy_layers(read_entries(file), tar.parent, first, mapped, chunk_format)
    return layer, (tar.parent / "blobs" / layer.blob.digest.replace(":", "/")).read_bytes()


def unpack(blob: bytes) -> bytes:
    """Decompress a blob, as a reader does that knows nothing of chunks."""
    if blob.startswith(b"\x1f\x8b"):
        return gzip.decompress(blob)
    with zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True) as stream:
        return stream.read()


def read_chunk(blob: bytes, offset: int) -> bytes:
    if blob.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(blob[offset:])
    return zstandard.ZstdDecompressor().decompressobj().decompress(blob[offset:])


def read_raw_toc(blob: bytes) -> bytes:
    """Find the table of contents as the stargz snapshotter does."""
    if blob.startswith(b"\x1f\x8b"):
        footer = blob[-51:]
        assert footer[32:38] == b"STARGZ"
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[int(footer[16:32], 16) : -51]))) as tar:
            return tar.extractfile(TOC).read()
    offset, packed_bytes, size_bytes, kind, magic = struct.unpack("<QQQQ8s", blob[-40:])
    assert (kind, magic) == (1, bytes.fromhex("476e556c496e5578"))
    toc = read_chunk(blob, offset)
    assert (offset + packed_bytes + 48, size_bytes) == (len(blob), len(toc))
    return toc


def read_toc(blob: bytes) -> dict[str, Any]:
    return json.loads(read_raw_toc(blob))


def list_names(blob: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        return tar.getnames()


@pytest.fixture
def tar(tmp_path) -> Path:
    return make_tar(
        tmp_path / "layer.tar",
        make_info("usr", tarfile.DIRTYPE, mode=0o755),
        ("usr/small", b"small"),
        ("usr/large", LARGE),
        make_info("usr/link", tarfile.LNKTYPE, linkname="usr/large"),
        make_info("usr/lib", tarfile.SYMTYPE, linkname="../lib"),
        make_info("dev", tarfile.CHRTYPE, devmajor=1, devminor=3, uid=7, gid=8, mtime=86400, uname="a", gname="b"),
        ("etc/deep/file", b"x"),
    )


@pytest.mark.parametrize(("chunk_format", "added"), [(GZIP, {NO_LANDMARK, TOC}), (ZSTD, {NO_LANDMARK})])
def test_every_reader_of_tars_finds_the_same_files(tar, chunk_format, added):
    layer, blob = write(tar, chunk_format=chunk_format)
    plain = unpack(blob)
    assert layer.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert layer.blob.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert layer.blob.size_bytes == len(blob)
    assert layer.blob.annotations[UNCOMPRESSED_SIZE] == str(len(plain))
    with tarfile.open(tar) as before, tarfile.open(fileobj=io.BytesIO(plain)) as after:
        assert {info.name for info in after} - {info.name for info in before} == added
        for info in before:
            found = after.getmember(info.name)
            assert found.get_info() == info.get_info()
            if info.isreg():
                assert after.extractfile(found).read() == before.extractfile(info).read()


@pytest.mark.parametrize("chunk_format", [GZIP, ZSTD])
def test_each_chunk_is_found_by_the_table_of_contents(tar, chunk_format):
    _, blob = write(tar, chunk_format=chunk_format)
    content = b""
    for entry in read_toc(blob)["entries"]:
        if entry["name"] == "usr/large":
            chunk = read_chunk(blob, entry["offset"])
            assert entry["chunkDigest"] == f"sha256:{hashlib.sha256(chunk).hexdigest()}"
            assert entry.get("chunkOffset", 0) == len(content)
            content += chunk
    assert content == LARGE


@pytest.mark.parametrize("chunk_format", [GZIP, ZSTD])
def test_the_annotation_has_the_digest_of_the_table(tar, chunk_format):
    layer, blob = write(tar, chunk_format=chunk_format)
    assert layer.blob.annotations[TOC_DIGEST] == f"sha256:{hashlib.sha256(read_raw_toc(blob)).hexdigest()}"


def test_the_table_describes_all_kinds_of_files(tar):
    _, blob = write(tar)
    entries = {entry["name"]: entry for entry in reversed(read_toc(blob)["entries"])}
    assert entries["usr"] == {"name": "usr", "type": "dir", "mode": 0o755}
    assert entries["usr/link"]["linkName"] == "usr/large"
    assert entries["usr/link"]["type"] == "hardlink"
    assert (entries["usr/lib"]["type"], entries["usr/lib"]["linkName"]) == ("symlink", "../lib")
    expected = {"type": "char", "devMajor": 1, "devMinor": 3, "uid": 7, "gid": 8, "userName": "a", "groupName": "b"}
    assert entries["dev"] == {"name": "dev", "mode": 0o644, "modtime": "1970-01-02T00:00:00Z", **expected}
    assert entries["usr/large"]["digest"] == f"sha256:{hashlib.sha256(LARGE).hexdigest()}"


def test_extended_attributes_are_kept_byte_by_byte(tmp_path):
    value = b"\x01\x00\x00\x02\xff\n\x80"
    info = make_info("ping", pax_headers={"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")})
    tar = tmp_path / "layer.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as opened:
        opened.addfile(info)
    _, blob = write(tar)
    entry = next(entry for entry in read_toc(blob)["entries"] if entry["name"] == "ping")
    assert entry["xattrs"] == {"security.capability": "AQAAAv8KgA=="}
    assert tar.read_bytes()[: 3 * tarfile.BLOCKSIZE] in gzip.decompress(blob)


def test_what_is_needed_first_comes_before_the_landmark(tar):
    _, blob = write(tar, first=["/etc", "usr/link", "not/there"], mapped=["/usr/small"])
    # A hard link needs its target, and everything its directories. /etc has no member of its own.
    expected = ["etc/deep/file", "usr", "usr/large", "usr/link", "usr/small", LANDMARK, "usr/lib", "dev", TOC]
    assert list_names(blob) == expected


def test_a_directory_stands_for_everything_in_it(tar):
    _, blob = write(tar, first=["usr"])
    names = list_names(blob)
    assert names[: names.index(LANDMARK)] == ["usr", "usr/small", "usr/large", "usr/link", "usr/lib"]


def test_a_large_file_that_is_mapped_is_not_fetched_first(tmp_path):
    tar = make_tar(tmp_path / "layer.tar", ("large", bytes(MAPPED_LIMIT_BYTES + 1)), ("small", b"1"))
    _, blob = write(tar, mapped=["large", "small"])
    assert list_names(blob) == ["small", LANDMARK, "large", TOC]


def test_a_large_memory_is_not_fetched_first(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy_layer, "FIRST_LIMIT_BYTES", 4)
    tar = make_tar(tmp_path / "layer.tar", ("large", b"12345"), ("small", b"1234"))
    _, blob = write(tar, first=["large", "small"])
    assert list_names(blob) == ["small", LANDMARK, "large", TOC]


def test_a_layer_that_is_converted_again_has_one_table(tar):
    _, blob = write(tar, first=["usr/small"])
    tar.write_bytes(gzip.decompress(blob))
    _, again = write(tar)
    names = list_names(again)
    assert [names.count(name) for name in (TOC, LANDMARK, NO_LANDMARK)] == [1, 0, 1]


def test_the_last_of_several_members_counts(tmp_path):
    tar = make_tar(tmp_path / "layer.tar", ("file", b"old"), ("other", b""), ("file", b"new"))
    _, blob = write(tar)
    with tarfile.open(fileobj=io.BytesIO(blob)) as opened:
        assert opened.getnames() == [NO_LANDMARK, "other", "file", TOC]
        assert opened.extractfile("file").read() == b"new"


@pytest.mark.parametrize("chunk_format", [GZIP, ZSTD])
def test_the_same_layer_gives_the_same_blob(tar, chunk_format):
    assert write(tar, chunk_format=chunk_format)[0] == write(tar, chunk_format=chunk_format)[0]


def test_both_formats_have_the_media_types_of_ordinary_layers(tar):
    assert write(tar)[0].blob.media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert write(tar, chunk_format=ZSTD)[0].blob.media_type == "application/vnd.oci.image.layer.v1.tar+zstd"


def test_what_the_table_cannot_express_is_refused(tmp_path):
    sparse = make_tar(tmp_path / "sparse.tar", make_info("disk", tarfile.GNUTYPE_SPARSE, size=0))
    with pytest.raises(ImageError, match="cannot convert a layer"):
        write(sparse)
    with tarfile.open(tmp_path / "name.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as opened:
        opened.addfile(make_info("caf\udce9"))
    with pytest.raises(ImageError, match="is not UTF-8"):
        write(tmp_path / "name.tar")
    (tmp_path / "text.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ImageError, match="cannot convert a layer"):
        write(tmp_path / "text.tar")
    assert not [path for path in tmp_path.glob("blobs/sha256/*") if path.is_file()]


def test_members_that_two_readers_understand_differently_are_refused(tmp_path):
    # A global header that renames: Python's reader applies it, runtimes do not.
    tar = tmp_path / "layer.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "etc/shadow"}) as opened:
        opened.addfile(make_info("harmless"))
    with pytest.raises(ImageError, match="has an ambiguous header"):
        write(tar)
