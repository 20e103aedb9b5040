"""Prepare a checkpoint for an image that CRI-O restores.

CRI-O restores an image with the manifest annotation CHECKPOINT_NAME. It mounts the image, reads config.dump and
spec.dump at its root, and makes the container's file system from the image that config.dump names: here the very
same image, so that a node needs nothing else. The files that the checkpoint adds to the root are listed in
deleted.files, so that they vanish from the restored filesystem.
Source: server/container_restore.go and internal/lib/restore.go of cri-o/cri-o.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.archive import (
    CONFIG_DUMP,
    CONTAINER_LOG,
    DELETED_FILES,
    DUMP_LOG,
    SPEC_DUMP,
    STATS_DUMP,
    Archive,
)
from warmstart.dump.archive.metadata import Mount, Spec, load_json

CHECKPOINT_NAME = "io.kubernetes.cri-o.annotations.checkpoint.name"

# Logs of the build: useless to those who pull the image, and possibly private.
LEFT_OUT = (DUMP_LOG, STATS_DUMP, CONTAINER_LOG)

# In spec.dump: the annotations of the container as given to the runtime, as JSON in a string.
_GIVEN = "io.kubernetes.cri-o.Annotations"
# Set by the kubelet on containers (pkg/kubelet/kuberuntime/labels.go of kubernetes/kubernetes). It restarts a container
# if the hash differs from its pod's, and CRI-O passes the pod's on only if the checkpoint has one.
_KUBELET_ANNOTATIONS = {
    "io.kubernetes.container.hash": "0",
    "io.kubernetes.container.restartCount": "0",
    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
    "io.kubernetes.container.terminationMessagePolicy": "File",
}

# `ignoreMounts` in CRI-O's server/container_restore.go.
_OWN_MOUNTS = frozenset(
    {
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/shm",  # noqa: S108 - a path in the container
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/passwd",
        "/etc/group",
        "/run/secrets",
        "/run/.containerenv",
    }
)


def list_expected_mounts(spec: Spec) -> tuple[Mount, ...]:
    """List the mounts that the restoring pod must have too, or CRI-O refuses the restore."""
    return tuple(mount for mount in spec.mounts if mount.destination not in _OWN_MOUNTS)


def list_given_annotations(spec: Spec) -> tuple[str, ...]:
    """List the keys of the annotations that CRI-O was given for a container and passes on at a restore.

    Raises:
        ArchiveError: they are not as CRI-O writes them.
    """
    given = load_json(spec.annotations.get(_GIVEN, "null").encode(), f"the annotation {_GIVEN}")
    if given is not None and not isinstance(given, dict):
        raise ArchiveError(f"the annotation {_GIVEN} is not a JSON object")
    return tuple(given or ())


def prepare_checkpoint(archive: Archive, image_name: str, *, log_line: str = "") -> int:
    """Turn an unpacked archive into the files to add at the root of the image `image_name`.

    The log of a restored container then begins with `log_line`; that of a cold start does not.

    Returns:
        The size of these files in bytes.

    Raises:
        ArchiveError: CRI-O could not read the archive.
    """
    for name in LEFT_OUT:
        (archive.root / name).unlink(missing_ok=True)
    if log_line:
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        (archive.root / CONTAINER_LOG).write_text(f"{moment} stdout F {log_line}\n")
    _rewrite_config(archive.root / CONFIG_DUMP, image_name)
    _rewrite_spec(archive.root / SPEC_DUMP)
    added = sorted({*(entry.name for entry in archive.root.iterdir()), DELETED_FILES})
    deleted = [*archive.deleted_files, *(f"/{name}" for name in added)]
    (archive.root / DELETED_FILES).write_text(json.dumps(deleted))
    return sum(file.stat().st_size for file in archive.root.rglob("*") if file.is_file())


def _rewrite_config(path: Path, image_name: str) -> None:
    """Have CRI-O take the root filesystem from the image itself.

    With `rootfsImageRef` it would look for the base image by its id and fail on a node that never pulled it.
    """
    config = json.loads(path.read_text())
    config.pop("rootfsImageRef", None)
    config["rootfsImageName"] = config["rootfsImage"] = image_name
    path.write_text(json.dumps(config))


def _rewrite_spec(path: Path) -> None:
    """Make a kubelet recognize the restored container as its own.

    Raises:
        ArchiveError: the annotations are not as CRI-O writes them.
    """
    spec = json.loads(path.read_text())
    annotations = spec.setdefault("annotations", {})
    try:
        # CRI-O writes null if there are none.
        given = dict(json.loads(annotations.get(_GIVEN, "null")) or {})
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{path.name}: the annotation {_GIVEN} is not a JSON object") from error
    annotations[_GIVEN] = json.dumps({**_KUBELET_ANNOTATIONS, **given})
    path.write_text(json.dumps(spec))
