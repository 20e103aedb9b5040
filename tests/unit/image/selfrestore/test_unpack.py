"""The launcher's stream of a dump and changed files, and what a hostile one may try."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import tarfile
from dataclasses import replace

import pytest
from support.checkpoint_archive import entry, tar_of

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import DEFAULT_LIMITS
from warmstart.image.selfrestore.claim import claim_state
from warmstart.image.selfrestore.unpack import unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
STATE = ["state/manifest", "state/started", "state/checkpoint/", "state/checkpoint/core-100.img", "state/dump.log"]
LEFT_OUT = (".warmstart", "tmp", "var/tmp", "run")


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name.rstrip("/"))
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.size, info.mode, info.mtime = len(content), 0o755 if name.endswith("/") else 0o640, 1000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


@pytest.fixture
def base(layout):
    """Return the layout of an image of one layer."""
    layer = tar_of(*map(entry, ["etc/passwd", "etc/old", "usr/bin/app", "tmp/x"]))
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": digests}}
    layout.list(layout.image(layer, config=config))
    return layout.path


@pytest.fixture
def run(tmp_path, base):
    """Unpack members, and return the changes by name, and the directory of the launcher's files."""

    def call(*members, limits=DEFAULT_LIMITS):
        stream = tmp_path / "stream.tar"
        with tarfile.open(stream, "w", format=tarfile.PAX_FORMAT) as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
        unpack(stream, tmp_path / "state", tmp_path / "changes.tar", base, LEFT_OUT, limits=limits)
        with tarfile.open(tmp_path / "changes.tar") as tar:
            return {one.name: one for one in tar}, tmp_path / "state"

    return call


def test_the_launchers_files_can_be_claimed(run, tmp_path):
    seed = [member("state/seed/"), member("state/seed/tmp/"), member("state/seed/tmp/link", type=b"2", linkname="/x")]
    content = member("state/seed/tmp/file", b"kept", uid=1000, gid=1001, mode=0o4600)
    _, state = run(*map(member, STATE), *seed, content, member("state/seed/tmp/pipe", type=b"6", mode=0o620))
    claim_state(state, tmp_path / "into")
    file = tmp_path / "into/seed/tmp/file"
    assert stat.filemode(file.with_name("pipe").lstat().st_mode) == "prw--w----"
    assert file.read_bytes() == b"kept"
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime) == (1000, 1001, 0o4600, 1000)
    assert str(file.with_name("link").readlink()) == "/x"


def test_changes_become_a_layer_without_privileges(run):
    attributes = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "c", "comment": "d"}
    changes, _ = run(
        member("changes/etc/"),
        member("changes/etc/new", b"12345", uid=5, gid=6, mode=0o6755, pax_headers=attributes),
        member("changes/etc/hard", type=b"1", linkname="changes/etc/new"),
        member("changes/etc/null", type=b"3"),
        member("changes/tmp/file"),
        member("kept/etc/passwd"),
    )
    assert list(changes) == ["etc", "etc/new", "etc/hard", "etc/.wh.old"]
    new = changes["etc/new"]
    assert (new.uid, new.gid, new.mode, new.size) == (5, 6, 0o755, 5)
    assert changes["etc/hard"].linkname == "etc/new"
    assert {key: value for key, value in new.pax_headers.items() if "xattr" in key} == {"SCHILY.xattr.user.a": "b"}


@pytest.mark.parametrize(
    ("members", "marks"),
    [
        # Only what is in a directory that was listed can be known to be gone.
        ([member("changes/etc/passwd")], []),
        ([member("changes/etc/")], ["etc/.wh.old", "etc/.wh.passwd"]),
        ([member("changes/etc")], []),
        ([member("kept/etc"), member("kept/.warmstart"), member("kept/tmp")], [".wh.usr"]),
        ([member("kept/etc"), member("changes/usr/")], ["usr/.wh.bin"]),
    ],
)
def test_removed_files_are_marked(run, members, marks):
    changes, _ = run(*members)
    assert [name for name in changes if ".wh." in name] == marks


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("etc/passwd")], "has no place in it"),
        ([member("state")], "has no place in it"),
        ([member("state/../../victim")], "has no place in it"),
        ([member("/state/manifest")], "has no place in it"),
        ([member("changes/./x")], "has no place in it"),
        ([member("state/" + "x" * 256)], "has no place in it"),
        ([member("state/a", type=b"2", linkname="/"), member("state/a/victim")], "is in no directory"),
        ([member("state/a"), member("state/a/b")], "is in no directory"),
        ([member("state/a"), member("state/a")], "is in it twice"),
        ([member("state/a", type=b"2", linkname="/victim"), member("state/a")], "is in it twice"),
        ([member("state/a", type=b"1", linkname="state/b")], "wrong file type"),
        ([member("state/a", type=b"3")], "wrong file type"),
        ([member("changes/a", type=b"1", linkname="state/manifest")], "out of the changes"),
        ([member("changes/a", type=b"1", linkname="changes/../etc/shadow")], "out of the changes"),
    ],
)
def test_a_hostile_stream_is_refused(run, members, why):
    with pytest.raises(CheckpointError, match=why):
        run(*members)


def test_a_sparse_file_is_refused(run):
    """A few bytes of the stream would become a terabyte here."""
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    with pytest.raises(CheckpointError, match="is a sparse file"):
        run(member("changes/big", b"x", pax_headers=sparse))


def test_too_many_files_are_refused(run):
    with pytest.raises(CheckpointError, match="more than 2 files"):
        run(*(member(f"changes/{number}") for number in range(3)), limits=replace(DEFAULT_LIMITS, members=2))


@pytest.mark.parametrize(
    "fields",
    [{"type": b"2", "linkname": "x" * 5000}, {"type": b"2", "linkname": ""}, {"pax_headers": {"mtime": "1e300"}}],
)
def test_numbers_and_links_that_no_file_can_have_are_refused(run, fields):
    with pytest.raises(CheckpointError, match="its tar is broken"):
        run(member("state/a", **fields))


def test_a_damaged_stream_is_read_or_refused(tmp_path, base):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (*STATE, "changes/etc/", "changes/etc/" + "n" * 150, "kept/etc/passwd"):
            info, _ = member(name, pax_headers={"SCHILY.xattr.user.a": "b"})
            tar.addfile(info)
    chance, refused = random.Random(1), 0
    for number in range(300):
        data = bytearray(content.getvalue())
        start = chance.randrange(len(data) // 512) * 512
        for _ in range(3):
            data[start + chance.randrange(512)] = chance.choice(b"\0 019/.x\xff")
        if chance.random() < 0.7:
            data[start + 148 : start + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(data[start : start + 512]))[0]
        stream, into = tmp_path / "stream.tar", tmp_path / str(number)
        stream.write_bytes(data)
        into.mkdir()
        try:
            unpack(stream, into / "state", into / "changes.tar", base, LEFT_OUT)
        except CheckpointError:
            refused += 1
    assert 20 < refused < 300


@pytest.mark.parametrize("cut", [100, 700])
def test_a_broken_tar_is_refused(tmp_path, base, cut):
    stream = tmp_path / "stream.tar"
    with tarfile.open(stream, "w") as tar:
        tar.addfile(*[member("state/manifest", b"x" * 900)[0], io.BytesIO(b"x" * 900)])
    stream.write_bytes(stream.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="its tar is broken"):
        unpack(stream, tmp_path / "state", tmp_path / "changes.tar", base, LEFT_OUT)
