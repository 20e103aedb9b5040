"""What CRI-O needs to find in an image that it is to restore, and what other people should find in it.

CRI-O restores an image whose manifest has the annotation CHECKPOINT_NAME. It mounts the image, reads config.dump and
spec.dump at its root, and makes the container's file system from the image that config.dump names: here the very
same image, so that a node needs nothing else. What the checkpoint added to the root is named in deleted.files, so
that it vanishes from the restored file system.
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

# Logs of the build: nobody who pulls the image has a use for them, and they may hold what is nobody else's business.
LEFT_OUT = (DUMP_LOG, STATS_DUMP, CONTAINER_LOG)

# In spec.dump: the annotations that the runtime was given for the container, as JSON in a string.
_GIVEN = "io.kubernetes.cri-o.Annotations"
# What the kubelet notes on a container (pkg/kubelet/kuberuntime/labels.go of kubernetes/kubernetes). It restarts one
# whose hash is not that of its pod, and CRI-O hands on the pod's only where the checkpoint has one.
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
        "/dev/shm",  # noqa: S108 - a place in the container
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/passwd",
        "/etc/group",
        "/run/secrets",
        "/run/.containerenv",
    }
)


def list_expected_mounts(spec: Spec) -> tuple[Mount, ...]:
    """The mounts of a checkpointed container that CRI-O restores only into a pod that has them as well."""
    return tuple(mount for mount in spec.mounts if mount.destination not in _OWN_MOUNTS)


def list_given_annotations(spec: Spec) -> tuple[str, ...]:
    """The keys of the annotations that CRI-O was given for a container, and hands on at a restore.

    Raises:
        ArchiveError: they are not as CRI-O writes them.
    """
    given = load_json(spec.annotations.get(_GIVEN, "null").encode(), f"the annotation {_GIVEN}")
    if given is not None and not isinstance(given, dict):
        raise ArchiveError(f"the annotation {_GIVEN} is not a JSON object")
    return tuple(given or ())


def prepare_checkpoint(archive: Archive, image_name: str, *, log_line: str = "") -> int:
    """Turn an unpacked archive into what is to be added at the root of the image called `image_name`.

    CRI-O lets the log of a restored container begin with `log_line`, and that of one that starts cold not.

    Returns:
        The bytes that the image is to carry.

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
    """Have CRI-O take the root file system from the image itself.

    With `rootfsImageRef` it would look for the base image by its id, which a node that never pulled it has not.
    """
    config = json.loads(path.read_text())
    config.pop("rootfsImageRef", None)
    config["rootfsImageName"] = config["rootfsImage"] = image_name
    path.write_text(json.dumps(config))


def _rewrite_spec(path: Path) -> None:
    """Let a kubelet take the restored container for its own.

    Raises:
        ArchiveError: the annotations are not as CRI-O writes them.
    """
    spec = json.loads(path.read_text())
    annotations = spec.setdefault("annotations", {})
    try:
        # A runtime that was given none writes null.
        given = dict(json.loads(annotations.get(_GIVEN, "null")) or {})
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{path.name}: the annotation {_GIVEN} is not a JSON object") from error
    annotations[_GIVEN] = json.dumps({**_KUBELET_ANNOTATIONS, **given})
    path.write_text(json.dumps(spec))
