"""The volumes of a pod on the disk: their files, modes and groups, and what is mounted of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.core.errors import EngineError, RecipeError
from warmstart.engine.volumes import PodVolumes, list_groups, open_volumes
from warmstart.recipe.model import (
    Container,
    Mount,
    Resources,
    SecurityContext,
    Volume,
    VolumeFile,
    VolumeKind,
    VolumeMount,
)

DATA = Volume("data", VolumeKind.EMPTY_DIR)
CLAIM = Volume("claim", VolumeKind.LASTING)
FAST = Volume("fast", VolumeKind.EMPTY_DIR, in_memory=True, size_limit_bytes=1 << 20)
CONF = Volume(
    "conf",
    VolumeKind.FILES,
    (VolumeFile("app.yaml", b"a: 1\n"), VolumeFile("tls/key", b"k", 0o400), VolumeFile("tls/cert", b"c")),
)


def make_container(*mounts: VolumeMount, **fields: object) -> Container:
    return Container("base", volume_mounts=mounts, **fields)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def volumes(tmp_path) -> Iterator[PodVolumes]:
    with open_volumes(tmp_path / "volumes") as opened:
        yield opened


# Kinds


def test_nothing_is_made_for_a_container_without_volumes(tmp_path):
    with open_volumes(tmp_path / "volumes") as volumes:
        assert volumes.mount(make_container()) == ()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("volume", [DATA, CLAIM])
def test_an_empty_volume_is_for_everybody(volumes, volume):
    (mount,) = volumes.mount(make_container(VolumeMount(volume, "/data", read_only=True)))
    assert (mount.path, mount.read_only) == ("/data", True)
    assert mode_of(mount.directory) == 0o777
    assert list(mount.directory.iterdir()) == []


def test_files_are_laid_out_as_by_the_kubelet(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(CONF, "/etc/conf")))
    root = mount.directory
    assert mount.read_only
    assert mode_of(root) == 0o777
    version = (root / "..data").readlink()
    assert str(version).startswith("..2")
    assert sorted(path.name for path in root.iterdir()) == sorted(["..data", str(version), "app.yaml", "tls"])
    assert (root / "app.yaml").readlink() == Path("..data/app.yaml")
    assert (root / "tls").readlink() == Path("..data/tls")
    assert (root / "app.yaml").read_bytes() == b"a: 1\n"
    assert [mode_of(root / version / name) for name in ("", "app.yaml", "tls", "tls/key")] == [
        *(0o755, 0o644, 0o755, 0o400)
    ]


def test_all_containers_of_a_pod_share_a_volume(volumes):
    (first,) = volumes.mount(make_container(VolumeMount(DATA, "/out")))
    (first.directory / "made").touch()
    other, second = volumes.mount(make_container(VolumeMount(CLAIM, "/claim"), VolumeMount(DATA, "/in")))
    assert (second.directory / "made").exists()
    assert other.directory != second.directory


def test_another_pod_has_its_own_and_all_are_gone_at_the_end(tmp_path):
    container = make_container(VolumeMount(DATA, "/data"), VolumeMount(CONF, "/conf"))
    with open_volumes(tmp_path / "1") as one, open_volumes(tmp_path / "2") as two:
        assert one.mount(container)[0].directory != two.mount(container)[0].directory
    assert list(tmp_path.iterdir()) == []


def test_a_volume_is_used_when_something_is_left_on_it(volumes):
    one, two, _ = volumes.mount(
        make_container(*(VolumeMount(volume, f"/{volume.name}") for volume in (DATA, CLAIM, CONF)))
    )
    assert volumes.list_used() == []
    (one.directory / "hsperfdata_app").mkdir()
    assert volumes.list_used() == []
    (two.directory / "made").mkdir()
    assert volumes.list_used() == ["claim"]


def test_the_name_of_a_volume_leads_nowhere(tmp_path, volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(Volume("../../x", VolumeKind.EMPTY_DIR), "/data")))
    assert mount.directory.parent == tmp_path / "volumes"


# fsGroup


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.parametrize("volume", [DATA, CLAIM])
def test_an_empty_volume_belongs_to_the_group(volumes, volume):
    (mount,) = volumes.mount(make_container(VolumeMount(volume, "/data", sub_path="a/b"), fs_group=4321))
    for path in (mount.directory, mount.directory.parents[1]):
        assert (mode_of(path), path.stat().st_gid, path.stat().st_uid) == (0o2777, 4321, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_files_can_be_read_by_the_group(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(CONF, "/conf"), fs_group=4321))
    data = (mount.directory / "..data").resolve()
    modes = {path: mode_of(path) for path in (mount.directory, data, data / "tls", data / "tls/key", data / "app.yaml")}
    assert list(modes.values()) == [0o2777, 0o2755, 0o2755, 0o440, 0o644]
    assert {path.stat().st_gid for path in modes} == {4321}
    assert (mount.directory / "tls").lstat().st_gid == 4321


def test_the_group_of_the_volumes_is_one_of_the_containers():
    context = SecurityContext(supplemental_groups=(5,))
    assert list_groups(make_container(security_context=context)) == (5,)
    assert list_groups(make_container(security_context=context, fs_group=6)) == (5, 6)
    assert list_groups(make_container(security_context=context, fs_group=5)) == (5,)


# subPath


def test_a_part_of_an_empty_volume_is_a_directory(volumes):
    one, two = volumes.mount(
        make_container(VolumeMount(DATA, "/a", sub_path="x/y"), VolumeMount(DATA, "/b", sub_path="x"))
    )
    assert one.directory == two.directory / "y"
    assert mode_of(one.directory) == mode_of(two.directory) == 0o777


@pytest.mark.parametrize(("part", "content"), [("app.yaml", b"a: 1\n"), ("tls/key", b"k")])
def test_a_file_is_mounted_as_a_file(volumes, part, content):
    (mount,) = volumes.mount(make_container(VolumeMount(CONF, "/app/file", sub_path=part)))
    assert (mount.directory.read_bytes(), mount.read_only) == (content, True)
    # Resolved: the runtime follows no link.
    assert not any(path.is_symlink() for path in (mount.directory, *mount.directory.parents))


def test_a_directory_of_files(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(CONF, "/tls", sub_path="tls")))
    assert sorted(path.name for path in mount.directory.iterdir()) == ["cert", "key"]


def test_a_file_that_is_not_there_is_a_directory_as_in_kubernetes(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(CONF, "/x", sub_path="missing")))
    assert list(mount.directory.iterdir()) == []


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc", "a\0b"])
def test_a_part_that_leads_out_is_refused(volumes, part):
    with pytest.raises(RecipeError, match="must be a relative path"):
        volumes.mount(make_container(VolumeMount(DATA, "/data", sub_path=part)))


@pytest.mark.parametrize("path", ["../x", "/etc/x", "..x", "", "a/../../x"])
def test_a_file_outside_of_its_volume_is_refused(tmp_path, volumes, path):
    volume = Volume("conf", VolumeKind.FILES, (VolumeFile(path, b""),))
    with pytest.raises(RecipeError):
        volumes.mount(make_container(VolumeMount(volume, "/conf")))


@pytest.mark.parametrize("part", ["out", "out/more"])
def test_a_link_that_a_container_made_is_not_followed(tmp_path, volumes, part):
    (mount,) = volumes.mount(make_container(VolumeMount(DATA, "/data")))
    (tmp_path / "host").mkdir()
    (mount.directory / "out").symlink_to(tmp_path / "host")
    with pytest.raises(EngineError, match="out is a link or a file"):
        volumes.mount(make_container(VolumeMount(DATA, "/data", sub_path=part)))
    assert list((tmp_path / "host").iterdir()) == []


def test_a_file_that_a_container_made_is_mounted(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(DATA, "/data")))
    (mount.directory / "made").write_text("x")
    (again,) = volumes.mount(make_container(VolumeMount(DATA, "/file", sub_path="made")))
    assert again.directory.read_text() == "x"


# Mounts in mounts


def test_parents_come_first_and_have_directories_for_the_others(volumes):
    mounts = volumes.mount(
        make_container(
            VolumeMount(DATA, "/etc/conf/cache/deep"),
            VolumeMount(CLAIM, "/etc/conf/cache", sub_path="part"),
            VolumeMount(CONF, "/etc/conf"),
            VolumeMount(CONF, "/etc/conf/cache/app.yaml", sub_path="app.yaml"),
        )
    )
    assert [mount.path for mount in mounts][:2] == ["/etc/conf", "/etc/conf/cache"]
    assert (mounts[0].directory / "cache").is_dir()
    inner = next(mount for mount in mounts if mount.path == "/etc/conf/cache")
    assert [path.name for path in inner.directory.iterdir()] == ["deep"]


def test_a_mount_in_a_part_of_files(volumes):
    outer, _ = volumes.mount(make_container(VolumeMount(CONF, "/tls", sub_path="tls"), VolumeMount(DATA, "/tls/tmp")))
    assert (outer.directory / "tmp").is_dir()


def test_a_link_in_place_of_a_mount_is_not_followed(tmp_path, volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(DATA, "/data")))
    (mount.directory / "in").symlink_to(tmp_path)
    with pytest.raises(EngineError, match="in is a link"):
        volumes.mount(make_container(VolumeMount(DATA, "/data"), VolumeMount(CLAIM, "/data/in/claim")))


# Memory


class FakeMemory:
    """Mounts by making a directory elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounted: dict[Path, int | None] = {}

    def mount(self, directory: Path, size_bytes: int | None) -> None:
        assert directory.is_dir()
        (self.root / directory.relative_to("/")).mkdir(parents=True)
        self.mounted[directory] = size_bytes

    def unmount(self, directory: Path) -> None:
        del self.mounted[directory]


