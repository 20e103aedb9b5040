"""Somebody who calls warmstart for a cluster, as a program of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import strike
from support.builds import PORT
from support.cluster.cluster import Cluster
from support.cluster.node import Node
from support.cluster.pods import describe_pod
from support.hold import Hold, hold_checkpoint

START_S = 60
RUN_S = 240


@dataclass(frozen=True)
class Done:
    """How a call ended: its exit code, what it printed, and what it said."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """What `--json` printed."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class User:
    """Who calls.

    Attributes:
        cluster: the cluster.
        cache: of tools.
        base: the server's image in the cluster's registry.
        helper: an image for helper pods, likewise.
    """

    cluster: Cluster
    cache: Path
    base: str
    helper: str

    def call(
        self, *words: str | Path, kubeconfig: Path | None = None, helper: str | None = None, inside: Node | None = None
    ) -> Done:
        """Call `warmstart`, from this machine or in the network of a node."""
        prefix = ["nsenter", f"--net={inside.session.network}"] if inside else []
        return self._run([*prefix, sys.executable, "-m", "warmstart", *map(str, words)], kubeconfig, helper)

    def interrupt(self, signal: str, step: str, delay_s: float, *words: str | Path) -> Done:
        """Call it, and have it sent a signal when it is in a step."""
        prefix = f"warmstart-{os.getpid()}-"
        head = [sys.executable, strike.__file__, signal, step, str(delay_s), prefix]
        return self._run([*head, *map(str, words)], None, None)

    def _run(self, command: list[str], kubeconfig: Path | None, helper: str | None) -> Done:
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig),
            "WARMSTART_CACHE": str(self.cache),
            "WARMSTART_HELPER_IMAGE": helper or self.helper,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, env=environment, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def grant(self, task: str) -> Path:
        """The kubeconfig of the service account that `warmstart rbac` makes for a task."""
        self.cluster.kubectl("apply", "-f", "-", stdin=self.call("rbac", task, "-n", "default").out)
        return self.cluster.write_account_kubeconfig(task, namespace="warmstart")

    @contextlib.contextmanager
    def pod(
        self,
        name: str,
        container: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> Iterator[str]:
        """A pod of the server; all pods with its labels, which are its name if none are given, go at the end."""
        labels = labels or {"app": name}
        document = describe_pod(name, self.base, container, **spec)
        document["metadata"]["labels"] = dict(labels)
        self.cluster.apply(document)
        try:
            self.wait_ready(name)
            yield name
        finally:
            selector = ",".join(f"{key}={value}" for key, value in labels.items())
            self.cluster.kubectl("delete", "pod", "-l", selector, "--grace-period=1", "--ignore-not-found")

    def wait_ready(self, name: str) -> None:
        """Until a pod is ready."""
        words = ["wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={START_S}s"]
        self.cluster.kubectl(*words, timeout_s=START_S + 10)

    def read_state(self, name: str) -> dict[str, Any]:
        """What tells a server from another, and how many requests it has answered."""
        address = self.cluster.read("pod", name)["status"]["podIP"]
        state: dict[str, Any] = json.loads(self.cluster.nodes[0].http_get(address, PORT, "/state")[1])
        return state

    def hold(self, name: str) -> AbstractContextManager[Hold]:
        """Hold the checkpoints of a pod on the first node."""
        [state] = self.cluster.read("pod", name)["status"]["containerStatuses"]
        return hold_checkpoint(self.cluster.nodes[0], state["containerID"].partition("://")[2])

    def list_pods(self, selector: str = "", namespace: str = "default") -> list[str]:
        """The names of pods that are there, those that are ending among them."""
        items = self.cluster.read("pods", "-n", namespace, *(["-l", selector] if selector else []))["items"]
        return [item["metadata"]["name"] for item in items]

    def wait_no_helpers(self) -> None:
        """Until no helper is there; AssertionError when one stays."""
        wait_until(lambda: not self.list_pods(namespace="warmstart"), 30)


def list_checkpoints(node: Node) -> list[str]:
    """The archives on a node."""
    return [path.name for path in (node.kubelet_directory / "checkpoints").iterdir()]


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Until something is so; AssertionError when it is not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
