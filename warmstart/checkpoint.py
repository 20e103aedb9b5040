"""Taking a checkpoint of a container in a cluster, and getting its archive off the node.

The kubelet makes the checkpoint; the container goes on afterwards. The helper is started before, so that nothing is
frozen for an archive that could then not be fetched.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from warmstart.core.errors import ArchiveError, CheckpointError, ClusterError, HostError, WarmstartError
from warmstart.core.steps import Steps
from warmstart.core.text import format_bytes
from warmstart.core.undo import call_to_the_end, undoing
from warmstart.dump.archive import STATS_DUMP, Contents, open_tar, read_contents
from warmstart.dump.stats import read_frozen_s
from warmstart.engine.cri import checkpoint_error
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Errand, Helper, open_helper
from warmstart.kube.pods import ContainerState, Pod
from warmstart.kube.refusal import RefusedError

STATS_LIMIT_BYTES = 1 << 16
# What the API server's proxy answers in a kubelet's place.
UNREACHABLE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
# What CRIU says of connections, open and about to be; those of probes last no longer than CLOSING_S, as a rule.
OPEN_CONNECTION = "--tcp-established"
PASSING = (OPEN_CONNECTION, "In-flight connection")
CLOSING_S = 0.7
TRIES = 4


@dataclass(frozen=True)
class CheckpointOptions:
    """How checkpoints are taken.

    Attributes:
        errand: how archives are fetched.
        timeout_s: how long the kubelet may take.
        kubelet_ca: the authority of the kubelets' certificates, should they have to be asked themselves; that of the
            cluster when None.
        keep: whether the archive stays on the node, too; the helper then sees it read-only.
    """

    errand: Errand = field(default_factory=Errand)
    timeout_s: float = 120.0
    kubelet_ca: Path | None = None
    keep: bool = False


@dataclass(frozen=True)
class Taken:
    """A checkpoint that was taken and fetched.

    Attributes:
        pod: whose container it is.
        container: the container.
        archive: the file.
        size_bytes: its size.
        on_node: its path on the node, where it was left there.
        asked: `time.monotonic()` when the kubelet was asked.
        stopped_s: how long the kubelet took; the container stood still for no longer. CRI-O keeps it paused until its
            files are packed, too.
        frozen_s: how long CRIU says that it held the processes; None when it does not say.
    """

    pod: Pod
    container: ContainerState
    archive: Path
    size_bytes: int
    on_node: str | None
    asked: float
    stopped_s: float
    frozen_s: float | None


def find_target(cluster: Cluster, name: str, container: str | None) -> tuple[Pod, ContainerState]:
    """A pod and a container of it that runs.

    Raises:
        ClusterError: there is no such pod or container, or it does not run.
    """
    try:
        pod = cluster.get_pod(cluster.namespace, name)
    except RefusedError as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            hint = "name its namespace with --namespace"
            raise ClusterError(f"there is no pod {name} in the namespace {cluster.namespace}", hint=hint) from refusal
        raise
    found = pod.find_container(container)
    if not found.running:
        why = found.why or f"the pod is {pod.phase}"
        raise ClusterError(f"the container {found.name} of the pod {pod.namespace}/{name} does not run: {why}")
    return pod, found


def take_checkpoint(
    cluster: Cluster, pod: Pod, container: ContainerState, archive: Path, options: CheckpointOptions, steps: Steps
) -> Taken:
    """Take a checkpoint of a container and fetch it; `archive` appears whole or not at all.

    Raises:
        CheckpointError: the kubelet or the runtime could not make it.
        ArchiveError: what came is not a checkpoint archive, or is not to be trusted.
        ClusterError: the cluster refused, or could not be reached.
    """
    with contextlib.ExitStack() as stack:
        with steps.step("helper"):
            helper = stack.enter_context(open_helper(cluster, pod.node, options.errand, writable=not options.keep))
        return take_with(helper, pod, container, archive, options, steps)


def take_with(
    helper: Helper,
    pod: Pod,
    container: ContainerState,
    archive: Path,
    options: CheckpointOptions,
    steps: Steps,
    deadline: float = math.inf,
) -> Taken:
    """As `take_checkpoint`, with a helper that runs already; until `time.monotonic()` is `deadline`."""
    with steps.step("checkpoint"):
        # The kubelet makes the archive even when nobody waits for it, and only its answer says what it is called.
        asked, on_node = call_to_the_end(
            lambda: checkpoint_at_rest(helper.cluster, pod, container.name, options, steps),
            lambda answer: None if options.keep else helper.remove(answer[1]),
        )
        stopped_s = time.monotonic() - asked
    with steps.step("fetch"), told_where(pod.node, on_node), _left_alone(helper, on_node, keep=options.keep):
        contents = fetch_archive(helper, on_node, archive, steps, deadline)
    return Taken(
        pod=pod,
        container=container,
        archive=archive,
        size_bytes=archive.stat().st_size,
        on_node=on_node if options.keep else None,
        asked=asked,
        stopped_s=stopped_s,
        frozen_s=_find_frozen(archive, contents),
    )


def checkpoint_at_rest(
    cluster: Cluster, pod: Pod, container: str, options: CheckpointOptions, steps: Steps
) -> tuple[float, str]:
    """As `ask_kubelet`, and when it was asked; again where a connection was open, such as of the kubelet's probe."""
    for left in reversed(range(TRIES)):
        asked = time.monotonic()
        try:
            return asked, ask_kubelet(cluster, pod, container, options)
        except CheckpointError as error:
            said = "\n".join([error.brief, *error.details])
            if not left or not any(text in said for text in PASSING):
                raise
        steps.note("a connection was open; once more")
        time.sleep(CLOSING_S)
    raise AssertionError


