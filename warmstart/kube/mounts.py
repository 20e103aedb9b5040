"""Mounts of a build and of a pod. Pure.

CRI-O restores a container only if its pod has every mount point of the checkpoint, and drops others without a word. An
image that restores itself has the mounts of its pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from warmstart.core.yaml_document import shown
from warmstart.kube.settings import KUBELET_MOUNTS, TOKEN, TOKEN_MOUNT, BuildInfo, Setting
from warmstart.recipe.pods import Block, blocks_at, list_others

_MOUNT = "the build has this mount, and the runtime restores no container without it"
_VOLUME = "the volume of a mount that the build has"


def list_mount_points(container: Mapping[str, Any]) -> list[str]:
    """Return the mount points in a container's `volumeMounts`, without a slash at their ends."""
    return [str(PurePosixPath(str(mount.get("mountPath")))) for mount in blocks_at(container.get("volumeMounts"))]


def list_mount_changes(build: BuildInfo, pod: Block, container: Block) -> Iterator[Setting]:
    """Yield mounts, and their volumes, that a runtime requires and the recipe describes."""
    if not build.by_runtime:
        return
    added: list[str] = []
    for path in _list_missing(build, pod, container):
        mount, volume = _find_mount(build, path)
        if mount is None or volume is None or _has_other_volume(pod, volume):
            continue
        if volume not in blocks_at(pod.get("volumes")) and volume["name"] not in added:
            added.append(volume["name"])
            yield Setting(("volumes",), volume, _VOLUME, of_pod=True, item="name")
        yield Setting(("volumeMounts",), mount, _MOUNT, item="mountPath")


def _list_missing(build: BuildInfo, pod: Block, container: Block) -> list[str]:
    had = {*KUBELET_MOUNTS, *list_mount_points(container)}
    if pod.get(TOKEN) is not False:
        had.add(TOKEN_MOUNT)
    return [path for path in build.mounts if path.rstrip("/") not in had]


def _find_mount(build: BuildInfo, path: str) -> tuple[Block | None, Block | None]:
    """Return the recipe's mount at a path, and its volume."""
    for mount in blocks_at(build.container.get("volumeMounts")):
        if str(mount.get("mountPath")).rstrip("/") == path.rstrip("/"):
            volumes = blocks_at(build.pod.get("volumes"))
            return mount, next((one for one in volumes if one.get("name") == mount.get("name")), None)
    return None, None


def _has_other_volume(pod: Block, volume: Block) -> bool:
    return any(one.get("name") == volume.get("name") and one != volume for one in blocks_at(pod.get("volumes")))


def list_mount_warnings(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    """Describe mounts that only the pod or only the build has, a sentence each."""
    added = set(list_mount_points({"volumeMounts": [one.value for one in list_mount_changes(build, pod, container)]}))
    own = {path.rstrip("/") for path in build.mounts}
    for path in list_mount_points(container):
        if path not in own:
            yield f"volumeMounts: {shown(path)} {_say_other(build)}"
    for path in _list_missing(build, pod, container):
        if path.rstrip("/") not in added:
            yield f"volumeMounts: {shown(path)} is missing: {_say_missing(build)}"
    if not build.by_runtime:
        return
    if TOKEN_MOUNT not in own and pod.get(TOKEN) is not False and (others := list_others(pod, container)):
        names = shown(", ".join(others))
        yield f"{TOKEN}: a restored container sees no token; set it to false if {names} can do without one, too"
    if container.get("volumeDevices"):
        yield "volumeDevices: the build had no block device, and a restored container sees none"


def _say_other(build: BuildInfo) -> str:
    if not build.by_runtime:
        return "was not in the build; the restored application sees it, but has not read it at its start"
    by_itself = "; where the image restores itself, it is there" if build.by_itself else ""
    return f"is not there in a container that the runtime restores: the build had no such mount{by_itself}"


def _say_missing(build: BuildInfo) -> str:
    if build.by_runtime:
        return "the build had this mount, and is not restored without it"
    return "the build had this mount, and files of the application on it are missing then"
