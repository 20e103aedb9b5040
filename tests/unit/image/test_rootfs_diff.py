"""The changed files in a checkpoint of CRI-O are completed: of a real overlay, restored as CRI-O restores them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.checkpoint_archive import CONFIG, crio, tar_of, text, write
from support.overlays import mount_overlay, open_overlay

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import Archive, extract_archive, read_contents
from warmstart.image.overlay_diff import Changes
from warmstart.image.rootfs_diff import complete_diff, find_missing

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(os.geteuid() != 0, reason="overlays and owners need root"),
]


@pytest.fixture
def overlay() -> Iterator[Path]:
    with open_overlay() as place:
        yield place


def fill(lower: Path) -> None:
    for directory in ("etc", "data/old", "logs", "kept"):
        (lower / directory).mkdir(parents=True)
    for name in ("etc/app.conf", "etc/other", "etc/gone", "data/a", "data/b", "data/old/inside", "logs/log", "kept/x"):
        (lower / name).write_text(name)


def change(root: Path) -> None:
    (root / "etc/app.conf").write_text("changed")
    (root / "etc/gone").unlink()
    os.chown(root / "etc/other", 7, 8)
    (root / "kept").chmod(0o2750)
    shutil.rmtree(root / "logs")
    (root / "logs").symlink_to("/elsewhere")
    shutil.rmtree(root / "data")
    (root / "data/old").mkdir(parents=True)
    (root / "data/a").write_text("again")
    (root / "data/new").write_text("new")
    (root / "added").mkdir()
    (root / "added/file").write_text("added")


def checkpoint(place: Path, deleted: Sequence[str] = ("/data", "/etc/gone")) -> Path:
    """Write a checkpoint as CRI-O does: with new files, and without changed ones."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as tar:
        for name in ("added", "data/new"):
            tar.add(place / "merged" / name, name)
    config = {**CONFIG, "checkpointedTime": datetime.now(UTC).isoformat()}
    # The kernel's time of a file may be that of its last tick.
    time.sleep(0.02)
    members = {"config.dump": text(config), "rootfs-diff.tar": found.getvalue(), "deleted.files": text(list(deleted))}
    return write(place, tar_of(*crio(**members)))


def make_base(layout, lower: Path) -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(lower, ".")
    diff = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff]}}
    layout.list(layout.image(packed.getvalue(), config=config))
    return layout.path


def complete(place: Path, archive: Path, base: Path) -> Archive:
    contents = read_contents(archive)
    found = find_missing(Changes(place / "upper", frozenset()), contents, base, place / "changes.tar")
    return complete_diff(extract_archive(archive, place / "unpacked"), found)


def restore(archive: Archive, root: Path) -> None:
    """Restore the files as CRI-O does: unpack, replacing anything but directories by directories; then delete."""
    with tarfile.open(archive.root / "rootfs-diff.tar") as tar:
        for member in tar:
            path = root / member.name
            if path.is_symlink() or (path.exists() and not (path.is_dir() and member.isdir())):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            tar.extract(member, root, filter="fully_trusted", numeric_owner=True)
    for name in archive.deleted_files:
        path = root / name.lstrip("/")
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, kind)
    return found


def test_a_restore_has_all_changes_to_files_of_the_image(overlay, layout):
    fill(overlay / "lower")
    change(mount_overlay(overlay))
    expected = describe(overlay / "merged")
    archive = complete(overlay, checkpoint(overlay), make_base(layout, overlay / "lower"))
    restore(archive, overlay / "lower")
    assert describe(overlay / "lower") == expected
    assert expected["kept"][0] == "drwxr-s---"
    # The whole of it is still a checkpoint that is trusted.
    assert read_contents(write(overlay, tar_of(*repack(archive)))).rootfs_diff is not None


def repack(archive: Archive) -> list[tuple[tarfile.TarInfo, bytes]]:
    members = {name: (archive.root / name).read_bytes() for name in ("rootfs-diff.tar", "deleted.files")}
    return crio(**members)


def test_without_changes_the_checkpoint_is_as_it_was(overlay, layout):
    archive = write(overlay, tar_of(*crio(**{"rootfs-diff.tar": None, "deleted.files": None})))
    done = complete(overlay, archive, make_base(layout, overlay / "lower"))
    assert not (done.root / "rootfs-diff.tar").exists()
    assert not (done.root / "deleted.files").exists()


def test_changes_without_new_files_are_kept(overlay, layout):
    fill(overlay / "lower")
    (mount_overlay(overlay) / "etc/app.conf").write_text("changed")
    config = {**CONFIG, "checkpointedTime": datetime.now(UTC).isoformat()}
    members = {"config.dump": text(config), "rootfs-diff.tar": None, "deleted.files": None}
    archive = write(overlay, tar_of(*crio(**members)))
    restore(complete(overlay, archive, make_base(layout, overlay / "lower")), overlay / "lower")
    assert (overlay / "lower/etc/app.conf").read_text() == "changed"


def test_what_was_written_after_the_checkpoint_is_no_part_of_it(overlay, layout):
    fill(overlay / "lower")
    change(mount_overlay(overlay))
    archive = checkpoint(overlay)
    (overlay / "merged/later").write_text("later")
    done = complete(overlay, archive, make_base(layout, overlay / "lower"))
    with tarfile.open(done.root / "rootfs-diff.tar") as tar:
        assert "later" not in tar.getnames()


def test_a_file_of_the_image_that_changed_after_the_checkpoint_is_an_error(overlay, layout):
    fill(overlay / "lower")
    change(mount_overlay(overlay))
    archive = checkpoint(overlay)
    (overlay / "merged/etc/other").write_text("later")
    with pytest.raises(CheckpointError, match="changed right after the checkpoint") as caught:
        complete(overlay, archive, make_base(layout, overlay / "lower"))
    assert caught.value.details == ("/etc/other",)


def test_mount_points_are_left_out(overlay, layout):
    (overlay / "lower/etc").mkdir()
    root = mount_overlay(overlay)
    (root / "etc/hosts").touch()
    (root / "added").mkdir()
    (root / "data").mkdir()
    (root / "data/new").touch()
    archive = checkpoint(overlay, deleted=())
    into = overlay / "changes.tar"
    found = find_missing(
        Changes(overlay / "upper", frozenset({"etc/hosts"})), read_contents(archive), layout.path, into
    )
    with tarfile.open(found.tar) as tar:
        assert tar.getnames() == ["data", "etc"]
