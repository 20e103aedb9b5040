"""Move the state of a pod to another node: save it, restore it in a new pod, and only then remove the old one.

A ReplicaSet does not notice that its pod is replaced. When the new pod is ready, it gets the labels that the set counts
by. The set adopts it, has one too many, and removes the cheapest one; the old pod is marked as that
(`controller.kubernetes.io/pod-deletion-cost`, pkg/controller/controller_utils.go of kubernetes/kubernetes).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from warmstart.core.errors import ClusterError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.reference import Reference, parse_reference
from warmstart.core.undo import call_to_the_end, undoing_on_error
from warmstart.core.workers import WorkerPool
from warmstart.dump.state.compare import describe, find_differences, keep_confirmed
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Helper, open_helper
from warmstart.kube.pods import REPLICA_LABELS, ContainerState, Pod, list_cautions, make_copy, name_copy, place_pod
from warmstart.kube.refusal import ignoring_absence
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.pods.checkpoint import CheckpointOptions, FetchedCheckpoint, take_with
from warmstart.pods.kernel_state import read_state_on_node
from warmstart.pods.save import (
    RestoredPod,
    SaveContext,
    SavedImage,
    SaveOptions,
    fetch_base,
    publish_saved,
    restore_pod,
    save_pod,
)

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
LEAST = "-2147483647"
GONE_S = 60.0
#: Pods of a node at a time.
AT_ONCE = 4


@dataclass(frozen=True)
class Migration:
    """A moved pod.

    Attributes:
        saved: its state.
        restored: the new pod.
        gap_s: seconds from the checkpoint until the new pod was ready; work of the old pod in that time is lost.
        overlap_s: seconds from then on until the old pod was asked to end; both may get requests in that time, and
            work of the old pod is lost too.
    """

    saved: SavedImage
    restored: RestoredPod
    gap_s: float
    overlap_s: float


def migrate_pod(
    cluster: Cluster,
    pod: Pod,
    container: ContainerState,
    node: str,
    image: str,
    options: SaveOptions,
    progress: Progress,
) -> Migration:
    """Move a pod to a node.

    Args:
        cluster: the cluster.
        pod: the pod.
        container: the container to move; the others start anew.
        node: name of the other node.
        image: name of the checkpoint's image.
        options: options for saving.
        progress: progress reporter.

    Raises:
        WarmstartError: a step failed; the old pod is there as before, and no new one.
    """
    check_movable(pod)
    saved = save_pod(cluster, pod, container, image, options, progress)
    migrated = replace_pod(cluster, saved, lambda manifest: place_pod(manifest, node, there=True), options, progress)
    await_gone(cluster, [migrated], progress)
    return migrated


def check_movable(pod: Pod) -> None:
    """Check that a pod can be replaced by one with another name.

    Raises:
        ClusterError: its controller would undo that.
    """
    if pod.controller is None or pod.controller[0] == "ReplicaSet":
        return
    kind, owner = pod.controller
    brief = f"cannot move the pod {pod.namespace}/{pod.name}: its {kind} {owner} would recreate it"
    hint = "only pods of Deployments and pods without an owner can be moved; save others with `warmstart save`"
    raise ClusterError(brief, hint=hint)


def replace_pod(
    cluster: Cluster,
    saved: SavedImage,
    place: Callable[[dict[str, object]], None],
    options: SaveOptions,
    progress: Progress,
) -> Migration:
    """Restore a saved pod where `place` puts it, and start the removal of the old one."""
    old, container = saved.taken.pod, saved.taken.container.name
    manifest = make_copy(saved.manifest, container, saved.name, name=name_copy(old.name))
    place(manifest)
    restored = restore_pod(cluster, manifest, container, options.ready_s, progress)
    # Whoever interrupts us between the two would have both pods.
    call_to_the_end(lambda: hand_over(cluster, old, restored.pod))
    with progress.step("hand over"):
        left = await_end(cluster, old)
    warn_of_losses(cluster, saved, restored.pod, options, progress)
    return Migration(saved, restored, restored.ready - saved.taken.asked, left - restored.ready)


def warn_of_losses(
    cluster: Cluster, saved: SavedImage, restored: Pod, options: SaveOptions, progress: Progress
) -> None:
    """Compare the kernel state of a restored container with the one before the checkpoint, and warn of differences."""
    before, container = saved.taken.state, restored.find_container(saved.taken.container.name)
    if not before:
        return
    with progress.step("compare"):
        try:
            with open_helper(cluster, restored.node, options.checkpoint.errand, writable=False) as helper:
                found = find_differences(before, read_state_on_node(helper, container), exact=True)
                again = find_differences(before, read_state_on_node(helper, container), exact=True)
        except ClusterError as error:
            progress.warn(f"the kernel state of {restored.name} was not compared: {error.brief}")
            return
    for line in describe(keep_confirmed(found, again)):
        progress.warn(f"the runtime did not restore everything: {line}")


def hand_over(cluster: Cluster, old: Pod, new: Pod) -> None:
    """Have a pod removed that another one has replaced; a ReplicaSet does that itself, when it has the new one."""
    labels = _find_replica_labels(old)
    if labels:
        # With its node, it may have gone already.
        with ignoring_absence():
            cluster.patch_pod(old.namespace, old.name, {"metadata": {"annotations": {DELETION_COST: LEAST}}})
        cluster.patch_pod(new.namespace, new.name, {"metadata": {"labels": labels}})
    else:
        cluster.delete_pod(old.namespace, old.name, uid=old.uid)


def await_end(cluster: Cluster, old: Pod) -> float:
    """Wait until a pod that was handed over is told to end; `time.monotonic()` then."""
    with ignoring_absence():
        try:
            cluster.wait_pod(old, lambda now: now.deleting, GONE_S)
        except TimeoutError:
            cluster.delete_pod(old.namespace, old.name, uid=old.uid)
    return time.monotonic()


def await_gone(cluster: Cluster, moved: Sequence[Migration], progress: Progress) -> None:
    """Wait until the old pods are gone, and warn of those that are not in time, as when their node is gone."""
    deadline = time.monotonic() + GONE_S
    with progress.step("remove"):
        for one in moved:
            old = one.saved.taken.pod
            if not cluster.wait_gone(old, max(1.0, deadline - time.monotonic())):
                progress.warn(f"the pod {old.name} is still on {old.node}, replaced by {one.restored.pod.name}")


def _find_replica_labels(pod: Pod) -> dict[str, str]:
    """Return the labels by which a pod's controller counts it."""
    return {label: pod.labels[label] for label in REPLICA_LABELS if pod.controller and label in pod.labels}


