"""What a container changed, as a layer: of a real overlay, put back upon what it was changed from."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.overlays import mount_overlay, open_overlay

from warmstart.core.errors import ImageError
from warmstart.image.overlay_diff import Changes, add_changes, changes_nothing, find_changes, find_sparse
from warmstart.image.tree_tar import TreeTar

pytestmark = pytest.mark.linux

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="overlays and owners need root")


@pytest.fixture
def overlay() -> Iterator[Path]:
    with open_overlay() as place:
        yield place


def pack(place: Path, *left_out: str, mounts: frozenset[str] = frozenset()) -> dict[str, tarfile.TarInfo]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        add_changes(TreeTar(tar), Changes(place / "upper", mounts), left_out)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        return {member.name: member for member in tar}


@needs_root
def test_what_was_added_changed_and_removed(overlay):
    (overlay / "lower/kept").write_text("kept")
    (overlay / "lower/gone").write_text("gone")
    (overlay / "lower/replaced").mkdir()
    (overlay / "lower/replaced/inside").touch()
    root = mount_overlay(overlay)
    (root / "gone").unlink()
    (root / "new").write_text("new")
    (root / "new").chmod(0o4755)
    os.chown(root / "new", 7, 8)
    (root / "new").chmod(0o4755)
    os.link(root / "new", root / "same")
    (root / "link").symlink_to("/nowhere")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "new", "user.note", b"a note\xff")
    subprocess.run(["rm", "-r", root / "replaced"], check=True)
    (root / "replaced").mkdir()
    members = pack(overlay)
    assert set(members) == {".wh.gone", "new", "same", "link", "fifo", "replaced", "replaced/.wh..wh..opq"}
    assert (members["new"].mode, members["new"].uid, members["new"].gid) == (0o755, 7, 8)
    assert members["new"].pax_headers["SCHILY.xattr.user.note"].encode(errors="surrogateescape") == b"a note\xff"
    assert (members["same"].type, members["same"].linkname) == (tarfile.LNKTYPE, "new")
    assert (members["link"].type, members["link"].linkname) == (tarfile.SYMTYPE, "/nowhere")
    assert members["fifo"].isfifo()


@needs_root
def test_files_with_large_holes_are_found(overlay):
    root = mount_overlay(overlay)
    for name, size in (("sparse", 1 << 20), ("small", 1 << 10), ("left-out", 1 << 20)):
        with (root / name).open("wb") as file:
            file.truncate(size)
    (root / "full").write_bytes(bytes(1 << 20))
    assert find_sparse(Changes(overlay / "upper", frozenset()), ["left-out"], 1 << 19) == {"sparse": 1 << 20}


@needs_root
def test_a_whole_tree_that_was_removed_is_one_file(overlay):
    (overlay / "lower/a/b").mkdir(parents=True)
    (overlay / "lower/a/keep").touch()
    root = mount_overlay(overlay)
    (root / "a/b").rmdir()
    assert set(pack(overlay)) == {"a", "a/.wh.b"}


@needs_root
def test_mounts_and_what_is_left_out_are_not_there(overlay):
    root = mount_overlay(overlay)
    for name in ("etc/hosts", "etc/mine", "proc/inside", "tmp/file", "tmpfile"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    members = pack(overlay, "tmp", mounts=frozenset({"etc/hosts", "proc"}))
    assert set(members) == {"etc", "etc/mine", "tmpfile"}


@needs_root
def test_device_nodes_and_sockets_are_not_there(overlay):
    root = mount_overlay(overlay)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o666)
    assert pack(overlay) == {}


MOUNTINFO = """\
10 9 0:40 / / ro,relatime master:1 - overlay overlay rw,lowerdir=l/A:l/B,upperdir=/var/with\\040space,workdir=/w
11 10 0:41 / /proc rw - proc proc rw
12 10 254:0 /hosts /etc/ho\\040sts rw - ext4 /dev/vda rw
"""


def test_where_changes_are_is_read_of_the_mounts():
    assert find_changes(MOUNTINFO) == Changes(Path("/var/with space"), frozenset({"proc", "etc/ho sts"}))


def test_a_root_without_an_upper_directory_has_no_changes():
    assert find_changes("10 9 0:40 / / ro - overlay overlay ro,lowerdir=l/A:l/B") is None


def test_a_root_that_is_no_overlay_is_refused():
    with pytest.raises(ImageError, match="is btrfs"):
        find_changes("10 9 0:40 / / rw - btrfs /dev/sda rw")


INNER = """\
10 9 0:40 / /container rw - overlay overlay rw,lowerdir=l/A,upperdir=/var/upper,workdir=/w
11 10 0:41 / /container/proc rw - proc proc rw
12 10 0:41 / /containers rw - tmpfs tmpfs rw
13 9 254:0 /programs / ro - ext4 /dev/vda rw
"""


def test_the_root_is_where_the_process_sees_it():
    assert find_changes(INNER, "/container") == Changes(Path("/var/upper"), frozenset({"proc"}))
    with pytest.raises(ImageError, match="is ext4"):
        find_changes(INNER)


@needs_root
def test_links_in_the_upper_directory_lead_nowhere(overlay, tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = mount_overlay(overlay)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "directory").symlink_to(tmp_path)
    members = pack(overlay)
    assert {name: member.type for name, member in members.items()} == {
        "link": tarfile.SYMTYPE,
        "directory": tarfile.SYMTYPE,
    }


MOUNTS = frozenset({"etc/hosts", "srv/data/config"})


@needs_root
def test_a_container_that_only_the_runtime_changed_is_unchanged(overlay):
    changes = Changes(overlay / "upper", MOUNTS)
    assert changes_nothing(changes, ["tmp"])
    root = mount_overlay(overlay)
    for name in ("etc", "srv/data/config", "tmp/file"):
        (root / name).mkdir(parents=True)
    (root / "etc/hosts").touch()
    (root / "etc/mtab").symlink_to("/proc/mounts")
    assert changes_nothing(changes, ["tmp"])


@needs_root
@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "file").touch(),
        lambda root: (root / "directory").mkdir(),
        lambda root: (root / "etc/hosts.new").touch(),
        lambda root: (root / "lower").unlink(),
        lambda root: (root / "etc").chmod(0o700),
        lambda root: os.chown(root / "etc", 1000, 0),
        lambda root: (root / "etc/mtab").symlink_to("/etc/other"),
        lambda root: (root / "mtab").symlink_to("/proc/mounts"),
        lambda root: ((root / "srv").rmdir(), (root / "srv").mkdir()),
    ],
)
def test_any_change_of_the_application_is_one(overlay, change):
    (overlay / "lower/lower").touch()
    (overlay / "lower/srv").mkdir()
    root = mount_overlay(overlay)
    (root / "etc").mkdir()
    change(root)
    assert not changes_nothing(Changes(overlay / "upper", MOUNTS), ["tmp"])
