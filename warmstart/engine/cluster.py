"""Run a container in a pod of a cluster, through the API server alone, without access to its node or network.

Connections are forwarded to the pod's loopback interface, as by `kubectl port-forward`.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warmstart.core.errors import AppError, ClusterError, EngineError
from warmstart.core.undo import undoing
from warmstart.engine.target import Activity, ExecResult, State
from warmstart.kube.client import Cluster, Head, PodTimeoutError
from warmstart.kube.pods import MANAGED_BY, Pod

# If a build is killed, the cluster ends its pod after this time.
LIFE_S = 6 * 3600
PULL_S = 900.0
# Of each init container.
INIT_S = 1800.0
LOG_LINES = 20


@dataclass(frozen=True)
class KubernetesContainer:
    """A container in a pod; a `Target` for probes and warm-up.

    Attributes:
        cluster: the cluster.
        pod: the pod when its container started.
        name: name of the container.
        started_at: `time.monotonic()` when the API server first reported it as running.
        watch: called while it is observed; raises an error for anything that the container cannot do without.
    """

    cluster: Cluster
    pod: Pod
    name: str
    started_at: float
    watch: Callable[[], object] = lambda: None

    @property
    def address(self) -> str:
        """See `Target.address`."""
        return self.pod.ip

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """See `Target.connect`; other hosts are unreachable."""
        if host not in (None, self.address, "localhost", "127.0.0.1"):
            raise OSError(f"{host} is not the pod, and cannot be reached through the API server")
        connection = self.cluster.connect(self.pod, port)
        connection.settimeout(timeout_s)
        return connection

    def from_inside(self) -> KubernetesContainer:
        """See `Target.from_inside`; the kubelet forwards all connections to it there."""
        return replace(self, pod=replace(self.pod, ip="localhost"))

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """See `Target.exec`."""
        out = Head()
        end = self.cluster.exec(self.pod, self.name, command, write=out.write, timeout_s=timeout_s)
        return ExecResult(end.exit_code, out.data.decode(errors="replace"), end.stderr)

    def state(self) -> State:
        """See `Target.state`."""
        self.watch()
        pod = self.cluster.get_pod(self.pod.namespace, self.pod.name)
        container = pod.find_container(self.name)
        if container.exit_code is None:
            return State()
        return State(container.exit_code, container.why.partition(":")[0])

    def activity(self) -> Activity:
        """See `Target.activity`; it is not visible from outside of the node."""
        raise EngineError(f"the activity of the pod {self.pod.name} cannot be read through the API server")

    def interrupt(self, pause_s: float = 0.0) -> None:
        """See `Target.interrupt`; without effect, since only the node can."""

    def close_connections(self) -> int:
        """See `Target.close_connections`; without effect, since only the node can."""
        return 0

    def move_host(self, old: str, new: str) -> None:
        """See `Target.move_host`; without effect, since the kubelet writes the file."""

    def log_tail(self, lines: int) -> list[str]:
        """See `Target.log_tail`."""
        return self.cluster.log_tail(self.pod, self.name, lines)

    def await_ready(self, limit_s: float) -> float:
        """Wait until the pod is ready, and return the seconds since `started_at`.

        Raises:
            AppError: the container ended, or was not ready in time.
        """

        def is_settled(now: Pod) -> bool:
            self.watch()
            return now.ready or now.stuck

        try:
            pod = self.cluster.wait_pod(self.pod, is_settled, limit_s)
        except PodTimeoutError as late:
            details = [*late.pod.explain(), *self.log_tail(10)]
            raise AppError(f"the pod was not ready within {limit_s:g} s", details=details) from late
        if not pod.ready:
            ended = pod.find_container(self.name)
            brief = f"the container ended with exit code {ended.exit_code} before it was ready"
            raise AppError(brief, details=[*pod.explain(), *self.log_tail(10)])
        return time.monotonic() - self.started_at


def make_pod_name(name: str) -> str:
    """Return a new name for the pod of a build."""
    # Leave room for the suffix: the pod's name is its host name, which has at most 63 characters.
    return f"{name[:46].rstrip('-')}-build-{secrets.token_hex(4)}"


def make_build_pod(spec: Mapping[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """Return the manifest of the build's pod, from the spec of the pods that will be restored."""
    own = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFE_S,
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": False,
    }
    metadata = {"name": name, "namespace": namespace, "labels": MANAGED_BY}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**spec, **own}}


@contextlib.contextmanager
def start_pod(
    cluster: Cluster,
    manifest: Mapping[str, Any],
    secret: Mapping[str, str] | None = None,
    on_poll: Callable[[Pod], object] = lambda _: None,
) -> Iterator[KubernetesContainer]:
    """Create a pod with one container, wait until it runs, and delete it at the end of the `with` block.

    Args:
        cluster: the cluster.
        manifest: of the pod.
        secret: the data of a Secret that has the pod's name, and goes with it; none if empty.
        on_poll: called with the pod while its start is awaited.

    Raises:
        RefusedError: the user may not create it, or the Secret.
        AppError: an init container failed.
        ClusterError: it does not start.
    """
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    limit_s = PULL_S + INIT_S * len(manifest["spec"].get("initContainers", ()))

    def has_started(now: Pod) -> bool:
        on_poll(now)
        return _has_started(now)

    with undoing(lambda: cluster.delete_pod(namespace, name)):
        pod = cluster.create_pod(manifest)
        if secret:
            cluster.create_secret(pod, secret)
        try:
            pod = cluster.wait_pod(pod, has_started, limit_s)
        except PodTimeoutError as late:
            brief = f"the pod {name} did not start within {limit_s:g} s"
            raise ClusterError(brief, details=late.pod.explain()) from late
        started_at = time.monotonic()
        container = pod.containers[0]
        if not container.running and container.exit_code is None:
            _check_init(cluster, pod)
            raise ClusterError(f"the pod {name} does not start", details=pod.explain())
        yield KubernetesContainer(cluster, pod, container.name, started_at)


def _check_init(cluster: Cluster, pod: Pod) -> None:
    """Report an init container that failed; raises AppError."""
    for one in pod.init_containers:
        if one.exit_code:
            lines = cluster.log_tail(pod, one.name, LOG_LINES)
            details = ["the end of its log:", *(f"  {line}" for line in lines)] if lines else ["its log is empty"]
            hint = "leave it out of build.init if the build does not need it"
            brief = f"the init container {one.name} failed with exit code {one.exit_code}"
            raise AppError(brief, details=details, hint=hint)


def _has_started(pod: Pod) -> bool:
    """Tell whether the container of a pod runs, or never will."""
    # The pod is older than its Secret: the kubelet tries again.
    early = any(
        one.why.startswith("CreateContainerConfigError") and f'"{pod.name}" not found' in one.why
        for one in (*pod.init_containers, *pod.containers)
    )
    return pod.containers[0].running or (pod.stuck and not early)
