"""Dumps with cgroup v1 are edited to restore on hosts with cgroup v2 only."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, read_only_entry, write_image
from warmstart.dump.edit.cgroups import move_to_cgroup_v2

ROOT, TMPFS, CPU, MEMORY, OTHER = 1, 10, 11, 12, 13
DEVICE = 146
CGROUP = "crio/crio-1"


def make_mount(number: int, kind: int, parent: int, place: str, options: str = "") -> Entry:
    message = protos.Mount(
        fstype=kind,
        mnt_id=number,
        root_dev=DEVICE if kind == 5 else number,
        parent_mnt_id=parent,
        root=f"/{CGROUP}".encode() if kind == 12 else b"/",
        mountpoint=place.encode(),
        options=options.encode(),
    )
    return Entry(message.SerializeToString())


MOUNTS = (
    make_mount(MEMORY, 12, TMPFS, "/sys/fs/cgroup/memory", "memory"),
    make_mount(CPU, 12, TMPFS, "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
    make_mount(TMPFS, 5, ROOT, "/sys/fs/cgroup"),
    make_mount(ROOT, 17, 0, "/"),
)


def make_controller(names: list[str], settings: dict[str, str]) -> dict[str, Any]:
    properties = [{"name": name.encode(), "value": value.encode()} for name, value in settings.items()]
    return {
        "cnames": [name.encode() for name in names],
        "dirs": [{"dir_name": CGROUP.encode(), "properties": properties}],
    }


def make_file(number: int, mount: int, name: str) -> Entry:
    owner = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}
    regular = {"id": number, "flags": 0, "pos": 0, "fown": owner, "name": name.encode(), "mnt_id": mount}
    return Entry(protos.File(type=1, id=number, reg={**regular, "size": 0, "mode": 0o100644}).SerializeToString())


def make_dump(directory: Path, *, mounts: tuple[Entry, ...] = MOUNTS, sets: tuple[int, ...] = (2, 2)) -> None:
    controllers = [
        make_controller(["cpu", "cpuacct"], {"cpu.cfs_quota_us": "200000", "tasks": ""}),
        make_controller(["memory"], {"memory.limit_in_bytes": "536870912", "../escape": "x"}),
    ]
    files = [make_file(1, ROOT, "/app"), make_file(2, CPU, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us")]
    files.append(make_file(3, MEMORY, "/sys/fs/cgroup/memory/memory.usage_in_bytes"))
    write_image(directory / "mountpoints-13.img", mounts)
    write_image(directory / "cgroup.img", [Entry(protos.Cgroups(controllers=controllers).SerializeToString())])
    write_image(directory / "files.img", files)
    for pid, number in enumerate(sets, start=1):
        core = protos.Core(tc={"comm": b"app"}, thread_core={"cg_set": number})
        write_image(directory / f"core-{pid}.img", [Entry(core.SerializeToString())])
    # A zombie is in none.
    write_image(directory / "core-99.img", [Entry(protos.Core(tc={"comm": b"gone"}).SerializeToString())])


def read_all(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_mounts_and_cgroups_are_taken_out(tmp_path: Path) -> None:
    make_dump(tmp_path)
    assert move_to_cgroup_v2(tmp_path)
    assert list(read_image(tmp_path / "mountpoints-13.img")) == list(MOUNTS[2:])
    path = tmp_path / "cgroup.img"
    found = decode(path, read_only_entry(path), protos.Cgroups)
    assert [(one.id, [(member.name, member.path) for member in one.ctls]) for one in found.sets] == [
        (2, [(b"", b"/container")])
    ]
    assert [list(controller.cnames) for controller in found.controllers] == [[b""]]
    before = read_all(tmp_path)
    assert move_to_cgroup_v2(tmp_path)
    assert read_all(tmp_path) == before


def test_the_same_dump_makes_the_same_files(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        make_dump(tmp_path / name)
        assert move_to_cgroup_v2(tmp_path / name)
        made.append(read_all(tmp_path / name))
    assert made[0] == made[1]
    # The time of the edit would be in these bytes (RFC 1952).
    assert made[0][f"tmpfs-dev-{DEVICE}.tar.gz.img"][4:8] == bytes(4)


def test_the_settings_are_files_in_their_place(tmp_path: Path) -> None:
    make_dump(tmp_path)
    move_to_cgroup_v2(tmp_path)
    with tarfile.open(tmp_path / f"tmpfs-dev-{DEVICE}.tar.gz.img") as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
        assert {name: file and file.read() for name, file in found.items()} == {
            ".": None,
            "cpu,cpuacct": None,
            "memory": None,
            "cpu,cpuacct/cpu.cfs_quota_us": b"200000\n",
            "memory/memory.limit_in_bytes": b"536870912\n",
            "memory/memory.usage_in_bytes": b"",
        }


def test_open_files_are_opened_there(tmp_path: Path) -> None:
    make_dump(tmp_path)
    move_to_cgroup_v2(tmp_path)
    path = tmp_path / "files.img"
    files = [decode(path, entry, protos.File).reg for entry in read_image(path)]
    assert [file.mnt_id for file in files] == [ROOT, TMPFS, TMPFS]
    # CRIU compares these with what it finds.
    assert [(file.HasField("size"), file.HasField("mode")) for file in files] == [(True, True), *[(False, False)] * 2]


def test_a_dump_of_cgroup_v2_stays_as_it_is(tmp_path: Path) -> None:
    make_dump(tmp_path, mounts=(make_mount(CPU, 23, ROOT, "/sys/fs/cgroup"), MOUNTS[-1]))
    before = read_all(tmp_path)
    assert move_to_cgroup_v2(tmp_path)
    assert read_all(tmp_path) == before


@pytest.mark.parametrize(
    ("mounts", "sets"),
    [
        (MOUNTS, (2, 3)),
        ((*MOUNTS, make_mount(OTHER, 5, MEMORY, "/sys/fs/cgroup/memory/more")), (2,)),
        ((MOUNTS[0], MOUNTS[-1]), (2,)),
        ((make_mount(MEMORY, 12, ROOT, "/memory", "memory"), MOUNTS[-1]), (2,)),
        ((make_mount(MEMORY, 12, TMPFS, "/sys/fs/cgroup/a/b", "memory"), *MOUNTS[2:]), (2,)),
    ],
    ids=["several cgroups", "mounted on", "no parent", "not on a tmpfs", "deeper"],
)
def test_what_it_cannot_free_stays_as_it_is(tmp_path: Path, mounts: tuple[Entry, ...], sets: tuple[int, ...]) -> None:
    make_dump(tmp_path, mounts=mounts, sets=sets)
    before = read_all(tmp_path)
    assert not move_to_cgroup_v2(tmp_path)
    assert read_all(tmp_path) == before
