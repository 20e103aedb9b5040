"""Read and unpack checkpoint archives of CRI-O."""

from __future__ import annotations

import io
import logging
import os
import resource
import stat
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_archive import (
    CONFIG,
    GOOD,
    ID,
    LOG,
    PAGES,
    ROOTFS_DIFF,
    ROOTFS_REF,
    SPEC,
    crio,
    entry,
    link,
    tar_of,
    text,
    tree,
    untouched_around,
    with_diff,
    write,
)

from warmstart.core.errors import ArchiveError, HostError
from warmstart.dump.archive import archive as archive_module
from warmstart.dump.archive.archive import Limits, extract_archive, read_contents
from warmstart.dump.archive.metadata import BindMount, User


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with untouched_around(tmp_path) as place:
        yield place


def test_reads_what_crio_writes(place: Path) -> None:
    archive = write(place, tar_of(*crio()))
    unpacked = extract_archive(archive, place / "new")
    assert unpacked.config.id == ID
    assert unpacked.config.name == "k8s_app_pod_default_0f1e_0"
    assert unpacked.config.created == datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert unpacked.config.checkpointed == datetime(2026, 3, 1, 10, 0, 5, 500000, tzinfo=UTC)
    assert unpacked.config.rootfs_image_name == "localhost/java-app:1.0"
    assert unpacked.config.rootfs_image_ref == ROOTFS_REF
    assert unpacked.config.runtime == "runc"
    assert unpacked.spec.args == ("java", "-jar", "/app.jar")
    assert unpacked.spec.env == ("PATH=/of/the/runtime", "PATH=/usr/bin:/bin", "GREETING=two\nlines")
    assert unpacked.spec.cwd == "/app/"
    assert unpacked.spec.user == User(1000, 1000, (1000, 2000))
    assert unpacked.spec.capabilities.bounding == ("CAP_CHOWN",)
    assert unpacked.spec.capabilities.ambient == ()
    assert [mount.destination for mount in unpacked.spec.mounts] == ["/proc", "/etc/hosts"]
    assert unpacked.spec.annotations["io.kubernetes.cri-o.Annotations"] == "{}"
    assert unpacked.container_name == "app"
    assert unpacked.bind_mounts == (BindMount("/var/lib/kubelet/pods/0f1e/etc-hosts", "/etc/hosts", "file", 0o644),)
    assert unpacked.deleted_files == ("/var/cache/app", "/etc/motd")
    assert unpacked.rootfs_diff == archive_module.RootfsDiff(6, len(ROOTFS_DIFF))
    assert unpacked.ignored == ()


def test_unpacks_every_file_unchanged_with_permissions_of_its_own(place: Path) -> None:
    members = crio(**{"config.dump": entry("config.dump", text(CONFIG), mode=0o6777, uid=12345, gid=12345)})
    unpacked = extract_archive(write(place, tar_of(*members)), place / "new")
    assert unpacked.root == place / "new"
    assert unpacked.checkpoint_dir == place / "new/checkpoint"
    expected = {
        info.name.rstrip("/"): (stat.S_IFDIR | 0o700 if info.isdir() else stat.S_IFREG | 0o600, content)
        for info, content in members
    }
    assert tree(unpacked.root) == expected
    assert stat.S_IMODE(unpacked.root.stat().st_mode) == 0o700
    assert unpacked.root.joinpath("config.dump").stat().st_uid == os.getuid()
    assert unpacked.find(archive_module.DUMP_LOG) == place / "new/dump.log"
    assert unpacked.find(archive_module.NETWORK_STATUS) is None


def test_reads_contents_without_unpacking(place: Path) -> None:
    archive = write(place, tar_of(*crio()))
    contents = read_contents(archive)
    assert [(member.name, member.size_bytes) for member in contents.members] == [
        (info.name.rstrip("/"), len(content)) for info, content in crio()
    ]
    assert contents.size_bytes == sum(len(content) for _, content in crio())
    assert list(place.iterdir()) == [archive]


def test_optional_members_may_be_absent(place: Path) -> None:
    optional = ["stats-dump", "dump.log", "bind.mounts", "rootfs-diff.tar", "deleted.files", LOG, "checkpoint/"]
    members = crio(**dict.fromkeys(optional))
    unpacked = extract_archive(write(place, tar_of(*members)), place / "new")
    assert (unpacked.bind_mounts, unpacked.deleted_files, unpacked.rootfs_diff) == ((), (), None)
    assert sorted(path.name for path in unpacked.root.iterdir()) == ["checkpoint", "config.dump", "spec.dump"]


