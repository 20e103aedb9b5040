"""Taking a checkpoint of a container in a cluster, and getting its archive off the node.

The kubelet makes the checkpoint; the container goes on afterwards. The helper is started before, so that nothing is
frozen for an archive that could then not be fetched.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import ArchiveError, CheckpointError, ClusterError, HostError, WarmstartError
from warmstart.core.partial import write_beside
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes
from warmstart.core.undo import call_to_the_end, undoing, undoing_on_error
from warmstart.core.workspace import open_workspace
from warmstart.dump.archive.archive import STATS_DUMP, Contents, open_tar, read_contents
from warmstart.dump.criu.stats import read_frozen_s
from warmstart.dump.state.model import KernelState
from warmstart.engine.cri import checkpoint_error
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Errand, Helper, open_helper
from warmstart.kube.pods import ContainerState, Pod
from warmstart.kube.refusal import RefusedError
from warmstart.pods.kernel_state import read_state_on_node, settle_on_node

STATS_LIMIT_BYTES = 1 << 16
# What the API server's proxy answers in a kubelet's place.
UNREACHABLE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
# What CRIU says of connections, open and about to be; those of probes last no longer than CLOSING_S, as a rule.
OPEN_CONNECTION = "--tcp-established"
PASSING = (OPEN_CONNECTION, "In-flight connection")
CLOSING_S = 0.7
TRIES = 4
# What is said when the kubelet has given its runtime up, or we have given up the kubelet: they do not stop for that.
GIVEN_UP = ("DeadlineExceeded", "no answer within")
# What Go says when there was no connection in the first place.
NOT_CONNECTED = "dial tcp"


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
class FetchedCheckpoint:
    """A fetched checkpoint.

    Attributes:
        pod: its pod.
        container: the container.
        archive: the file.
        size_bytes: its size.
        on_node: its path on the node if it was left there.
        asked: `time.monotonic()` at the request to the kubelet.
        stopped_s: duration of the request; the container stood still for no longer. CRI-O keeps it paused until its
            files are packed too.
        frozen_s: time that the processes were frozen, as CRIU reports it; None if it does not.
        state: kernel state of the container, if the helper sees processes.
    """

    pod: Pod
    container: ContainerState
    archive: Path
    size_bytes: int
    on_node: str | None
    asked: float
    stopped_s: float
    frozen_s: float | None
    state: KernelState = field(default_factory=KernelState)


def find_target(cluster: Cluster, name: str, container: str | None) -> tuple[Pod, ContainerState]:
    """A pod and a container of it that runs.

    Raises:
        ClusterError: there is no such pod or container, or it does not run.
    """
    try:
        pod = cluster.get_pod(cluster.namespace, name)
    except RefusedError as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            hint = "select its namespace with --namespace"
            raise ClusterError(f"there is no pod {name} in the namespace {cluster.namespace}", hint=hint) from refusal
        raise
    found = pod.find_container(container)
    if not found.running:
        why = found.why or f"the pod is {pod.phase}"
        raise ClusterError(f"the container {found.name} of the pod {pod.namespace}/{name} is not running: {why}")
    return pod, found


def take_checkpoint(
    cluster: Cluster, pod: Pod, container: ContainerState, archive: Path, options: CheckpointOptions, progress: Progress
) -> FetchedCheckpoint:
    """Take a checkpoint of a container and fetch it; `archive` appears whole or not at all.

    Raises:
        CheckpointError: the kubelet or the runtime could not make it.
        ArchiveError: the fetched file is not a checkpoint archive, or is unsafe.
        ClusterError: the cluster refused, or could not be reached.
    """
    with contextlib.ExitStack() as stack:
        with progress.step("helper"):
            helper = stack.enter_context(open_helper(cluster, pod.node, options.errand, writable=not options.keep))
        return take_with(helper, pod, container, archive, options, progress)


def take_with(
    helper: Helper,
    pod: Pod,
    container: ContainerState,
    archive: Path,
    options: CheckpointOptions,
    progress: Progress,
    deadline: float = math.inf,
) -> FetchedCheckpoint:
    """As `take_checkpoint`, with a helper that runs already; until `time.monotonic()` is `deadline`."""
    state = read_state_on_node(helper, container) if options.errand.sees_processes else KernelState()
    with progress.step("checkpoint"):
        asked, on_node = checkpoint_in_time(helper, pod, container.name, options, progress, deadline)
        stopped_s = time.monotonic() - asked
    leaving = undoing_on_error if options.keep else undoing
    with leaving(lambda: discard(helper, on_node, options, progress)), progress.step("fetch"):
        state = settle_on_node(state, helper, container)
        contents = fetch_archive(helper, on_node, archive, progress, deadline)
    return FetchedCheckpoint(
        pod=pod,
        container=container,
        archive=archive,
        size_bytes=archive.stat().st_size,
        on_node=on_node if options.keep else None,
        asked=asked,
        stopped_s=stopped_s,
        frozen_s=_find_frozen(archive, contents),
        state=state,
    )


def checkpoint_in_time(
    helper: Helper, pod: Pod, container: str, options: CheckpointOptions, progress: Progress, deadline: float
) -> tuple[float, str]:
    """Take a checkpoint as `checkpoint_at_rest` does; one that is late or no longer needed is removed from the node.

    Raises:
        CheckpointError: it came too late; or as `ask_kubelet`.
    """
    started = time.monotonic()
    until = min(started + options.timeout_s, deadline)
    try:
        return call_to_the_end(
            lambda: checkpoint_at_rest(helper.cluster, pod, container, options, progress, until),
            lambda answer: discard(helper, answer[1], options, progress),
            max(0.0, until - started),
        )
    except TimeoutError as late:
        brief = f"the kubelet of {pod.node} took longer than {until - started:.1f} s for the checkpoint"
        raise CheckpointError(brief) from late


def discard(helper: Helper, on_node: str, options: CheckpointOptions, progress: Progress) -> None:
    """Remove an archive from the node; where it may not be or cannot be removed, say that it is there."""
    with contextlib.suppress(WarmstartError):
        if not options.keep:
            helper.remove(on_node)
            return
    progress.warn(tell_where(helper.pod.node, on_node))


def tell_where(node: str, on_node: str) -> str:
    """Describe an archive that could not be fetched or removed: it holds the container's memory."""
    return f"the checkpoint may still be on the node {node}: {on_node}"


