"""The shop of examples/shop in a cluster, with a configuration and secrets of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from support.cluster.cluster import CALL_S, Cluster
from support.cluster.pods import find_ready_pods

from warmstart.core.network import connect_in
from warmstart.core.process import ProgramError

TOP = Path(__file__).parents[2]
EXAMPLE = TOP / "examples/shop"
IMAGES = {"shop": "1.0", "postgres": "17", "redis": "8"}
REGISTRY = "localhost:5000"
PORT = 8080
START_S = 120
DATA = "/var/lib/shop"


@dataclass(frozen=True)
class Answer:
    """An HTTP response: its status, its body, and the cookie that it sets."""

    status: int
    body: str
    cookie: str

    @property
    def json(self) -> Any:
        """Return the body's JSON document."""
        assert self.status in (200, 201), self
        return json.loads(self.body)


@dataclass(frozen=True)
class Credentials:
    """The values of a Secret for the database and of one for the administrator."""

    user: str = field(default_factory=lambda: f"keeper_{secrets.token_hex(4)}")
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    token: str = field(default_factory=lambda: secrets.token_hex(12))


@dataclass(frozen=True)
class Replica:
    """A pod of the shop."""

    cluster: Cluster
    name: str
    node: str
    address: str

    def call(self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request to the shop."""
        connection = HTTPConnection(self.address, PORT, timeout=30)
        connection.sock = connect_in(self.cluster.nodes[0].session.network, (self.address, PORT), 60)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
            return Answer(response.status, response.read().decode(), cookie)

    def read_log(self) -> str:
        """Return the log of the shop's container."""
        return self.cluster.kubectl("logs", self.name, "--container=shop")

    def read_status(self) -> dict[str, Any]:
        """Return the status of the shop's container."""
        found = self.cluster.read("pods", self.name)["status"]["containerStatuses"]
        [status] = [one for one in found if one["name"] == "shop"]
        assert isinstance(status, dict)
        return status


def copy_example(directory: Path, registry: str) -> Path:
    """Copy the example's recipe and manifests, with their images in another registry, and return the copy."""
    copy = directory / "shop"
    shutil.copytree(EXAMPLE / "k8s", copy / "k8s")
    shutil.copy(EXAMPLE / "recipe.yaml", copy)
    for file in copy.rglob("*.yaml"):
        file.write_text(file.read_text().replace(REGISTRY, registry))
    return copy


def make_configuration(cluster: Cluster, name: str, credentials: Credentials) -> None:
    """Create the shop's ConfigMap and Secrets, with other values than those of the example."""
    config = {
        "SHOP_NAME": name,
        "DB_URL": "jdbc:postgresql://postgres:5432/shop",
        "REDIS_HOST": "redis",
        "LOGGING_LEVEL_COM_EXAMPLE": "info",
    }
    cluster.apply(
        _describe("ConfigMap", "shop-config", data=config),
        describe_credentials(credentials),
        _describe("Secret", "shop-admin", stringData={"token": credentials.token}),
    )


def describe_credentials(credentials: Credentials) -> dict[str, Any]:
    """Return the Secret for the database."""
    data = {"username": credentials.user, "password": credentials.password}
    return _describe("Secret", "shop-db", stringData=data)


def run_services(cluster: Cluster, manifests: Path) -> dict[str, str]:
    """Run PostgreSQL and Redis on the first node, and return their addresses by name."""
    cluster.nodes[0].session.run(["install", "-d", "-o", "1000", "-g", "1000", DATA], timeout_s=60)
    cluster.apply(
        {
            **_describe("PersistentVolume", "shop-data"),
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": DATA},
                "nodeAffinity": _on_node(cluster.nodes[0].name),
            },
        }
    )
    for name in ("postgres", "redis"):
        cluster.kubectl("apply", "-f", manifests / f"{name}.yaml")
    for name in ("postgres", "redis"):
        wait_for_rollout(cluster, f"statefulset/{name}")
    return {name: cluster.read("pods", f"{name}-0")["status"]["podIP"] for name in ("postgres", "redis")}


def _describe(kind: str, name: str, **fields: object) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


def _on_node(name: str) -> dict[str, Any]:
    where = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [where]}]}}


def add_host_names(manifest: Path, addresses: Mapping[str, str]) -> None:
    """Let the pods of a manifest find services by name: the cluster has no DNS."""
    lines = "".join(f"        - {{ip: {address}, hostnames: [{name}]}}\n" for name, address in addresses.items())
    # The file ends in the pod's volumes.
    manifest.write_text(f"{manifest.read_text()}      hostAliases:\n{lines}")


def wait_for_rollout(cluster: Cluster, what: str) -> None:
    """Wait until all pods of a workload are ready."""
    try:
        cluster.kubectl("rollout", "status", what, f"--timeout={START_S}s", timeout_s=START_S + CALL_S)
    except ProgramError as error:
        name = what.partition("/")[2]
        error.add_note(cluster.kubectl("describe", "pods", "-l", f"app={name}"))
        error.add_note(cluster.kubectl("logs", "-l", f"app={name}", "--all-containers", "--tail=40", "--prefix"))
        raise


def read_replicas(cluster: Cluster) -> list[Replica]:
    """Return the shop's pods that are ready."""
    return [
        Replica(cluster, pod["metadata"]["name"], pod["spec"]["nodeName"], pod["status"]["podIP"])
        for pod in find_ready_pods(cluster, "app=shop")
    ]


def try_login(cluster: Cluster, address: str, user: str, password: str) -> str:
    """Log in to PostgreSQL from another pod, and return psql's output or its error."""
    query = ["psql", f"--host={address}", f"--username={user}", "--dbname=shop", "-tAc", "SELECT current_user"]
    try:
        words = ["exec", "postgres-0", "--", "env", f"PGPASSWORD={password}", *query]
        return cluster.kubectl(*words).strip()
    except ProgramError as error:
        return error.stderr
