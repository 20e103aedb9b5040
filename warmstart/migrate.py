"""Moving the state of a pod to another node: saved, restored in a new pod, and only then is the old one removed.

A pod of a ReplicaSet is replaced without its noticing: the new pod gets the labels that the set counts by when it is
ready; the set takes it in, has one too many, and removes the one that costs least, which the old pod is marked as
(`controller.kubernetes.io/pod-deletion-cost`, pkg/controller/controller_utils.go of kubernetes/kubernetes).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.checkpoint import Taken, take_with
from warmstart.core.errors import ClusterError, WarmstartError
from warmstart.core.steps import Silent, Steps
from warmstart.image.reference import Reference, parse_reference
from warmstart.kube.client import Cluster
from warmstart.kube.helper import Helper, open_helper
from warmstart.kube.pods import REPLICA_LABELS, ContainerState, Pod, make_copy, name_copy, place_pod
from warmstart.node.session import Session
from warmstart.save import (
    Restored,
    Saved,
    SaveOptions,
    fetch_base,
    open_session,
    publish_saved,
    restore_pod,
    save_pod,
)

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
LEAST = "-2147483647"
GONE_S = 60.0
AT_ONCE = 4


@dataclass(frozen=True)
class Migrated:
    """A pod that was moved.

    Attributes:
        saved: its state.
        restored: the new pod.
        gap_s: seconds from the checkpoint until the new pod was ready; what the old one did in that time is lost.
    """

    saved: Saved
    restored: Restored
    gap_s: float


def migrate_pod(
    cluster: Cluster, pod: Pod, container: ContainerState, node: str, image: str, options: SaveOptions, steps: Steps
) -> Migrated:
    """Move a pod to a node.

    Args:
        cluster: the cluster.
        pod: the pod.
        container: the one of its containers whose state is moved; the others start anew.
        node: the name of the other node.
        image: what the image of the checkpoint is to be called.
        options: how to save.
        steps: is told how far it is.

    Raises:
        WarmstartError: a step failed; the old pod is there as before, and no new one.
    """
    check_movable(pod)
    saved = save_pod(cluster, pod, container, image, options, steps)
    return replace_pod(cluster, saved, lambda manifest: place_pod(manifest, node, there=True), options, steps)


def check_movable(pod: Pod) -> None:
    """See that a pod can be replaced by one of another name.

    Raises:
        ClusterError: what made it would not let it be.
    """
    if pod.controller is None or pod.controller[0] == "ReplicaSet":
        return
    kind, owner = pod.controller
    brief = f"the pod {pod.namespace}/{pod.name} belongs to the {kind} {owner}, which would make it anew"
    raise ClusterError(brief, hint="pods of Deployments and pods of their own can be moved; others can be saved")


def replace_pod(
    cluster: Cluster, saved: Saved, place: Callable[[dict[str, object]], None], options: SaveOptions, steps: Steps
) -> Migrated:
    """Restore a saved pod where `place` puts it, and remove the old one."""
    old, container = saved.taken.pod, saved.taken.container.name
    manifest = make_copy(saved.manifest, container, saved.name, name=name_copy(old.name))
    place(manifest)
    restored = restore_pod(cluster, manifest, container, options.ready_s, steps)
    with steps.step("remove"):
        remove_old(cluster, old, restored.pod)
    return Migrated(saved, restored, restored.ready - saved.taken.asked)


def remove_old(cluster: Cluster, old: Pod, new: Pod) -> None:
    """Remove a pod that another one has replaced; a ReplicaSet is to have the new one in its place."""
    labels = {label: old.labels[label] for label in REPLICA_LABELS if label in old.labels}
    if old.controller and labels:
        cluster.patch_pod(old.namespace, old.name, {"metadata": {"annotations": {DELETION_COST: LEAST}}})
        cluster.patch_pod(new.namespace, new.name, {"metadata": {"labels": labels}})
        if cluster.wait_gone(old, GONE_S):
            return
    cluster.delete_pod(old.namespace, old.name, uid=old.uid)
    if not cluster.wait_gone(old, GONE_S):
        raise ClusterError(f"the old pod {old.name} is still there after {GONE_S:g} s; {new.name} has replaced it")


@dataclass(frozen=True)
class Fate:
    """What became of a pod of a node that is to go away.

    Attributes:
        pod: the pod.
        taken: its checkpoint; None when it could not be had in time.
        migrated: where it is now; None when it is where it was.
        error: why.
    """

    pod: Pod
    taken: Taken | None = None
    migrated: Migrated | None = None
    error: WarmstartError | None = None


def drain_node(
    cluster: Cluster,
    node: str,
    selector: str,
    repository: str,
    deadline_s: float,
    options: SaveOptions,
    steps: Steps,
) -> tuple[Fate, ...]:
    """Save pods of a node while it is there, then restore them on others.

    First all are checkpointed and fetched, some at once; only that has to be done before the deadline.

    Args:
        cluster: the cluster.
        node: the node.
        selector: which of its pods in the cluster's namespace, by their labels.
        repository: of the images; the pods' names become their tags.
        deadline_s: seconds from now until the node may be gone.
        options: how to save.
        steps: is told how far it is.

    Raises:
        ClusterError: no pod matches; or what goes for all of them failed.
    """
    deadline = time.monotonic() + deadline_s
    target = parse_reference(repository)
    pods = [pod for pod in cluster.list_pods(cluster.namespace, selector=selector, node=node) if not pod.deleting]
    if not pods:
        raise ClusterError(f"no pod in the namespace {cluster.namespace} on the node {node} has the labels {selector}")
    with open_session(options, steps) as session:
        with open_helper(cluster, node, options.checkpoint.errand, writable=True) as helper:
            fates = checkpoint_all(helper, pods, session.workspace, deadline, options, steps)
        return tuple(
            restore_elsewhere(cluster, session, fate, replace(target, tag=fate.pod.name), options, steps)
            for fate in fates
        )


def checkpoint_all(
    helper: Helper, pods: Sequence[Pod], workspace: Path, deadline: float, options: SaveOptions, steps: Steps
) -> list[Fate]:
    """Checkpoint pods and fetch the archives, AT_ONCE at a time, until `time.monotonic()` is `deadline`."""
    lock, done = threading.Lock(), 0

    def save(pod: Pod) -> Fate:
        nonlocal done
        fate = _checkpoint_in_time(helper, pod, workspace / pod.name, deadline, options)
        with lock:
            done += 1
            steps.note(f"{done} of {len(pods)} pods")
        return fate

    with steps.step("checkpoint"), ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(save, pods))


def _checkpoint_in_time(helper: Helper, pod: Pod, directory: Path, deadline: float, options: SaveOptions) -> Fate:
    left_s = deadline - time.monotonic()
    try:
        check_movable(pod)
        if left_s <= 0:
            raise ClusterError(f"there was no time left for the pod {pod.name}")
        directory.mkdir()
        how = replace(options.checkpoint, timeout_s=min(options.checkpoint.timeout_s, left_s))
        container = pod.find_container(None)
        taken = take_with(helper, pod, container, directory / "checkpoint.tar", how, Steps(Silent()), deadline)
    except WarmstartError as error:
        return Fate(pod, error=error)
    return Fate(pod, taken)


def restore_elsewhere(
    cluster: Cluster, session: Session, fate: Fate, target: Reference, options: SaveOptions, steps: Steps
) -> Fate:
    """Restore a pod that was saved on any node but its own, and remove the old one, if it is there."""
    if fate.taken is None:
        return fate
    taken = fate.taken
    try:
        with steps.step(f"pull for {fate.pod.name}"):
            bench = fetch_base(session, taken.archive.parent, taken.container, options, steps)
        saved = publish_saved(bench, taken, target, options, steps)
        there = fate.pod.node
        migrated = replace_pod(cluster, saved, lambda pod: place_pod(pod, there, there=False), options, steps)
    except WarmstartError as error:
        return replace(fate, error=error)
    return replace(fate, migrated=migrated)