@pytest.fixture
def memory(tmp_path) -> FakeMemory:
    return FakeMemory(tmp_path / "root")


def test_a_volume_in_memory_is_mounted_until_the_end(tmp_path, memory):
    with open_volumes(tmp_path / "volumes", memory) as volumes:
        (mount,) = volumes.mount(make_container(VolumeMount(FAST, "/fast", sub_path="part")))
        seen = memory.root / mount.directory.relative_to("/")
        assert seen.is_dir()
        assert mode_of(seen.parent) == 0o1777
        assert not mount.directory.exists()
        assert memory.mounted == {mount.directory.parent: 1 << 20}
    assert memory.mounted == {}
    assert not (tmp_path / "volumes").exists()


@pytest.mark.parametrize(("own", "limit", "size"), [(None, None, None), (None, 9, 9), (5, 9, 5), (10, 9, 9)])
def test_memory_is_limited_as_the_container(tmp_path, memory, own, limit, size):
    volume = Volume("fast", VolumeKind.EMPTY_DIR, in_memory=True, size_limit_bytes=own)
    container = make_container(VolumeMount(volume, "/fast"), resources=Resources(memory_limit_bytes=limit))
    with open_volumes(tmp_path / "volumes", memory) as volumes:
        volumes.mount(container)
        assert list(memory.mounted.values()) == [size]


def test_without_memory_it_is_a_directory(volumes):
    (mount,) = volumes.mount(make_container(VolumeMount(FAST, "/fast")))
    assert mount == Mount("/fast", mount.directory)
    assert mode_of(mount.directory) == 0o777


def test_a_mount_that_fails_leaves_nothing(tmp_path, memory):
    class Refused(FakeMemory):
        def mount(self, directory: Path, size_bytes: int | None) -> None:
            raise PermissionError(1, "Operation not permitted", str(directory))

    with (
        pytest.raises(EngineError, match="cannot make the volumes of the container: Operation not permitted"),
        open_volumes(tmp_path / "volumes", Refused(tmp_path / "root")) as volumes,
    ):
        volumes.mount(make_container(VolumeMount(FAST, "/fast")))
    assert not (tmp_path / "volumes").exists()
