"""Build checkpoint archives as CRI-O writes them (`exportCheckpoint`, internal/lib/checkpoint.go), and variations."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ID = "3f" * 32
ROOTFS_REF = "a1" * 32
LOG = "io.kubernetes.cri-o.LogPath"
PAGES = bytes(range(256)) * 48

CONFIG = {
    "id": ID,
    "name": "k8s_app_pod_default_0f1e_0",
    "rootfsImage": "localhost/java-app:1.0",
    "rootfsImageRef": ROOTFS_REF,
    "rootfsImageName": "localhost/java-app:1.0",
    "runtime": "runc",
    "createdTime": "2026-03-01T10:00:00.123456789Z",
    "checkpointedTime": "2026-03-01T12:00:05.5+02:00",
    "restoredTime": "0001-01-01T00:00:00Z",
    "restored": False,
}

SPEC = {
    "ociVersion": "1.2.1",
    "process": {
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 2000]},
        "args": ["java", "-jar", "/app.jar"],
        "env": ["PATH=/of/the/runtime", "PATH=/usr/bin:/bin", "GREETING=two\nlines"],
        "cwd": "/app/",
        "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
    },
    "root": {"path": "/var/lib/containers/storage/overlay/x/merged"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/0f1e/etc-hosts"},
    ],
    "annotations": {
        "io.kubernetes.cri-o.Annotations": "{}",
        "io.kubernetes.cri-o.ContainerID": ID,
        "io.kubernetes.cri-o.Metadata": '{"name":"app"}',
        "io.kubernetes.cri-o.LogPath": "/var/log/pods/default_pod_0f1e/app/0.log",
    },
    "linux": {"maskedPaths": ["/proc/kcore"], "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
}

BIND_MOUNTS = [
    {
        "source": "/var/lib/kubelet/pods/0f1e/etc-hosts",
        "destination": "/etc/hosts",
        "file_type": "file",
        "permissions": 0o644,
    }
]

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: Any) -> Entry:
    """Return a member: a directory if the name ends with a slash, else a file. `fields` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.mode = 0o700 if name.endswith("/") else 0o600
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return entry(name, type=kind, linkname=to)


def tar_of(*entries: Entry, end: bytes = bytes(1024)) -> bytes:
    """Return a tar as Go's archive/tar writes it: with ustar headers, and pax headers if those do not suffice."""
    out = io.BytesIO()
    for info, content in entries:
        out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        out.write(content + bytes(-len(content) % 512))
    return out.getvalue() + end


def text(value: object) -> bytes:
    return json.dumps(value, indent=2).encode()


ROOTFS_DIFF = tar_of(
    entry("tmp/"),
    entry("tmp/é" + "n" * 120, b"new"),
    link("tmp/hard", "tmp/é" + "n" * 120, tarfile.LNKTYPE),
    link("tmp/soft", "/etc/hosts"),
    entry("tmp/pipe", type=tarfile.FIFOTYPE),
    entry("usr/bin/tool", b"#!", mode=0o4755),
)


def crio(**replaced: Entry | bytes | None) -> list[Entry]:
    """Return the members that CRI-O writes, in its order. Replace members by name, or omit them with None."""
    content: dict[str, bytes] = {
        "stats-dump": b"\x13\x40stats",
        "dump.log": b"(00.000000) Version: 4.2\n",
        "checkpoint/": b"",
        "checkpoint/core-1.img": b"core",
        "checkpoint/descriptors.json": b"[]",
        "checkpoint/inventory.img": b"inventory",
        "checkpoint/pages-1.img": PAGES,
        "config.dump": text(CONFIG),
        "spec.dump": text(SPEC),
        "bind.mounts": text(BIND_MOUNTS),
        "rootfs-diff.tar": ROOTFS_DIFF,
        "deleted.files": text(["/var/cache/app", "/etc/motd"]),
        LOG: b"2026-03-01T10:00:01Z stdout F started\n",
    }
    assert replaced.keys() <= content.keys()
    members = []
    for name, usual in content.items():
        other = replaced.get(name, usual)
        if other is not None:
            members.append(entry(name, other) if isinstance(other, bytes) else other)
    return members


def replaced(name: str, content: bytes | Entry) -> bytes:
    """Return the good archive with a member or its content replaced."""
    return tar_of(*crio(**{name: content}))


def with_diff(*entries: Entry, deleted: object = ()) -> bytes:
    """Return the good archive with other changes to the root filesystem."""
    return tar_of(*crio(**{"rootfs-diff.tar": tar_of(*entries), "deleted.files": text(list(deleted))}))


GOOD = tar_of(*crio())


@contextmanager
def untouched_around(root: Path) -> Iterator[Path]:
    """Yield a directory to unpack in. Assert that no file outside it is changed and that no descriptor stays open."""
    (root / "outside").mkdir()
    (root / "outside/secret").write_text("untouched")
    (root / "inside").mkdir()
    before = tree(root)
    descriptors = open_files()
    yield root / "inside"
    assert {path: file for path, file in tree(root).items() if not path.startswith("inside/")} == before
    assert open_files() == descriptors


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/dev/fd").iterdir())


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of everything below a directory, by path; files above 1 MiB have no content."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size <= 1 << 20
        found[str(path.relative_to(root))] = (status.st_mode, path.read_bytes() if small else b"")
    return found


def write(directory: Path, data: bytes) -> Path:
    path = directory / "a.tar"
    path.write_bytes(data)
    return path
