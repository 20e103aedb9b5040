"""An activator: it holds requests to a Service without pods until one is ready.

Knative's activator and the interceptor of KEDA's HTTP add-on do the same. The number of requests that wait is a metric
from which an autoscaler learns that there must be a pod.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from support.cluster.cluster import Cluster
from support.cluster.served import QuietHandler, serve_in_cluster

PATIENCE_S = 120.0
POLL_S = 0.02


@dataclass
class Activator:
    """An activator of a Service.

    Attributes:
        cluster: the cluster.
        service: name of the Service.
        address: address and port in the network of the first node, at which it answers.
        noticed_at: moment (`time.monotonic`) when the metric was first read above zero since the last call of `reset`.
    """

    cluster: Cluster
    service: str
    address: tuple[str, int] = ("", 0)
    noticed_at: float | None = None
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read_waiting(self) -> int:
        """Return the number of requests without an answer: the metric."""
        with self._lock:
            if self._waiting and self.noticed_at is None:
                self.noticed_at = time.monotonic()
            return self._waiting

    def reset(self) -> None:
        """Forget when the metric was read."""
        with self._lock:
            self.noticed_at = None

    def call(self, path: str, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        """Send a request as a client outside does, and return the status and body of the response."""
        return self.cluster.nodes[0].http_get(*self.address, path, timeout_s=timeout_s)

    def forward(self, path: str) -> tuple[int, str]:
        """Hold a request until a pod is ready, and return the status and body of its response."""
        with self._lock:
            self._waiting += 1
        try:
            address, port = self._wait_for_pod()
            return self.cluster.nodes[0].http_get(address, port, path)
        finally:
            with self._lock:
                self._waiting -= 1

    def _wait_for_pod(self) -> tuple[str, int]:
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._find_pod()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no pod of the service {self.service} became ready")
            time.sleep(POLL_S)
        return found

    def _find_pod(self) -> tuple[str, int] | None:
        slices = self.cluster.read("endpointslices", selector=f"kubernetes.io/service-name={self.service}")["items"]
        for one in slices:
            for endpoint in one["endpoints"] or ():
                if endpoint["conditions"].get("ready"):
                    return endpoint["addresses"][0], one["ports"][0]["port"]
        return None


@contextlib.contextmanager
def run_activator(cluster: Cluster, service: str) -> Iterator[Activator]:
    """Run an activator of a Service until the end of the block."""
    activator = Activator(cluster, service)

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            try:
                status, body = activator.forward(self.path)
            except OSError as error:
                status, body = 504, str(error)
            self.reply(status, body.encode(), "text/plain")

    with serve_in_cluster(cluster, Handler) as activator.address:
        yield activator
