"""A recipe with services, an init container and both restorers is built in a cluster, and runs there from its image."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.cluster_images import push_image
from support.cluster_user import list_checkpoints, wait_until

from warmstart.core.progress import Progress, SilentListener
from warmstart.node.open import open_node

pytestmark = pytest.mark.cluster

TOP = Path(__file__).parents[2]
NAMES = ("python-postgres", "postgres", "redis")
BUILD = "app.kubernetes.io/managed-by=warmstart"
CLUSTERS_PASSWORD = "opens-only-the-database-of-the-cluster"
MARK = "import pathlib; pathlib.Path('/tmp/mark').write_text('of the build')"


@pytest.fixture(scope="module")
def recipe(cluster, cache) -> dict[str, Any]:
    """Return the recipe of the guest book, with images in the cluster's registry and a short warm-up."""
    archives = {name: TOP / "build/images" / f"{name}.tar" for name in NAMES}
    for name, archive in archives.items():
        assert archive.exists(), f"no {name}: make images"
    with open_node("test", cache, Progress(SilentListener())) as session:
        images = {name: push_image(cluster, session, archive, f"{name}:1") for name, archive in archives.items()}
    text = (TOP / "recipes/python-postgres/recipe.yaml").read_text()
    for name, image in images.items():
        text = text.replace(f"oci-archive:../../build/images/{name}.tar", image)
    document: dict[str, Any] = YAML(typ="safe").load(text)
    for step in document["warmup"]:
        step["repeat"] = 5
    # Hooks close the connections to the services, so none is open at the checkpoint.
    assert (document["hooks"], document["tcp"]) == (["python"], "refuse")
    return document | {
        "image": {"name": f"{cluster.registry}/tests/guestbook:1"},
        "beforeCheckpoint": [{"exec": {"command": ["python3", "-c", MARK]}}],
    }


@pytest.fixture(scope="module")
def built(user, cluster, recipe, tmp_path_factory) -> dict[str, Any]:
    """Build it with no more than the rights of a build."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    line = ["build", path, "--engine", "kubernetes", "-n", "default", "--plain-http", cluster.registry, "--json"]
    built: dict[str, Any] = user.call(*line, kubeconfig=user.grant("build")).result
    return built


def test_both_restorers_were_verified_and_nothing_is_left(user, cluster, built):
    assert {restore["restorer"] for restore in built["restores"]} == {"runtime", "self"}
    # Whether memory that the hooks have freed still holds it is chance.
    assert {one["name"] for one in built["secrets"]} <= {"guestbook-db.password"}
    assert {one["runtime"].split()[0] for one in built["hooks"]} == {"python"}
    by_itself = [one for one in built["restores"] if one["restorer"] == "self"]
    assert all(one["hooksMilliseconds"] >= 0 for one in by_itself)
    wait_until(lambda: not user.list_pods(BUILD), 30)
    assert not cluster.kubectl("get", "secrets", "-n", "default", "-l", BUILD, "-o", "name")
    assert user.list_pods(namespace="warmstart") == []
    assert list_checkpoints(cluster.nodes[0]) == []


@pytest.fixture
def services(user, cluster, recipe) -> Iterator[dict[str, str]]:
    """Run PostgreSQL and Redis with the cluster's password, and return their addresses by name."""
    cluster.kubectl("create", "secret", "generic", "guestbook-db", f"--from-literal=password={CLUSTERS_PASSWORD}")
    names = []
    for service in recipe["build"]["services"]:
        names.append(service["name"])
        container = {**service["container"], "name": service["name"]}
        cluster.apply(describe(service["name"], containers=[container]))
    for name in names:
        user.wait_ready(name)
    yield {name: cluster.read("pods", name)["status"]["podIP"] for name in names}
    cluster.kubectl("delete", "secret/guestbook-db", *(f"pod/{name}" for name in [*names, "guestbook"]), "--now")


def describe(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, **copy.deepcopy(spec)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_a_pod_goes_on_from_the_image_with_the_clusters_services(user, cluster, recipe, built, services):
    container = {**recipe["container"], "name": "python-postgres", "image": built["image"]}
    hosts = [{"ip": address, "hostnames": [name]} for name, address in services.items()]
    pod = {
        "containers": [{**container, "imagePullPolicy": "Always"}],
        "initContainers": recipe["initContainers"],
        "volumes": recipe["volumes"],
        "hostAliases": hosts,
    }
    cluster.apply(describe("guestbook", **pod))
    user.wait_ready("guestbook")
    state = user.read_state("guestbook")
    made = datetime.fromisoformat(cluster.read("pods", "guestbook")["metadata"]["creationTimestamp"])
    assert datetime.fromisoformat(state["startedAt"]) < made
    # Those of the build had other numbers.
    assert (state["entries"], state["visits"]) == (0, 1)
    assert cluster.kubectl("exec", "guestbook", "--", "cat", "/tmp/mark") == "of the build"
