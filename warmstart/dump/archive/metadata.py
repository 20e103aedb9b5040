"""Read the JSON members of a checkpoint archive: config.dump, spec.dump, bind.mounts, deleted.files.

CRI-O and Podman write them (`prepareCheckpointExport` in CRI-O's internal/lib/checkpoint.go, `ContainerConfig` in
checkpointctl's lib/metadata.go, `Spec` in the OCI runtime specification). They are untrusted, so every field is checked
as it is read. JSON that Go's encoding/json would read differently is refused: Go uses the last of two equal keys, and
ignores the case of keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from warmstart.core.errors import ArchiveError
from warmstart.core.untrusted_json import JsonError, parse_json
from warmstart.dump.archive.tarball import MAX_NAME_BYTES, quoted

CONTAINER_ID_ANNOTATION = "io.kubernetes.cri-o.ContainerID"
METADATA_ANNOTATION = "io.kubernetes.cri-o.Metadata"

_MAX_UID = 2**32 - 1

_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True)
class ContainerConfig:
    """The archive's config.dump.

    Attributes:
        id: id of the checkpointed container, 64 hexadecimal digits.
        name: full name of the container, for CRI-O `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
        created: time of the container's creation.
        checkpointed: time of the checkpoint; None if the runtime does not record it.
        rootfs_image: the base image as the user requested it.
        rootfs_image_name: a name of the base image.
        rootfs_image_ref: for CRI-O the base image's id, 64 hexadecimal digits; empty if absent.
        runtime: the OCI runtime, or CRI-O's handler for it.
    """

    id: str
    name: str
    created: datetime
    checkpointed: datetime | None
    rootfs_image: str
    rootfs_image_name: str
    rootfs_image_ref: str
    runtime: str


@dataclass(frozen=True)
class User:
    """User ids of the container's process."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Capabilities:
    """The capability sets of the container's process, such as CAP_CHOWN."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    inheritable: tuple[str, ...]
    permitted: tuple[str, ...]
    ambient: tuple[str, ...]


@dataclass(frozen=True)
class Mount:
    """A mount of the container; `source` is a path on the node for a bind mount, else a filesystem's name."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """Relevant parts of the archive's spec.dump, the container's OCI runtime configuration.

    Attributes:
        args: the command line, never empty.
        env: the environment as NAME=VALUE, in order.
        cwd: the working directory, absolute.
        annotations: all annotations; CRI-O's own begin with `io.kubernetes.cri-o.`.
        container_name: the container's name in its pod, from CRI-O's metadata annotation; empty if absent.
        no_new_privs: whether its process may gain no privileges.
        filtered: whether the runtime set a system call filter.
        apparmor: the AppArmor profile; empty if absent.
        devices: paths of its devices.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    capabilities: Capabilities
    mounts: tuple[Mount, ...]
    annotations: Mapping[str, str]
    container_name: str
    no_new_privs: bool = False
    filtered: bool = False
    apparmor: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class BindMount:
    """An entry of bind.mounts: type and permissions for a missing bind mount source, created at the restore.

    `file_type` is `file` or `directory`, `permissions` the nine permission bits.
    """

    source: str
    destination: str
    file_type: str
    permissions: int


def parse_config(data: bytes, where: str) -> ContainerConfig:
    """Read config.dump; `where` names it in messages.

    Raises:
        ArchiveError: it is not JSON, or a field is missing or not of its type.
    """
    config = _Object(load_json(data, where), where)
    container_id = config.line("id")
    if not re.fullmatch("[0-9a-f]{64}", container_id):
        config.refuse("id", f"is {quoted(container_id)}; expected 64 hexadecimal digits")
    created = config.moment("createdTime")
    if created is None:
        config.refuse("createdTime", "is missing")
    return ContainerConfig(
        id=container_id,
        name=config.line("name"),
        created=created,
        checkpointed=config.moment("checkpointedTime"),
        rootfs_image=config.line("rootfsImage", default=""),
        rootfs_image_name=config.line("rootfsImageName", default=""),
        rootfs_image_ref=config.line("rootfsImageRef", default=""),
        runtime=config.line("runtime", default=""),
    )


def parse_spec(data: bytes, where: str) -> Spec:
    """Read spec.dump; `where` names it in messages.

    Raises:
        ArchiveError: it is not JSON, or a field is missing or not of its type.
    """
    spec = _Object(load_json(data, where), where)
    process = spec.section("process")
    args = process.texts("args")
    if not args:
        process.refuse("args", "is missing or empty")
    user = process.section("user")
    capabilities = process.section("capabilities")
    annotations = spec.mapping("annotations")
    linux = spec.section("linux")
    return Spec(
        args=args,
        env=process.texts("env"),
        cwd=process.path("cwd"),
        user=User(
            user.integer("uid", maximum=_MAX_UID),
            user.integer("gid", maximum=_MAX_UID),
            user.integers("additionalGids", maximum=_MAX_UID),
        ),
        capabilities=Capabilities(**{field: capabilities.texts(field) for field in Capabilities.__dataclass_fields__}),
        mounts=tuple(
            Mount(
                mount.destination("destination"),
                mount.text("type", default=""),
                mount.text("source", default=""),
                mount.texts("options"),
            )
            for mount in spec.sections("mounts")
        ),
        annotations=annotations,
        container_name=_container_name(annotations, where),
        no_new_privs=process.boolean("noNewPrivileges"),
        filtered=linux.has("seccomp"),
        apparmor=process.text("apparmorProfile", default=""),
        devices=tuple(device.text("path") for device in linux.sections("devices")),
    )


def parse_bind_mounts(data: bytes, where: str) -> tuple[BindMount, ...]:
    """Read bind.mounts; `where` names it in messages.

    CRI-O creates missing sources on the node as root, so they must be plain absolute paths with plain permissions.

    Raises:
        ArchiveError: it is not JSON, or a field is missing or not of its type.
    """
    mounts = []
    for entry in _listing(data, where).sections(""):
        file_type = entry.line("file_type")
        if file_type not in ("file", "directory"):
            entry.refuse("file_type", f"is {quoted(file_type)}; expected file or directory")
        mounts.append(
            BindMount(
                source=entry.path("source"),
                destination=entry.destination("destination"),
                file_type=file_type,
                permissions=entry.integer("permissions", maximum=0o777),
            )
        )
    return tuple(mounts)


def parse_deleted_files(data: bytes, where: str) -> tuple[str, ...]:
    """Read deleted.files, paths of the container's root that CRI-O removes at the restore.

    Raises:
        ArchiveError: it is not JSON, not a list of strings, or a path is not a plain absolute one
            or is the root itself.
    """
    listing = _listing(data, where)
    paths = listing.texts("")
    for index, path in enumerate(paths):
        below_root = _is_safe_absolute(path) and not {"", "."}.issuperset(path.split("/"))
        if not below_root or len(path) > MAX_NAME_BYTES:
            listing.refuse(f"[{index}]", f"is {quoted(path)}; expected an absolute path below / without '..'")
    return paths


def load_json(data: bytes, where: str) -> object:
    """Parse JSON as `parse_json` does, without duplicate keys; `where` names the document in messages.

    Raises:
        ArchiveError: it is not such JSON.
    """
    try:
        return parse_json(data, unique_keys=True)
    except JsonError as error:
        raise ArchiveError(f"{where} {error}") from error


def _container_name(annotations: Mapping[str, str], where: str) -> str:
    text = annotations.get(METADATA_ANNOTATION)
    if text is None:
        return ""
    location = f"{where}: the annotation {METADATA_ANNOTATION}"
    return _Object(load_json(text.encode(), location), location).line("name", default="")


def _listing(data: bytes, where: str) -> _Object:
    """Wrap a JSON list as the field with the empty name, so that messages refer to its entries as `[0]`."""
    return _Object({"": load_json(data, where)}, where)


def _is_safe_absolute(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/")


class _Object:
    """A JSON object, read field by field. null counts as absent, as in Go."""

    def __init__(self, value: object, where: str, path: str = "") -> None:
        self._where = where
        self._path = path
        if not isinstance(value, dict):
            raise ArchiveError(f"{where}{_at(path)} is {_type(value)}; expected an object")
        self._values: dict[str, object] = value

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise ArchiveError(f"{self._where}{_at(self._under(key))} {problem}")

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._get(key)
        if value is None and default is not None:
            return default
        return self._text(key, value)

    def line(self, key: str, *, default: str | None = None) -> str:
        """Read a string that is printable on one line."""
        text = self.text(key, default=default)
        if not text.isprintable():
            self.refuse(key, f"is {quoted(text)}; expected printable characters")
        return text

    def path(self, key: str) -> str:
        text = self.text(key)
        if not _is_safe_absolute(text):
            self.refuse(key, f"is {quoted(text)}; expected an absolute path without '..'")
        return text

    def destination(self, key: str) -> str:
        """Read a mount point. CRIU before 4.3.1 stores it as `mnt[PATH]:SOURCE` (CVE-2026-119614)."""
        text = self.path(key)
        if "]:" in text or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            self.refuse(key, f"is {quoted(text)}, which holds ]: or a control character")
        return text

    def moment(self, key: str) -> datetime | None:
        text = self.line(key, default="")
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.refuse(key, f"is {quoted(text)}; expected a time as in RFC 3339")
        return moment

    def integer(self, key: str, *, maximum: int) -> int:
        """Read a non-negative whole number; 0 if absent, since Go leaves out zeros."""
        value = self._get(key)
        return 0 if value is None else self._integer(key, value, maximum)

    def boolean(self, key: str) -> bool:
        """Read a boolean; false if absent."""
        value = self._get(key)
        if value is not None and not isinstance(value, bool):
            self.refuse(key, f"is {_type(value)}; expected a boolean")
        return bool(value)

    def has(self, key: str) -> bool:
        """Whether the section exists and is not empty."""
        return bool(self.section(key)._values)

    def integers(self, key: str, *, maximum: int) -> tuple[int, ...]:
        return tuple(self._integer(f"{key}[{index}]", value, maximum) for index, value in enumerate(self._list(key)))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._text(f"{key}[{index}]", value) for index, value in enumerate(self._list(key)))

    def mapping(self, key: str) -> Mapping[str, str]:
        section = self.section(key)
        return {section._text(name, name): section._text(name, value) for name, value in section._values.items()}

    def section(self, key: str) -> _Object:
        value = self._get(key)
        return _Object({} if value is None else value, self._where, self._under(key))

    def sections(self, key: str) -> tuple[_Object, ...]:
        return tuple(
            _Object(value, self._where, self._under(f"{key}[{index}]")) for index, value in enumerate(self._list(key))
        )

    def _get(self, key: str) -> object:
        for other in self._values:
            if other != key and other.casefold() == key.casefold():
                self.refuse(key, f"is written {quoted(other)}, which runtimes take for the same")
        return self._values.get(key)

    def _list(self, key: str) -> Sequence[object]:
        value = self._get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(key, f"is {_type(value)}; expected a list")
        return value

    def _text(self, key: str, value: object) -> str:
        if value is None:
            self.refuse(key, "is missing")
        if not isinstance(value, str):
            self.refuse(key, f"is {_type(value)}; expected a string")
        if "\0" in value:
            self.refuse(key, "holds a NUL character")
        return value

    def _integer(self, key: str, value: object, maximum: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"is {_type(value)}; expected a whole number")
        if not 0 <= value <= maximum:
            self.refuse(key, f"is {value}; expected 0 to {maximum}")
        return value

    def _under(self, key: str) -> str:
        joint = "." if self._path and not key.startswith("[") else ""
        return f"{self._path}{joint}{key}"


def _at(path: str) -> str:
    if not path:
        return ""
    return f": {path}" if path.isprintable() else f": {quoted(path)}"


def _type(value: object) -> str:
    return _TYPES.get(type(value), "a number")
