"""Remove cgroup v1 from a dump, so that it restores on nodes with either version.

A container on cgroup v1 has the hierarchies bind-mounted below the tmpfs /sys/fs/cgroup. runc passes the source of each
at a restore, but on a host with only cgroup v2 it has none, and CRIU fails: `No mapping for 200:(null) mountpoint`
(`Restore` in libcontainer/criu_linux.go of https://github.com/opencontainers/runc; `get_mp_root` in criu/mount.c of
https://github.com/checkpoint-restore/criu, 4.2). Nor could CRIU mount the controllers to move the processes
(`prepare_cgroup_sfd` in criu/cgroup.c).

So the dump is edited to look like a dump from cgroup v2. The processes are in one cgroup of the v2 hierarchy, the root
of their namespace; the runtime replaces its name with the new container's (`rewrite_cgsets`). Every kernel with cgroups
has that hierarchy. On v1, runc puts CRIU into the container's cgroups, and the restored processes stay there. crun
leaves that to CRIU, so nothing does it.

The tmpfs gets files with the original settings in place of the mounts. A program that reads its limits again finds
those of the build.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType
from warmstart.dump.criu.entries import Entry, decode, edit_image, read_image, read_only_entry, write_image

_TMPFS, _CGROUP_V1 = 5, 12  # fstype in images/mnt.proto
# Settings that programs read to find their limits.
_SETTINGS = (b"cpu.", b"cpuset.", b"memory.", b"pids.")

# The files of a tmpfs by their names in it.
_Contents = dict[PurePosixPath, bytes]


def move_to_cgroup_v2(directory: Path) -> bool:
    """Remove cgroup v1 from a dump.

    Returns:
        Whether the dump is free of it now. False if its processes are in more than one cgroup, or if the mounts around
        the hierarchies differ from those of a runtime. Such a dump is left unchanged.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    tables = {path: _read(path, protos.Mount) for path in directory.glob("mountpoints-*.img")}
    mounts = {mount.mnt_id: mount for table in tables.values() for _, mount in table}
    removed = {number: mount for number, mount in mounts.items() if mount.fstype == _CGROUP_V1}
    if not removed:
        return True
    sets = _find_sets(directory)
    if len(sets) != 1 or not _is_removable(removed, mounts):
        return False
    contents = _list_contents(directory, removed, mounts)
    _move_open_files(directory, removed, mounts, contents)
    for device, files in contents.items():
        _write_tmpfs(directory / f"tmpfs-dev-{device}.tar.gz.img", files)
    for path, table in tables.items():
        write_image(path, [entry for entry, mount in table if mount.mnt_id not in removed])
    write_image(directory / "cgroup.img", [_make_v2_cgroup(sets.pop())])
    return True


def _read(path: Path, message_class: Any) -> list[tuple[Entry, Any]]:
    return [(entry, decode(path, entry, message_class)) for entry in read_image(path)]


def _find_sets(directory: Path) -> set[int]:
    """Return the dump's numbers for the cgroups of all threads; a zombie is in none."""
    cores = (decode(path, read_only_entry(path), protos.Core) for path in directory.glob("core-*.img"))
    return {core.thread_core.cg_set or core.tc.cg_set for core in cores} - {0}


def _is_removable(removed: Mapping[int, Any], mounts: Mapping[int, Any]) -> bool:
    """Whether each mount lies directly below a tmpfs, with nothing mounted on it."""
    parents = [(mount, mounts.get(mount.parent_mnt_id)) for mount in removed.values()]
    on_tmpfs = all(
        parent is not None
        and parent.fstype == _TMPFS
        and _path(mount.mountpoint).parent == _path(parent.mountpoint)
        and _path(mount.mountpoint).name not in ("", "..")
        for mount, parent in parents
    )
    return on_tmpfs and not any(mount.parent_mnt_id in removed for mount in mounts.values())


def _path(raw: bytes) -> PurePosixPath:
    return PurePosixPath(os.fsdecode(raw))


def _list_contents(directory: Path, removed: Mapping[int, Any], mounts: Mapping[int, Any]) -> dict[int, _Contents]:
    """Return the new contents of each tmpfs, by its device, in place of the removed mounts."""
    cgroups = [cgroups for _, cgroups in _read(directory / "cgroup.img", protos.Cgroups)]
    controllers = [controller for each in cgroups for controller in each.controllers]
    contents: dict[int, _Contents] = {}
    for mount in removed.values():
        files = contents.setdefault(mounts[mount.parent_mnt_id].root_dev, {})
        name = PurePosixPath(_path(mount.mountpoint).name)
        files |= {name / setting: value for setting, value in _read_settings(controllers, mount).items()}
    return contents


def _read_settings(controllers: list[Any], mount: Any) -> dict[str, bytes]:
    """Return the settings of a mount's cgroup: file contents by name."""
    names = set(mount.options.split(b","))
    return {
        os.fsdecode(setting.name): setting.value + b"\n"
        for controller in controllers
        if names & set(controller.cnames)
        for cgroup in controller.dirs
        if cgroup.dir_name.strip(b"/") == mount.root.strip(b"/")
        for setting in cgroup.properties
        if setting.name.startswith(_SETTINGS) and b"/" not in setting.name
    }


def _move_open_files(
    directory: Path, removed: Mapping[int, Any], mounts: Mapping[int, Any], contents: Mapping[int, _Contents]
) -> None:
    """Redirect open files of the hierarchies to the tmpfs. A file that is no setting is empty there.

    Go's runtime, for example, keeps the file with its processor limit open.
    """

    def move(file: Any) -> bool:
        mount = removed.get(file.reg.mnt_id) if file.type == FileType.REGULAR else None
        if mount is None:
            return False
        tmpfs, name = mounts[mount.parent_mnt_id], _path(file.reg.name)
        if name.parent == _path(mount.mountpoint):
            contents[tmpfs.root_dev].setdefault(name.relative_to(name.parent.parent), b"")
        file.reg.mnt_id = tmpfs.mnt_id
        file.reg.ClearField("size")
        file.reg.ClearField("mode")
        return True

    edit_image(directory / "files.img", protos.File, move)


def _write_tmpfs(path: Path, files: _Contents) -> None:
    """Write files in their directories as a tar; CRIU unpacks it by tar(1) (`tmpfs_restore` in criu/filesystems.c)."""
    directories = {name.parent for name in files}
    # Without the time of the edit, so that the same dump makes the same file.
    with (
        gzip.GzipFile(path, "wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for directory in (PurePosixPath(), *sorted(directories)):
            tar.addfile(_member(directory, tarfile.DIRTYPE, 0o755))
        for name, content in files.items():
            member = _member(name, tarfile.REGTYPE, 0o444)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _member(name: PurePosixPath, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(str(name))
    member.type, member.mode = kind, mode
    return member


def _make_v2_cgroup(number: int) -> Entry:
    """Describe a cgroup of the dump as one of v2; its name is a placeholder for the runtime's name."""
    name = b"container"
    path = b"/" + name
    member = {"name": b"", "path": path, "cgns_prefix": len(path)}
    cgroups = protos.Cgroups(
        sets=[{"id": number, "ctls": [member]}], controllers=[{"cnames": [b""], "dirs": [{"dir_name": name}]}]
    )
    return Entry(cgroups.SerializeToString())