@dataclass(frozen=True)
class PodOutcome:
    """The result for a pod of a node that is drained.

    Attributes:
        pod: the pod.
        taken: its checkpoint; None if it was not taken in time.
        migrated: its new pod; None if it stayed.
        error: the reason.
    """

    pod: Pod
    taken: FetchedCheckpoint | None = None
    migrated: Migration | None = None
    error: WarmstartError | None = None


def drain_node(
    cluster: Cluster,
    node: str,
    selector: str,
    repository: str,
    deadline_s: float,
    options: SaveOptions,
    progress: Progress,
) -> tuple[PodOutcome, ...]:
    """Save pods of a node while it is there, then restore them on others; in both, some at once.

    Before the deadline, all are checkpointed and fetched, and nothing else is done. Then they are restored. A pod that
    was not saved in time stays where it is. The kubelet still finishes its checkpoint, which is removed from the node
    while the others are restored.

    Args:
        cluster: the cluster.
        node: the node.
        selector: labels of the pods to save, in the cluster's namespace.
        repository: of the images; the pods' names become their tags.
        deadline_s: seconds from now until the node may be gone.
        options: options for saving.
        progress: progress reporter.

    Raises:
        ClusterError: no pod matches, or a common step failed.
    """
    deadline = time.monotonic() + deadline_s
    target = parse_reference(repository)
    pods = [pod for pod in cluster.list_pods(cluster.namespace, selector=selector, node=node) if not pod.deleting]
    if not pods:
        raise ClusterError(f"no pod on the node {node} in the namespace {cluster.namespace} matches {selector}")
    with (
        open_node("save", options.cache, progress) as session,
        WorkerPool(progress, len(pods), AT_ONCE) as restoring,
        contextlib.ExitStack() as there,
        undoing_on_error(restoring.stop),
    ):
        bases, restored = BaseImages(session, options), {}
        with progress.step("helper"):
            helper = there.enter_context(open_helper(cluster, node, options.checkpoint.errand, writable=True))
        saving = there.enter_context(WorkerPool(progress, len(pods), AT_ONCE))
        with progress.step("checkpoint"):
            save = partial(save_in_time, helper, session.workspace, deadline, options.checkpoint)
            saved = [saving.submit(pod.name, partial(save, pod)) for pod in pods]
            wait(saved, max(0.0, deadline - time.monotonic()))
        with progress.step("restore"):
            for future in as_completed(saved):
                fate = future.result()
                restore = partial(restore_elsewhere, cluster, bases, fate, target, options)
                restored[fate.pod.name] = restoring.submit(fate.pod.name, restore)
            try:
                there.close()
            except ClusterError as error:
                progress.warn(f"the helper {helper.pod.name} may still be there: {error.brief}")
            fates = tuple(restored[pod.name].result() for pod in pods)
        await_gone(cluster, [fate.migrated for fate in fates if fate.migrated], progress)
    return fates