def ask_kubelet(cluster: Cluster, pod: Pod, container: str, options: CheckpointOptions) -> str:
    """Have the kubelet take the checkpoint; where the archive is on the node.

    Raises:
        CheckpointError: the runtime could not.
        ClusterError: the kubelet may not be asked, or does not answer.
    """
    try:
        return cluster.checkpoint(pod, container, options.timeout_s, options.kubelet_ca)
    except RefusedError as refusal:
        if refusal.status == HTTPStatus.FORBIDDEN:
            raise
        if refusal.status in UNREACHABLE:
            brief = f"the kubelet of {pod.node} cannot be reached"
            raise ClusterError(brief, details=[refusal.brief, *refusal.details]) from refusal
        if refusal.status == HTTPStatus.NOT_FOUND and "does not exist" not in refusal.brief:
            hint = "Kubernetes has it since 1.25, on by default since 1.30 (feature gate ContainerCheckpoint)"
            brief = f"the kubelet of {pod.node} has no checkpoint API"
            raise ClusterError(brief, details=[refusal.brief], hint=hint) from refusal
        raise _explain("\n".join([refusal.brief, *refusal.details])) from refusal


def _explain(message: str) -> CheckpointError:
    error = checkpoint_error(message)
    if any(text in message for text in PASSING):
        option = "tcp-established" if OPEN_CONNECTION in message else "skip-in-flight"
        error.hint = f"it has connections: a node dumps it all the same when /etc/criu/runc.conf there says {option}"
    return error


def fetch_archive(helper: Helper, on_node: str, archive: Path, steps: Steps, deadline: float = math.inf) -> Contents:
    """Copy an archive from the node to `archive`, where it appears when all of it is there and was judged.

    Raises:
        ArchiveError: it is not a checkpoint archive, or is not to be trusted.
        ClusterError: it could not be read to its end.
        HostError: `archive` cannot be written.
    """
    size_bytes = helper.read_size(on_node)
    with _beside(archive) as file:
        done = 0

        def write(data: bytes) -> None:
            nonlocal done
            file.write(data)
            done += len(data)
            steps.note(f"{format_bytes(done)} of {format_bytes(size_bytes)}")

        try:
            helper.read(on_node, write, deadline - time.monotonic())
        except TimeoutError as late:
            raise ClusterError(f"only {format_bytes(done)} of the archive came in time") from late
        if done != size_bytes:
            raise ClusterError(f"the archive has {size_bytes} bytes, but {done} came")
        file.flush()
        return read_contents(Path(file.name))


@contextlib.contextmanager
def told_where(node: str, on_node: str) -> Iterator[None]:
    """Where an archive lies that could not be fetched or removed: it holds the container's memory."""
    try:
        yield
    except WarmstartError as error:
        error.details = (*error.details, f"the checkpoint may still be on the node {node}: {on_node}")
        raise


@contextlib.contextmanager
def _left_alone(helper: Helper, on_node: str, *, keep: bool) -> Iterator[None]:
    """Remove the archive from the node at the end, unless it is to be kept."""
    with contextlib.nullcontext() if keep else undoing(lambda: helper.remove(on_node)):
        yield


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target` at the end of the block, and is removed when that fails; only we may read it."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            yield file
        partial.rename(target)
    except OSError as error:
        raise HostError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _find_frozen(archive: Path, contents: Contents) -> float | None:
    member = next((member for member in contents.members if member.name == STATS_DUMP), None)
    if member is None:
        return None
    with open_tar(archive) as tar, tempfile.TemporaryDirectory() as directory, contextlib.suppress(ArchiveError):
        file = Path(directory) / STATS_DUMP
        file.write_bytes(tar.read(member.offset, min(member.size_bytes, STATS_LIMIT_BYTES)))
        return read_frozen_s(file)
    return None
