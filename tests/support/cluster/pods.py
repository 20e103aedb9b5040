"""Pods of the tests' server in a cluster."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.builds import PORT, READY
from support.cluster.cluster import POLL_S, Cluster

START_S = 60
_PATIENCE_S = 120
Found = TypeVar("Found")


@dataclass(frozen=True)
class Pod:
    """A ready pod. Its container has the same name."""

    cluster: Cluster
    name: str
    uid: str
    address: str

    @classmethod
    def from_manifest(cls, cluster: Cluster, manifest: Mapping[str, Any]) -> Pod:
        """Return a pod as the API server describes it."""
        return cls(cluster, manifest["metadata"]["name"], manifest["metadata"]["uid"], manifest["status"]["podIP"])

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body of the server's response."""
        return self.cluster.nodes[0].http_get(self.address, PORT, path)

    def read_state(self) -> dict[str, Any]:
        """Return the random id of the server and the number of its requests."""
        state: dict[str, Any] = json.loads(self.get("/state")[1])
        return state

    def find_processes(self, name: str = "server") -> list[int]:
        """Return this machine's PIDs of the processes with this name."""
        found = [path for path in Path("/proc").glob("[0-9]*") if f"/pod{self.uid}/" in _read(path / "cgroup")]
        return [int(path.name) for path in found if _read(path / "comm") == f"{name}\n"]


def describe_pod(
    name: str, image: str, container: Mapping[str, object] | None = None, **spec: object
) -> dict[str, Any]:
    """Return a pod with a container of the tests' server, with additional fields of its container and its spec."""
    server = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": PORT}],
        "readinessProbe": READY,
        **(container or {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [server], "automountServiceAccountToken": False, **spec},
    }


def find_ready_pods(cluster: Cluster, selector: str) -> list[dict[str, Any]]:
    """Return the pods that are ready and stay. Others may have no address and no node yet."""
    return [pod for pod in cluster.read("pods", selector=selector)["items"] if _is_ready(pod)]


def wait_for(look: Callable[[], Found | None]) -> Found:
    """Wait until `look` finds something, and return it."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.2)
    return found


def _is_ready(pod: Mapping[str, Any]) -> bool:
    ready = {"type": "Ready", "status": "True"}.items()
    conditions = pod["status"].get("conditions", ())
    return "deletionTimestamp" not in pod["metadata"] and any(ready <= each.items() for each in conditions)


@contextlib.contextmanager
def run_pod(
    cluster: Cluster, name: str, image: str, container: Mapping[str, object] | None = None, **spec: object
) -> Iterator[Pod]:
    """Run such a pod until the end of the block, and wait until it is ready.

    Without `nodeName`, it runs on the first node, which has the imported images.
    """
    first = {"nodeSelector": {"kubernetes.io/hostname": cluster.nodes[0].name}}
    cluster.apply(describe_pod(name, image, container, **({} if "nodeName" in spec else first), **spec))
    try:
        wait_until_ready(cluster, name)
        yield Pod.from_manifest(cluster, cluster.read("pods", name))
    finally:
        cluster.delete_pods(fieldSelector=f"metadata.name={name}")


def wait_until_ready(cluster: Cluster, name: str) -> None:
    """Wait until a pod is ready, as `kubectl wait` does.

    Raises:
        TimeoutError: it was not in time.
    """
    deadline = time.monotonic() + START_S
    while not _is_ready(cluster.read("pods", name)):
        if time.monotonic() > deadline:
            error = TimeoutError(f"the pod {name} was not ready within {START_S} s")
            error.add_note(cluster.kubectl("describe", "pod", name))
            raise error
        time.sleep(POLL_S)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # The process has just ended.
        return ""
