"""Helper pods: short-lived pods on a node that stream a checkpoint off it.

The kubelet leaves the archive in a directory that only the node's root may read, and the API cannot read it. So a pod
is pinned to the node, with this one directory mounted, and `cat` writes the archive to us. It comes through the API
server, like the output of any command, and not through a container network.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from warmstart.core.errors import ClusterError
from warmstart.core.undo import undoing
from warmstart.kube.client import Cluster, Head, PodTimeoutError
from warmstart.kube.pods import Pod, make_helper
from warmstart.kube.refusal import RefusedError

DEFAULT_IMAGE = "docker.io/library/busybox:1.37"
DEFAULT_NAMESPACE = "warmstart"
DEFAULT_DIRECTORY = "/var/lib/kubelet/checkpoints"
START_S = 120.0
SILENCE_S = 60.0
# The kubelet's names (`CheckpointContainer` in pkg/kubelet/kubelet.go); no other file is read or removed.
_ARCHIVE = re.compile(r"checkpoint-[A-Za-z0-9_.:+-]+\.tar")
_SIZE = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True)
class Errand:
    """How archives are fetched from a node.

    Attributes:
        image: image of the pod, with `cat`, `stat`, `rm` and `sleep`.
        namespace: namespace of the pod.
        directory: the kubelet's directory for archives.
        sees_processes: whether the pod sees the node's processes, to compare the kernel state of containers.
    """

    image: str = DEFAULT_IMAGE
    namespace: str = DEFAULT_NAMESPACE
    directory: str = DEFAULT_DIRECTORY
    sees_processes: bool = False


@dataclass(frozen=True)
class Helper:
    """A running helper pod."""

    cluster: Cluster
    pod: Pod
    directory: str

    def read_size(self, path: str) -> int:
        """Return the size in bytes of the archive at this path on the node.

        Raises:
            ClusterError: it is missing, or in another directory.
        """
        said = Head()
        self.run(["stat", "-c", "%s", self._find(path)], said.write)
        text = bytes(said.data).strip()
        if not _SIZE.fullmatch(text):
            raise ClusterError(f"the helper on the node {self.pod.node} gives {text[:80]!r} as the size of {path}")
        return int(text)

    def read(self, path: str, write: Callable[[bytes], object], timeout_s: float = math.inf) -> None:
        """Pass on an archive, piece by piece.

        Raises:
            TimeoutError: it took longer than `timeout_s`, or no data came for a minute.
            ClusterError: it could not be read to its end.
        """
        self.run(["cat", self._find(path)], write, timeout_s)

    def read_cpuinfo(self) -> str:
        """Return the node's /proc/cpuinfo."""
        said = Head()
        self.run(["cat", "/proc/cpuinfo"], said.write)
        return said.data.decode(errors="replace")

    def remove(self, path: str) -> None:
        """Remove an archive from the node."""
        self.run(["rm", self._find(path)], lambda _: None)

    def _find(self, path: str) -> str:
        where = PurePosixPath(path)
        if str(where.parent) != self.directory:
            hint = f"name that directory with --checkpoints-dir {where.parent}"
            raise ClusterError(f"the kubelet left the archive at {path}, not in {self.directory}", hint=hint)
        if not _ARCHIVE.fullmatch(where.name):
            raise ClusterError(f"the kubelet returned {path!r:.200}, and this is not a checkpoint")
        return f"/checkpoints/{where.name}"

    def run(self, command: Sequence[str], write: Callable[[bytes], object], timeout_s: float = math.inf) -> None:
        """Run a command in the pod, and pass on its standard output.

        Raises:
            TimeoutError: it took longer than `timeout_s`, or no data came for a minute.
            ClusterError: it failed.
        """
        end = self.cluster.exec(self.pod, "helper", command, write=write, timeout_s=timeout_s, silence_s=SILENCE_S)
        if end.exit_code:
            brief = f"{command[0]} failed on the node {self.pod.node}, with exit code {end.exit_code}"
            raise ClusterError(brief, details=end.stderr.splitlines()[-5:])


@contextlib.contextmanager
def open_helper(cluster: Cluster, node: str, errand: Errand, *, writable: bool) -> Iterator[Helper]:
    """Run a helper pod on a node, for the length of a `with` block.

    Args:
        cluster: the cluster.
        node: the node.
        errand: image, namespace and directory.
        writable: whether it may remove archives.

    Raises:
        RefusedError: the pod may not be created.
        ClusterError: the pod does not start.
    """
    name = f"warmstart-helper-{secrets.token_hex(4)}"
    manifest = make_helper(
        name,
        errand.namespace,
        node,
        errand.image,
        errand.directory,
        writable=writable,
        sees_processes=errand.sees_processes,
    )
    with undoing(lambda: cluster.delete_pod(errand.namespace, name)):
        try:
            pod = cluster.create_pod(manifest)
        except RefusedError as refusal:
            raise _explain(refusal, errand) from refusal
        yield Helper(cluster, _await(cluster, pod, errand), errand.directory)


def _await(cluster: Cluster, pod: Pod, errand: Errand) -> Pod:
    hint = f"the cluster must be able to pull {errand.image}; name another one with --helper-image"
    try:
        pod = cluster.wait_pod(pod, lambda now: now.ready or now.stuck, START_S)
    except PodTimeoutError as late:
        brief = f"the helper did not start on the node {pod.node} within {START_S:g} s"
        raise ClusterError(brief, details=late.pod.explain(), hint=hint) from late
    if not pod.ready:
        raise ClusterError(f"the helper does not start on the node {pod.node}", details=pod.explain(), hint=hint)
    return pod


def _explain(refusal: RefusedError, errand: Errand) -> RefusedError:
    """Add a hint for the two reasons that only an administrator can fix."""
    if refusal.status == 404:
        refusal.hint = "make the namespace with `warmstart rbac`, or name another with --helper-namespace"
    elif "violates PodSecurity" in refusal.brief:
        refusal.hint = f"the namespace {errand.namespace} must admit privileged pods, for the helper's hostPath"
    return refusal
