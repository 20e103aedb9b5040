"""A user who runs the warmstart command for a cluster."""

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
from support.cluster.pods import describe_pod, wait_until_ready
from support.hold import Hold, hold_checkpoint

RUN_S = 600


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """Return the JSON document that `--json` printed."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class User:
    """A user of the command.

    Attributes:
        cluster: the cluster.
        cache: cache directory of the tools.
        base: the server's image in the cluster's registry.
        helper: image for helper pods in the cluster's registry.
    """

    cluster: Cluster
    cache: Path
    base: str
    helper: str

    def call(
        self, *words: str | Path, kubeconfig: Path | None = None, helper: str | None = None, inside: Node | None = None
    ) -> Done:
        """Run `warmstart` on this machine, or in the network of a node."""
        prefix = ["nsenter", f"--net={inside.session.network}"] if inside else []
        return self._run([*prefix, sys.executable, "-m", "warmstart", *map(str, words)], kubeconfig, helper)

    def interrupt(self, signal: str, step: str, delay_s: float, *words: str | Path) -> Done:
        """Run `warmstart`, and send it a signal during a step."""
        prefix = f"warmstart-{os.getpid()}-"
        head = [sys.executable, strike.__file__, signal, step, str(delay_s), prefix]
        return self._run([*head, *map(str, words)], None, None)

    def _run(self, command: list[str], kubeconfig: Path | None, helper: str | None) -> Done:
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig),
            "WARMSTART_CACHE": str(self.cache),
            "WARMSTART_HELPER_IMAGE": helper or self.helper,
            # This checkout, whatever is installed.
            "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parents[2]))),
        }
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, env=environment, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def grant(self, task: str) -> Path:
        """Create the service account for a task with `warmstart rbac`, and return its kubeconfig."""
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
        """Run a pod of the server, and delete all pods with its labels (by default `app=NAME`) at the end."""
        labels = labels or {"app": name}
        document = describe_pod(name, self.base, container, **spec)
        document["metadata"]["labels"] = dict(labels)
        self.cluster.apply(document)
        try:
            self.wait_ready(name)
            yield name
        finally:
            selector = ",".join(f"{key}={value}" for key, value in labels.items())
            self.cluster.delete_pods(labelSelector=selector)

    def wait_ready(self, name: str) -> None:
        """Wait until a pod is ready."""
        wait_until_ready(self.cluster, name)

    def read_state(self, name: str) -> dict[str, Any]:
        """Return the random id of the server and the number of its requests."""
        address = self.cluster.read("pods", name)["status"]["podIP"]
        state: dict[str, Any] = json.loads(self.cluster.nodes[0].http_get(address, PORT, "/state")[1])
        return state

    def hold(self, name: str) -> AbstractContextManager[Hold]:
        """Delay the checkpoints of a pod on the first node."""
        [state] = self.cluster.read("pods", name)["status"]["containerStatuses"]
        return hold_checkpoint(self.cluster.nodes[0], state["containerID"].partition("://")[2])

    def list_pods(self, selector: str = "", namespace: str = "default") -> list[str]:
        """List the names of pods, including terminating ones."""
        items = self.cluster.read("pods", namespace=namespace, selector=selector)["items"]
        return [item["metadata"]["name"] for item in items]

    def wait_no_helpers(self) -> None:
        """Wait until no helper pod is left.

        Raises:
            AssertionError: one is left after 30 seconds.
        """
        wait_until(lambda: not self.list_pods(namespace="warmstart"), 30)


def list_checkpoints(node: Node) -> list[str]:
    """List the checkpoint archives on a node."""
    return [path.name for path in (node.kubelet_directory / "checkpoints").iterdir()]


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait until the condition is true.

    Raises:
        AssertionError: it is still false after `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