def test_unknown_files_are_ignored_and_logged(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    novel = [entry("new-in-2027", b"?"), entry("artifacts/"), entry("artifacts/a\\..\\b", b"?")]
    archive = write(place, tar_of(*crio(), *novel))
    with caplog.at_level(logging.WARNING):
        unpacked = extract_archive(archive, place / "new")
    assert unpacked.ignored == ("new-in-2027", "artifacts", "artifacts/a\\..\\b")
    assert sorted(tree(unpacked.root)) == sorted(info.name.rstrip("/") for info, _ in crio())
    assert caplog.messages == [
        f"{archive}: 3 members are not known to belong to a checkpoint and are ignored, the first is 'new-in-2027'"
    ]


def test_a_backslash_is_a_character_like_any_other(place: Path) -> None:
    archive = write(place, tar_of(*crio(), entry("checkpoint/..\\..\\x", b"plain")))
    unpacked = extract_archive(archive, place / "new")
    assert unpacked.checkpoint_dir.joinpath("..\\..\\x").read_bytes() == b"plain"


def test_a_repacked_archive_is_the_same(place: Path) -> None:
    """GNU tar packs a directory with its own header format, and with `./` before each name."""
    repacked = io.BytesIO()
    with tarfile.open(fileobj=repacked, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(entry("./", type=tarfile.DIRTYPE)[0])
        for info, content in crio():
            info.name = f"./{info.name}"
            tar.addfile(info, io.BytesIO(content))
    unpacked = extract_archive(write(place, repacked.getvalue()), place / "new")
    assert [member.name for member in unpacked.members] == [info.name.rstrip("/") for info, _ in crio()]
    assert sorted(tree(unpacked.root)) == sorted(info.name.rstrip("/") for info, _ in crio())


def test_what_follows_the_end_is_ignored(place: Path) -> None:
    """CRI-O writes over an existing file without truncating it."""
    archive = write(place, tar_of(*crio()) + tar_of(link("left over", "/etc")))
    assert extract_archive(archive, place / "new").config.id == ID


def test_a_podman_archive_names_no_container_in_a_pod(place: Path) -> None:
    config = {key: CONFIG[key] for key in ("id", "name", "createdTime", "rootfsImageName", "runtime")}
    members = crio(**{"config.dump": text(config), "spec.dump": text({**SPEC, "annotations": None})})
    contents = read_contents(write(place, tar_of(*members)))
    assert contents.config.checkpointed is None
    assert contents.container_name == "k8s_app_pod_default_0f1e_0"


def test_a_file_beyond_ustars_size_is_read_by_its_extended_header(place: Path) -> None:
    """A hole of 10 GiB: the size field of the header ends at 8 GiB."""
    size_bytes = 10 << 30
    big = entry("checkpoint/pages-2.img", size=size_bytes)[0]
    header = big.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    archive = write(place, tar_of(*crio(), end=header))
    with archive.open("r+b") as file:
        file.truncate(archive.stat().st_size + size_bytes + 1024)
    assert read_contents(archive).members[-1].size_bytes == size_bytes
    archive.unlink()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(members=12), "has more than 12 members"),
        (Limits(total_bytes=1000), f"holds {sum(len(c) for _, c in crio())} bytes; the limit is 1000"),
        (Limits(json_bytes=99), f"'config.dump' is {len(text(CONFIG))} bytes long; the limit is 99"),
    ],
)
def test_limits(limits: Limits, message: str, place: Path) -> None:
    archive = write(place, GOOD)
    with pytest.raises(ArchiveError) as caught:
        extract_archive(archive, place / "new", limits=limits)
    assert caught.value.brief == f"{archive}: {message}"
    assert list(place.iterdir()) == [archive]


def test_the_limit_of_members_holds_for_the_diff_too(place: Path) -> None:
    archive = write(place, with_diff(*(entry(f"x{number}") for number in range(20))))
    with pytest.raises(ArchiveError, match=r"'rootfs-diff.tar': has more than 13 members$"):
        read_contents(archive, limits=Limits(members=13))


def test_a_hole_of_a_terabyte_is_refused(place: Path) -> None:
    big = entry("checkpoint/pages-2.img", size=1 << 40)[0]
    header = big.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    archive = write(place, tar_of(*crio(), end=header))
    with archive.open("r+b") as file:
        file.truncate(archive.stat().st_size + (1 << 40) + 1024)
    with pytest.raises(ArchiveError, match=r"holds 109951\d+ bytes; the limit is 274877906944$"):
        extract_archive(archive, place / "new")
    archive.unlink()


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
    ],
    ids=["missing", "directory", "FIFO"],
)
def test_no_such_archive(make: Callable[[Path], None], wrong: str, place: Path) -> None:
    make(place / "a.tar")
    with pytest.raises(ArchiveError) as caught:
        extract_archive(place / "a.tar", place / "new")
    assert caught.value.brief == f"{place / 'a.tar'}: {wrong}"


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_an_existing_target_is_left_alone(kind: str, place: Path) -> None:
    archive = write(place, GOOD)
    if kind == "directory":
        (place / "new").mkdir()
    else:
        (place / "new").symlink_to(place.parent / "outside")
    with pytest.raises(HostError) as caught:
        extract_archive(archive, place / "new")
    assert caught.value.brief == f"{place / 'new'}: cannot unpack {archive} there: File exists"
    assert (place / "new").exists()


def test_what_was_unpacked_is_removed_when_writing_fails(place: Path) -> None:
    archive = write(place, GOOD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(PAGES) - 1, hard))
    try:
        with pytest.raises(HostError, match="File too large"):
            extract_archive(archive, place / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(place.iterdir()) == [archive]


def test_an_archive_that_shrinks_while_it_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write(place, GOOD)
    unpack = archive_module.unpack

    def cut_then_unpack(*args: Any) -> None:
        os.truncate(archive, len(GOOD) - 1536)
        unpack(*args)

    monkeypatch.setattr(archive_module, "unpack", cut_then_unpack)
    with pytest.raises(ArchiveError, match=f"was truncated while '{LOG}' was read"):
        extract_archive(archive, place / "new")
    assert list(place.iterdir()) == [archive]