def checkpoint_at_rest(
    cluster: Cluster, pod: Pod, container: str, options: CheckpointOptions, progress: Progress, until: float
) -> tuple[float, str]:
    """As `ask_kubelet`, and when it was asked; again where a connection was open, such as of the kubelet's probe.

    It is not asked again once `time.monotonic()` is `until`.
    """
    for left in reversed(range(TRIES)):
        asked = time.monotonic()
        try:
            return asked, ask_kubelet(cluster, pod, container, options)
        except CheckpointError as error:
            if not left or time.monotonic() > until or not any(text in _say(error) for text in PASSING):
                raise
        progress.note("a connection was open; trying again")
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
    except ClusterError as error:
        told = _explain(error, pod.node) if isinstance(error, RefusedError) else error
        if _may_go_on(error):
            # As the kubelet calls it, with the time at the end (`CheckpointContainer` in pkg/kubelet/kubelet.go).
            name = f"checkpoint-{pod.name}_{pod.namespace}-{container}-*.tar"
            told.details = (*told.details, tell_where(pod.node, f"{options.errand.directory}/{name}"))
        if told is error:
            raise
        raise told from error


def _may_go_on(error: ClusterError) -> bool:
    """Tell whether a checkpoint may still be made, under an unknown name."""
    if isinstance(error, RefusedError) and error.status not in UNREACHABLE:
        return any(text in _say(error) for text in GIVEN_UP)
    return NOT_CONNECTED not in _say(error)


def _explain(refusal: RefusedError, node: str) -> WarmstartError:
    if refusal.status == HTTPStatus.FORBIDDEN:
        return refusal
    if refusal.status in UNREACHABLE:
        brief = f"the kubelet of {node} cannot be reached"
        return ClusterError(brief, details=[refusal.brief, *refusal.details])
    if refusal.status == HTTPStatus.NOT_FOUND and "does not exist" not in refusal.brief:
        hint = "use Kubernetes 1.30, or from 1.25 on enable the feature gate ContainerCheckpoint"
        return ClusterError(f"the kubelet of {node} has no checkpoint API", details=[refusal.brief], hint=hint)
    message = _say(refusal)
    error = checkpoint_error(message)
    if any(text in message for text in PASSING):
        option = "tcp-established" if OPEN_CONNECTION in message else "skip-in-flight"
        error.hint = f"it has open connections: to dump it anyway, set {option} in /etc/criu/runc.conf on the node"
    return error


def _say(error: WarmstartError) -> str:
    return "\n".join([error.brief, *error.details])


def fetch_archive(
    helper: Helper, on_node: str, archive: Path, progress: Progress, deadline: float = math.inf
) -> Contents:
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
            done += len(data)
            if done > size_bytes:
                raise ClusterError(f"the archive is larger than its announced size of {size_bytes} bytes")
            file.write(data)
            progress.note(f"{format_bytes(done)} of {format_bytes(size_bytes)}")

        try:
            helper.read(on_node, write, deadline - time.monotonic())
        except TimeoutError as late:
            raise ClusterError(f"only {format_bytes(done)} of the archive arrived in time") from late
        if done != size_bytes:
            raise ClusterError(f"the archive is incomplete: {done} of {size_bytes} bytes arrived")
        file.flush()
        return read_contents(Path(file.name))


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target` at the end of the block, and is removed when that fails; only we may read it."""
    try:
        with (
            reporting_full_disk(target, "make room there, or write to another directory"),
            write_beside(target) as partial,
            partial.open("wb") as file,
        ):
            yield file
    except OSError as error:
        raise HostError(f"cannot write {target}: {error.strerror or error}") from error


def _find_frozen(archive: Path, contents: Contents) -> float | None:
    member = next((member for member in contents.members if member.name == STATS_DUMP), None)
    if member is None:
        return None
    with open_tar(archive) as tar, open_workspace("stats") as directory, contextlib.suppress(ArchiveError):
        file = directory / STATS_DUMP
        file.write_bytes(tar.read(member.offset, min(member.size_bytes, STATS_LIMIT_BYTES)))
        return read_frozen_s(file)
    return None