def save_in_time(
    helper: Helper, workspace: Path, deadline: float, options: CheckpointOptions, pod: Pod, progress: Progress
) -> PodOutcome:
    """Checkpoint a pod and fetch the archive, until `time.monotonic()` is `deadline`."""
    try:
        check_movable(pod)
        if time.monotonic() >= deadline:
            raise ClusterError(f"no time was left to checkpoint the pod {pod.name}")
        container = pod.find_container(None)
        for caution in list_cautions(pod, container.name):
            progress.warn(caution)
        archive = workspace / pod.name / "checkpoint.tar"
        archive.parent.mkdir()
        taken = take_with(helper, pod, container, archive, options, progress, deadline)
    except WarmstartError as error:
        return PodOutcome(pod, error=error)
    return PodOutcome(pod, taken)


class BaseImages:
    """The images that pods run: each is pulled once.

    Args:
        session: where images are made.
        options: how to save.
    """

    def __init__(self, session: Session, options: SaveOptions) -> None:
        self._session = session
        self._options = options
        self._lock = threading.Lock()
        self._benches: dict[tuple[str, str], SaveContext] = {}

    def open_bench(self, directory: Path, container: ContainerState, progress: Progress) -> SaveContext:
        """As `fetch_base`; any thread may call it."""
        known_by = (container.image_id, container.image)
        with self._lock:
            if known_by not in self._benches:
                self._benches[known_by] = fetch_base(self._session, directory, container, self._options, progress)
            return replace(self._benches[known_by], directory=directory)


def restore_elsewhere(
    cluster: Cluster, bases: BaseImages, fate: PodOutcome, target: Reference, options: SaveOptions, progress: Progress
) -> PodOutcome:
    """Restore a pod that was saved on any node but its own, and have the old one removed."""
    if fate.taken is None:
        return fate
    taken, node = fate.taken, fate.pod.node
    try:
        with progress.step("pull"):
            bench = bases.open_bench(taken.archive.parent, taken.container, progress)
        saved = publish_saved(bench, taken, replace(target, tag=fate.pod.name), options, progress)
        migrated = replace_pod(cluster, saved, lambda pod: place_pod(pod, node, there=False), options, progress)
    except WarmstartError as error:
        return replace(fate, error=error)
    return replace(fate, migrated=migrated)
