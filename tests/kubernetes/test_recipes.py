"""Services with a database go from their recipes to restored pods, with databases and passwords of the cluster."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cluster.pods import find_ready_pods
from support.cluster_images import push_image
from support.shop import TOP, Replica, wait_for_rollout

from warmstart.core.progress import Progress, SilentListener
from warmstart.core.yaml_document import read_document
from warmstart.core.yaml_writing import write_yaml
from warmstart.node.open import open_node

pytestmark = pytest.mark.cluster

BUILD_PASSWORD = "opens-only-the-database-of-the-build"


@dataclass(frozen=True)
class Service:
    """A recipe, the user of its database, changes to it, and a request that writes something: path and body."""

    name: str
    user: str
    changes: tuple[str, ...]
    write: tuple[str, str]

    @property
    def recipe(self) -> Path:
        return TOP / "recipes" / self.name / "recipe.yaml"

    @property
    def secret(self) -> str:
        return f"{self.user}-db"


# The runtime restores it, and the pod's hook does the step.
PYTHON = Service(
    "python-postgres",
    "guestbook",
    (
        "restore[0]=runtime",
        "restore[1]=self",
        "afterRestore[0].httpGet.path=/state",
        "afterRestore[0].httpGet.port=8080",
    ),
    ("/entries", '{"name": "Ada", "text": "by the first"}'),
)
NODE = Service(
    "node-postgres", "links", ("restore[0]=self", "late=[DB_HOST]"), ("/links", '{"url": "https://example.com/one"}')
)


def make_deployment(service: Service, registry: str, addresses: dict[str, str]) -> dict[str, Any]:
    """Return the Deployment of people who have the image of a recipe. The cluster has no DNS."""
    recipe = copy.deepcopy(read_document(service.recipe.read_bytes(), service.name).value)
    image = {"image": f"{registry}/{service.name}:1.0"}
    inits = [{**one, **image} for one in recipe["initContainers"]]
    labels = {"app": service.user}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "hostAliases": [{"ip": address, "hostnames": [name]} for name, address in addresses.items()],
        "initContainers": inits,
        "containers": [{"name": "web", **recipe["container"], **image}],
        "volumes": recipe["volumes"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": service.user},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def make_pod(name: str, image: str, *env: dict[str, Any], probe: list[str]) -> dict[str, Any]:
    """Return a database's pod."""
    ready = {"exec": {"command": probe}, "periodSeconds": 1, "failureThreshold": 60}
    container = {"name": "main", "image": image, "env": list(env), "readinessProbe": ready}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"part": "database"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }


@pytest.fixture(scope="module")
def addresses(cluster, cache) -> Iterator[dict[Service, dict[str, str]]]:
    """Push the images, run Redis and a PostgreSQL for each service, and return their addresses by name."""
    with open_node("test", cache, Progress(SilentListener())) as session:
        for name in (PYTHON.name, NODE.name, "postgres", "redis"):
            archive = TOP / f"build/images/{name}.tar"
            assert archive.exists(), f"no {name}: make images"
            push_image(cluster, session, archive, f"{name}:1.0")
    pods = [make_pod("redis", f"{cluster.registry}/redis:1.0", probe=["redis-cli", "ping"])]
    for one in (PYTHON, NODE):
        password = secrets.token_hex(12)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": one.secret}}
        cluster.apply({**secret, "stringData": {"password": password}})
        source = {"valueFrom": {"secretKeyRef": {"name": one.secret, "key": "password"}}}
        env = ({"name": "POSTGRES_USER", "value": one.user}, {"name": "POSTGRES_PASSWORD", **source})
        probe = ["pg_isready", "--host=127.0.0.1", f"--username={one.user}"]
        pods.append(make_pod(f"{one.user}-postgres", f"{cluster.registry}/postgres:1.0", *env, probe=probe))
    cluster.apply(*pods)
    cluster.kubectl("wait", "pod", "-l", "part=database", "--for=condition=Ready", "--timeout=60s", timeout_s=70)
    found = {pod["metadata"]["name"]: cluster.read("pods", pod["metadata"]["name"])["status"]["podIP"] for pod in pods}
    yield {one: {"postgres": found[f"{one.user}-postgres"], "redis": found["redis"]} for one in (PYTHON, NODE)}
    cluster.kubectl("delete", "deployment", PYTHON.user, NODE.user, "--ignore-not-found")
    cluster.kubectl("delete", "pod", "--all", "--grace-period=1")
    cluster.kubectl("delete", "secret", PYTHON.secret, NODE.secret)


@pytest.mark.parametrize("service", [PYTHON, NODE], ids=lambda service: service.name)
def test_replicas_are_restored_and_serve_with_the_clusters_database(user, cluster, addresses, tmp_path, service):
    password, manifest = tmp_path / "password", tmp_path / "deployment.yaml"
    password.write_text(BUILD_PASSWORD)
    image, access = f"{cluster.registry}/{service.name}:1.0-warm", ["--plain-http", cluster.registry]
    settings = ["--tag", image, *(word for change in service.changes for word in ("--set", change))]
    line = ["build", service.recipe, *settings, "--secret", f"{service.secret}.password={password}", *access, "--json"]
    assert user.call(*line).result["status"] == "built"

    manifest.write_text(write_yaml(make_deployment(service, cluster.registry, addresses[service])))
    done = user.call("deploy", image, "--from", manifest, "--apply", *access)
    assert done.code == 0, done.err
    wait_for_rollout(cluster, f"deployment/{service.user}")
    pods = find_ready_pods(cluster, f"app={service.user}")
    first, second = (
        Replica(cluster, pod["metadata"]["name"], pod["spec"]["nodeName"], pod["status"]["podIP"]) for pod in pods
    )
    # Both go on from the build's process, which is older than the pods.
    states = [replica.call("GET", "/state").json for replica in (first, second)]
    begun = {state["startedAt"] for state in states}
    assert len(begun) == 1
    assert begun.pop() < min(pod["metadata"]["creationTimestamp"] for pod in pods)
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for pod in pods)
    # Nothing but the cluster's password opens the database that they share.
    path, body = service.write
    written = first.call("POST", path, body, {"Content-Type": "application/json"}).json
    if service is PYTHON:
        # One visit for each replica's step.
        assert [state["visits"] for state in states] == [3, 4]
        assert second.call("GET", "/entries").json == [written]
    else:
        assert second.call("GET", f"/to/{written['code']}").status == 302
        check_cold_start(cluster, service)


def check_cold_start(cluster, service: Service) -> None:
    """Check that a pod with another value of a frozen variable starts cold, and says the variable's name."""
    pod = cluster.read("deployments", service.user)["spec"]["template"]["spec"]
    alias = next(one for one in pod["hostAliases"] if one["hostnames"] == ["redis"])
    alias["hostnames"].append("hidden-cache")
    variable = next(one for one in pod["containers"][0]["env"] if one["name"] == "REDIS_HOST")
    variable["value"] = "hidden-cache"
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "differs"}, "spec": pod})
    cluster.kubectl("wait", "pod/differs", "--for=condition=Ready", "--timeout=60s", timeout_s=70)
    log = cluster.kubectl("logs", "differs", "--container=web")
    assert "warmstart: cold start: the variable REDIS_HOST differs from the checkpoint's (" in log
    assert "hidden-cache" not in log
