"""The external metrics API of a cluster, served by this process: autoscalers read their metrics there.

Reference: https://github.com/kubernetes/design-proposals-archive/blob/main/instrumentation/external-metrics-api.md.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from support.cluster.cluster import Cluster
from support.cluster.control_plane import FRONT_PROXY
from support.cluster.served import QuietHandler, serve_in_cluster

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
ROOT = f"/apis/{GROUP}/{VERSION}"
SERVICE, NAMESPACE = "external-metrics", "default"
AVAILABLE_S = 90


@contextlib.contextmanager
def serve_metrics(cluster: Cluster, metrics: Mapping[str, Callable[[], int]]) -> Iterator[None]:
    """Serve metrics, which are called for their values at each request, until the end of the block."""
    with serve_in_cluster(cluster, _make_handler(metrics), _make_tls(cluster)) as (address, port):
        objects = _describe(address, port, cluster.authority.certificate)
        cluster.apply(*objects)
        try:
            wait = ["wait", f"apiservice/{VERSION}.{GROUP}", "--for=condition=Available", f"--timeout={AVAILABLE_S}s"]
            cluster.kubectl(*wait)
            yield
        finally:
            # Discovery would fail in all later calls if the group outlived its server.
            for one in reversed(objects):
                name = f"{one['kind'].lower()}/{one['metadata']['name']}"
                cluster.kubectl("delete", name, f"--namespace={NAMESPACE}")


def _make_handler(metrics: Mapping[str, Callable[[], int]]) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            # Only the API server may ask: it has checked the permissions of the user who asks it.
            subject = dict(pair for [pair] in self.connection.getpeercert()["subject"])
            if subject.get("commonName") != FRONT_PROXY:
                return self.reply(403, b"{}")
            answer = _answer(metrics, self.path.partition("?")[0])
            return self.reply(404 if answer is None else 200, json.dumps(answer or {}).encode())

    return Handler


def _answer(metrics: Mapping[str, Callable[[], int]], path: str) -> dict[str, Any] | None:
    """Return the answer to a request: the list of metrics, or one metric's values, in any namespace."""
    if path == ROOT:
        verbs = {"kind": "ExternalMetricValueList", "namespaced": True, "singularName": "", "verbs": ["get"]}
        resources = [{"name": name, **verbs} for name in metrics]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{VERSION}",
            "resources": resources,
        }
    name = path.rpartition("/")[2]
    if not path.startswith(f"{ROOT}/namespaces/") or name not in metrics:
        return None
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    value = {"metricName": name, "metricLabels": {}, "timestamp": now, "value": str(metrics[name]())}
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [value]}


def _make_tls(cluster: Cluster) -> ssl.SSLContext:
    identity = cluster.authority.issue(SERVICE, addresses=[f"DNS:{SERVICE}.{NAMESPACE}.svc"])
    certificate, key = identity.write(cluster.files, SERVICE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cluster.authority.certificate_file)
    return tls


def _describe(address: str, port: int, authority: str) -> list[dict[str, Any]]:
    """Describe a server that is not a pod as the one that answers for the group."""
    metadata = {"name": SERVICE, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 443}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": port}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": metadata,
                "caBundle": b64encode(authority.encode()).decode(),
            },
        },
    ]
