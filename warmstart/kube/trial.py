"""A trial of the nodes that restore an image: a pod of it on one node of each kind."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from warmstart.core.errors import ClusterError
from warmstart.dump.criu.fingerprint import RANDOM_BYTES, find_random, make_identity
from warmstart.image.selfrestore.pack import COLD_START, RESTORED
from warmstart.kube.answer import Answer
from warmstart.kube.client import Cluster, Head, PodTimeoutError
from warmstart.kube.environment import read_environment, read_stand_ins
from warmstart.kube.manifests import make_pod_spec
from warmstart.kube.pods import MANAGED_BY, Pod
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.pods import Block, blocks_at, mapping_at

BY_RUNTIME, BY_ITSELF, COLD, FAILED, NOT_TRIED, UNKNOWN = "runtime", "self", "cold", "failed", "not tried", "unknown"
#: For a node to pull the image, and for the application to start, even cold.
READY_S = 600.0
_EXEC_S = 20.0
_GONE_S = 60.0
# The launcher has one child; other processes may have any number.
_MOST_CHILDREN = 16


@dataclass(frozen=True)
class Pool:
    """Nodes that are alike.

    Attributes:
        runtime: name and version of the container runtime, such as `cri-o://1.36.3`.
        kubelet: its version.
        os_image: the operating system.
        architecture: architecture in Go's terms.
        nodes: their names; those that take pods come first.
        ready: number of nodes that take pods.
    """

    runtime: str
    kubelet: str
    os_image: str
    architecture: str
    nodes: tuple[str, ...]
    ready: int


@dataclass(frozen=True)
class Verdict:
    """Result for the image on a node of a pool.

    Attributes:
        pool: the nodes of the same kind.
        node: the tried node; empty for none.
        how: one of BY_RUNTIME, BY_ITSELF, COLD, FAILED, NOT_TRIED and UNKNOWN.
        reason: the reason if it was not restored.
    """

    pool: Pool
    node: str
    how: str
    reason: str = ""

    @property
    def restored(self) -> bool:
        """Whether the image was restored."""
        return self.how in (BY_RUNTIME, BY_ITSELF)


def find_pools(cluster: Cluster) -> list[Pool]:
    """Return the nodes of a cluster, grouped by kind.

    Raises:
        ClusterError: they may not be listed, or the API server could not be reached.
    """
    pools: dict[tuple[str, str, str, str], list[tuple[bool, str]]] = {}
    for node in cluster.list_items("/api/v1/nodes"):
        about = node.at("status", "nodeInfo")
        runtime, kubelet = about.at("containerRuntimeVersion").text(), about.at("kubeletVersion").text()
        kind = (runtime, kubelet, about.at("osImage").text(), about.at("architecture").text())
        pools.setdefault(kind, []).append((not _takes_pods(node), node.at("metadata", "name").name()))
    return [
        Pool(*kind, tuple(name for _, name in sorted(nodes)), sum(not away for away, _ in nodes))
        for kind, nodes in sorted(pools.items())
    ]


def _takes_pods(node: Answer) -> bool:
    conditions = {one.at("type").text(): one.at("status").text() for one in node.at("status", "conditions").items()}
    return conditions.get("Ready") == "True" and not node.at("spec", "unschedulable").flag()


def try_pool(cluster: Cluster, pool: Pool, build: BuildInfo, identity: str, note: Callable[[str], object]) -> Verdict:
    """Run the image on a node of a pool, and find its restorer.

    Args:
        cluster: the cluster; pods are made in its namespace, and removed again.
        pool: the nodes.
        build: the image's build.
        identity: identity of the dumped process.
        note: progress reporter.

    Raises:
        ClusterError: pods may not be made, or the API server could not be reached.
    """
    if build.architecture not in ("", pool.architecture):
        return Verdict(pool, "", NOT_TRIED, f"the image is for {build.architecture}")
    if not pool.ready:
        return Verdict(pool, "", NOT_TRIED, "no node takes pods")
    node = pool.nodes[0]
    note(f"a pod on {node}")
    with _running(cluster, _make_pod(build, node, cluster.namespace)) as pod:
        try:
            pod = cluster.wait_pod(pod, lambda now: now.ready or now.stuck, READY_S)
        except PodTimeoutError as late:
            pod = late.pod
        if not pod.ready:
            return Verdict(pool, node, FAILED, _explain_failure(pod))
        return Verdict(pool, node, *_tell(cluster, pod, build, identity, pool.runtime))


def _make_pod(build: BuildInfo, node: str, namespace: str) -> Block:
    """Return a pod like the deployed ones, on this node, with small requests, and without their objects."""
    spec = make_pod_spec(build)
    # The namespace of the trial has none of the objects; a runtime looks only at the mount points.
    spec.pop("initContainers", None)
    if volumes := blocks_at(spec.pop("volumes", None)):
        spec["volumes"] = [{"name": volume["name"], "emptyDir": {}} for volume in volumes]
    requests = {"cpu": "10m", "memory": "16Mi"}
    (container,) = spec["containers"]
    container.setdefault("resources", {})["requests"] = requests
    if container.pop("envFrom", None) or "env" in container:
        variables, _ = read_environment(build.container, read_stand_ins(build.stand_ins))
        values = ((name, one.value) for name, one in variables.items() if one.value is not None)
        container["env"] = [{"name": name, "value": value.replace("$", "$$")} for name, value in values]
    spec |= {"nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    spec |= {"tolerations": [{"operator": "Exists"}], "activeDeadlineSeconds": round(2 * READY_S)}
    spec.pop("nodeSelector", None)
    metadata = {"name": f"warmstart-doctor-{secrets.token_hex(4)}", "namespace": namespace, "labels": MANAGED_BY}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@contextlib.contextmanager
def _running(cluster: Cluster, manifest: Block) -> Iterator[Pod]:
    pod = cluster.create_pod(manifest)
    try:
        yield pod
    finally:
        cluster.delete_pod(pod.namespace, pod.name, uid=pod.uid)
        cluster.wait_gone(pod, _GONE_S)


def _explain_failure(pod: Pod) -> str:
    status = mapping_at(dict(pod.manifest), "status")
    said = [
        *(container.why for container in pod.containers),
        *(str(status.get(key) or "") for key in ("reason", "message")),
    ]
    return "; ".join(filter(None, said)) or f"not ready within {READY_S:g} s"


def _tell(cluster: Cluster, pod: Pod, build: BuildInfo, identity: str, runtime: str) -> tuple[str, str]:
    """Return the restorer of the container of a ready pod, or the reason why there is none."""
    log = cluster.log_head(pod, build.name)
    if any(map(RESTORED.match, log)):
        return BY_ITSELF, ""
    try:
        children = _run(cluster, pod, build.name, "cat", "/proc/1/task/1/children")
        # The first process of an image that restores itself is the launcher, and the application its child.
        pids = (1, *map(int, children.split()[:_MOST_CHILDREN]))
        found = [_read_identity(cluster, pod, build.name, pid) for pid in pids]
    except (ClusterError, TimeoutError, ValueError) as error:
        return UNKNOWN, f"it runs, but cannot be asked: {error}"
    if identity in found:
        return BY_RUNTIME, ""
    reasons = [said[1] for said in map(COLD_START.match, log) if said]
    return COLD, reasons[0] if reasons else explain_cold(runtime)


def _read_identity(cluster: Cluster, pod: Pod, container: str, pid: int) -> str:
    """Do as `warmstart.dump.criu.fingerprint.read_identity`, with the container's programs."""
    address = find_random(_run(cluster, pod, container, "cat", f"/proc/{pid}/auxv"), pid)
    where = (f"if=/proc/{pid}/mem", "bs=1", f"skip={address}", f"count={RANDOM_BYTES}")
    return make_identity(address, _run(cluster, pod, container, "dd", *where))


def _run(cluster: Cluster, pod: Pod, container: str, *command: str) -> bytes:
    output = Head()
    end = cluster.exec(pod, container, command, write=output.write, timeout_s=_EXEC_S)
    if end.exit_code != 0:
        raise ClusterError(f"{command[0]} failed in the container: {end.stderr.strip() or end.exit_code}")
    return bytes(output.data)


def explain_cold(runtime: str) -> str:
    """Guess from its name why a runtime, such as `cri-o://1.36.3`, did not restore."""
    name = runtime.partition(":")[0]
    if name == "cri-o":
        return "CRI-O may not restore: container_level_enabled or enable_criu_support is off, or it finds no criu"
    return f"{name} does not restore such images"


def make_document(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON."""
    pool = verdict.pool
    return {
        "runtime": pool.runtime,
        "kubelet": pool.kubelet,
        "osImage": pool.os_image,
        "architecture": pool.architecture,
        "nodes": list(pool.nodes),
        "node": verdict.node,
        "restoredBy": verdict.how if verdict.restored else None,
        "outcome": verdict.how,
        "reason": verdict.reason,
    }
