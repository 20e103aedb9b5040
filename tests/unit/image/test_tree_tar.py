"""Trees that somebody made who wants a file of this machine in a layer."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.core.errors import ImageError
from warmstart.image import tree_tar as trees
from warmstart.image.tree_tar import Entry, TreeTar, open_entry, walk

pytestmark = pytest.mark.linux

SECRET = b"what only this machine may know"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")


@pytest.fixture
def tree(tmp_path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    return place


@pytest.fixture
def victim(tmp_path) -> Path:
    file = tmp_path / "victims" / "secret"
    file.parent.mkdir()
    file.write_bytes(SECRET)
    return file


def pack(tree: Path, before_each: Callable[[str], object] = lambda _: None) -> tuple[bytes, dict[str, tarfile.TarInfo]]:
    """The tar of a tree, and its members; `before_each` is called when a name was looked up, and before it is read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        target = TreeTar(tar)
        with open_entry(tree) as top:
            for entry, name in walk(top, ""):
                before_each(name)
                target.add(entry, name)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        return buffer.getvalue(), {member.name: member for member in tar}


def test_links_are_links(tree, victim):
    (tree / "file").symlink_to(victim)
    (tree / "directory").symlink_to(victim.parent)
    data, members = pack(tree)
    assert SECRET not in data
    assert {name: member.linkname for name, member in members.items()} == {
        "file": str(victim),
        "directory": str(victim.parent),
    }


def test_a_tree_that_is_a_link_is_not_followed(tree, victim):
    (tree / "link").symlink_to(victim.parent)
    with open_entry(tree / "link") as top, pytest.raises(NotADirectoryError):
        list(walk(top, ""))


def exchange(a: Path, b: Path) -> None:
    beside = a.with_name("beside")
    a.rename(beside)
    b.rename(a)
    beside.rename(b)


@pytest.mark.parametrize("at", ["file", "directory", "directory/secret"])
def test_what_was_looked_up_is_what_is_read(tree, victim, at):
    (tree / "file").write_text("mine")
    (tree / "directory").mkdir()
    (tree / "directory" / victim.name).write_text("mine, too")
    (tree / "link").symlink_to(victim)
    (tree / "another").symlink_to(victim.parent)
    swaps = {
        "file": (tree / "file", tree / "link"),
        "directory": (tree / "directory", tree / "another"),
        "directory/secret": (tree / "directory", tree / "another"),
    }

    def swap(name: str) -> None:
        if name == at:
            exchange(*swaps[at])

    if at == "file":  # its ctime has changed
        with pytest.raises(ImageError, match="changed while it was read"):
            pack(tree, swap)
        return
    data, members = pack(tree, swap)
    assert SECRET not in data
    assert members["directory"].isdir()


@pytest.mark.parametrize("content", [b"", b"longer than it was before"], ids=["shorter", "longer"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tree, content):
    (tree / "file").write_text("as it was")
    with pytest.raises(ImageError, match="file changed while it was read"):
        pack(tree, lambda _: (tree / "file").write_bytes(content))


def test_a_fifo_is_not_opened_and_a_socket_is_left_out(tree, tmp_path, monkeypatch):
    os.mkfifo(tree / "fifo")
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as own:
        own.bind("socket")
        _, members = pack(tree)
    assert {name: member.type for name, member in members.items()} == {"fifo": tarfile.FIFOTYPE}


@needs_root
def test_devices_are_left_out(tree):
    os.mknod(tree / "character", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "block", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    assert pack(tree)[1] == {}


def test_hard_links_among_themselves_are_kept(tree, tmp_path):
    (tree / "a").write_text("the same")
    os.link(tree / "a", tree / "b")
    os.link(tree / "a", tmp_path / "outside")
    (tree / "c").symlink_to("nowhere")
    os.link(tree / "c", tree / "d", follow_symlinks=False)
    _, members = pack(tree)
    assert (members["a"].size, members["b"].type, members["b"].linkname) == (8, tarfile.LNKTYPE, "a")
    assert (members["d"].type, members["d"].linkname) == (tarfile.LNKTYPE, "c")


def test_attributes_are_those_of_the_file_itself(tree, victim):
    os.setxattr(victim, "user.secret", SECRET)
    (tree / "link").symlink_to(victim)
    (tree / "file").touch()
    os.setxattr(tree / "file", "user.note", b"mine")
    data, members = pack(tree)
    assert SECRET not in data
    assert members["file"].pax_headers["SCHILY.xattr.user.note"] == "mine"
    assert not [key for key in members["link"].pax_headers if "xattr" in key]


def test_a_tree_that_is_too_deep_is_an_error(tree, monkeypatch):
    monkeypatch.setattr(trees, "_MOST_LEVELS", 10)
    (tree / "/".join(["d"] * 10)).mkdir(parents=True)
    assert len(pack(tree)[1]) == 10
    (tree / "/".join(["d"] * 12)).mkdir(parents=True)
    with pytest.raises(ImageError, match="nested more than 10 deep"):
        pack(tree)


def test_names_of_any_bytes(tree):
    os.close(os.open(os.fsencode(tree) + b"/\xff\n", os.O_CREAT | os.O_WRONLY))
    _, members = pack(tree)
    assert [name.encode(errors="surrogateescape") for name in members] == [b"\xff\n"]


def test_an_entry_is_closed(tree):
    with open_entry(tree) as entry:
        assert isinstance(entry, Entry)
        assert entry.kind == stat.S_IFDIR
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(entry.fd)
