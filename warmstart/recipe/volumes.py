"""The volumes that a container mounts, with the files that a build puts into them.

Kubernetes' rules are those of pkg/volume/{configmap,secret,projected,downwardapi} and pkg/kubelet/kubelet_pods.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from warmstart.core.quantity import whole_bytes
from warmstart.core.yaml_document import KeyPath, shown
from warmstart.recipe.model import Volume, VolumeFile, VolumeKind, VolumeMount
from warmstart.recipe.sources import Block, Report, Sources, list_names, resource_amount
from warmstart.recipe.variables import expand, list_references

_MODE = 0o644
# Paths that the container's own mounts need, and the launcher's.
_TAKEN = ("/dev", "/proc", "/sys", "/.warmstart")
_MAY_HOLD_MOUNTS = frozenset({"/dev"})


#: A JSON Web Token without claims and signature (RFC 7519, section 6): {"alg":"none","typ":"JWT"} and {}.
TOKEN = b"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.e30."


class Volumes:
    """The volumes of a pod, made for the containers that mount them.

    Args:
        blocks: the pod's volumes, checked by the schema.
        path: of the list in the recipe.
        resources: of the container, for downwardAPI.
        sources: answers their references.
        report: takes the path and the message of each problem.
    """

    def __init__(
        self, blocks: Sequence[Block], path: KeyPath, resources: Block, sources: Sources, report: Report
    ) -> None:
        self._blocks = {block["name"]: (index, block) for index, block in enumerate(blocks)}
        self._path = path
        self._resources = resources
        self._sources = sources
        self._report = report
        self._made: dict[str, Volume] = {}

    def mounts(self, container: Block, variables: Mapping[str, str], path: KeyPath) -> tuple[VolumeMount, ...]:
        """Return the mounts of a container at `path`."""
        found: dict[str, VolumeMount] = {}
        for index, block in enumerate(container.get("volumeMounts", [])):
            where = (*path, "volumeMounts", index)
            mount = self._mount(block, variables, where)
            if mount is None:
                continue
            if mount.path in found:
                self._report((*where, "mountPath"), f"{mount.path} is mounted twice: delete one of the mounts")
            found[mount.path] = mount
        return tuple(found.values())

    def _mount(self, block: Block, variables: Mapping[str, str], path: KeyPath) -> VolumeMount | None:
        name, target = block["name"], posixpath.normpath("/" + block["mountPath"].lstrip("/"))
        if name not in self._blocks:
            self._report((*path, "name"), f"there is no volume {name}; volumes has: {list_names(self._blocks)}")
            return None
        if taken := _find_taken(target):
            where = "other than" if taken == "/" else "outside"
            self._report((*path, "mountPath"), f"expected a path {where} {taken}, which a container needs itself")
            return None
        volume, sub_path = self._volume(name), self._sub_path(block, variables, path)
        is_files = volume.kind is VolumeKind.FILES
        if is_files and sub_path and volume.files and not _is_in(volume, sub_path):
            files = list_names(file.path for file in volume.files)
            self._report(path, f"the volume {name} has no {shown(sub_path)}; its files are: {files}")
        # The kubelet mounts volumes that it writes itself read-only.
        return VolumeMount(volume, target, read_only=is_files or block.get("readOnly", False), sub_path=sub_path)

    def _sub_path(self, block: Block, variables: Mapping[str, str], path: KeyPath) -> str:
        text: str = block.get("subPath", "")
        if "subPathExpr" in block:
            if text:
                self._report((*path, "subPathExpr"), "expected either subPath or subPathExpr, not both")
            written = block["subPathExpr"]
            unknown = [name for name in list_references(written) if name not in variables]
            if unknown:
                self._report((*path, "subPathExpr"), f"there is no variable {shown(unknown[0])} for $(...)")
            text = expand(written, variables)
        text = posixpath.normpath(text) if text else ""
        if text.startswith("/") or ".." in text.split("/"):
            self._report(path, f"expected a relative path without '..', got {shown(text)}")
            return ""
        return "" if text == "." else text

    def _volume(self, name: str) -> Volume:
        if name not in self._made:
            index, block = self._blocks[name]
            self._made[name] = self._make(name, block, (*self._path, index))
        return self._made[name]

    def _make(self, name: str, block: Block, path: KeyPath) -> Volume:
        kind = next((key for key in block if key != "name"), "emptyDir")
        source, where = block.get(kind, {}), (*path, kind)
        if kind == "emptyDir":
            in_memory, size = source.get("medium") == "Memory", source.get("sizeLimit")
            limit = whole_bytes(size) if size is not None and in_memory else None
            return Volume(name, VolumeKind.EMPTY_DIR, in_memory=in_memory, size_limit_bytes=limit or None)
        if kind in ("persistentVolumeClaim", "ephemeral"):
            return Volume(name, VolumeKind.LASTING)
        mode = source.get("defaultMode", _MODE)
        parts = source.get("sources", []) if kind == "projected" else [{kind: source}]
        files: dict[str, VolumeFile] = {}
        for index, part in enumerate(parts):
            inner = (*where, "sources", index) if kind == "projected" else path
            for file in self._files(part, mode, inner):
                files[file.path] = file
        if "." in files:
            self._report(path, f"expected a path other than . for a file of the volume {name}")
        directories = {file[:end] for file in files for end, letter in enumerate(file) if letter == "/"}
        for both in directories & files.keys():
            self._report(path, f"{shown(both)} is both a file and a directory of the volume {name}")
        return Volume(name, VolumeKind.FILES, tuple(files.values()))

    def _files(self, part: Block, mode: int, path: KeyPath) -> Iterator[VolumeFile]:
        """Yield the files of one source: {configMap: ...}, {secret: ...}, {downwardAPI: ...} or a token."""
        ((kind, source),) = part.items()
        where = (*path, kind)
        if kind == "serviceAccountToken":
            yield VolumeFile(posixpath.normpath(source["path"]), TOKEN, mode)
        elif kind == "downwardAPI":
            for item in source.get("items", []):
                text = self._field(item)
                yield VolumeFile(posixpath.normpath(item["path"]), text.encode(), item.get("mode", mode))
        else:
            yield from self._keys(kind, source, mode, where)

    def _field(self, item: Block) -> str:
        if "fieldRef" in item:
            return self._sources.field(item["fieldRef"]["fieldPath"])
        return resource_amount(item["resourceFieldRef"], self._resources)

    def _keys(self, kind: str, source: Block, mode: int, path: KeyPath) -> Iterator[VolumeFile]:
        name, optional = source.get("secretName") or source["name"], source.get("optional", False)
        if "items" in source:
            for index, item in enumerate(source["items"]):
                where = (*path, "items", index)
                data = (
                    self._sources.secret_key(name, item["key"], where, optional=optional)
                    if kind == "secret"
                    else self._sources.config_key(name, item["key"], where, optional=optional, binary=True)
                )
                if data is not None:
                    yield VolumeFile(posixpath.normpath(item["path"]), data, item.get("mode", mode))
            return
        if kind == "secret":
            found = self._sources.secret(name, path, optional=optional)
        else:
            found, _ = self._sources.config_map(name, path, optional=optional)
        for key, data in found.items():
            yield VolumeFile(key, data, mode)


def _find_taken(target: str) -> str:
    if target == "/":
        return target
    for taken in _TAKEN:
        if target == taken or (target.startswith(f"{taken}/") and taken not in _MAY_HOLD_MOUNTS):
            return taken
    return ""


def _is_in(volume: Volume, sub_path: str) -> bool:
    return any(file.path == sub_path or file.path.startswith(f"{sub_path}/") for file in volume.files)
