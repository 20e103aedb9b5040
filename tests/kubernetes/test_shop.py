"""An application as people write them goes from its manifests to restored pods, with a cluster's own secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster.pods import wait_for
from support.cluster_images import push_image
from support.recipes import limit_warmup
from support.shop import (
    IMAGES,
    TOP,
    Credentials,
    Replica,
    add_host_names,
    copy_example,
    describe_credentials,
    make_configuration,
    read_replicas,
    run_services,
    try_login,
    wait_for_rollout,
)

from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.image.open import open_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.open import open_node

pytestmark = pytest.mark.cluster

NAME = "The cluster's shop"
RESTORED = re.compile(r"^warmstart: restored in \d+ ms, hooks in \d+ ms, after-restore steps in \d+ ms$", re.MULTILINE)
BUILD = Credentials("builder", "opens-only-the-database-of-the-build", "token-of-the-build")
CLUSTER = Credentials()


@pytest.fixture(scope="module")
def example(cluster, cache, tmp_path_factory) -> Path:
    """Return a copy of the example whose images are in the cluster's registry."""
    archives = {name: TOP / "build/images" / f"{name}.tar" for name in IMAGES}
    for name, archive in archives.items():
        assert archive.exists(), f"no {name}: make images"
    with open_node("test", cache, Progress(SilentListener())) as session:
        for name, archive in archives.items():
            push_image(cluster, session, archive, f"{name}:{IMAGES[name]}")
    return copy_example(tmp_path_factory.mktemp("example"), cluster.registry)


@pytest.fixture(scope="module")
def image(user, cluster, example, tmp_path_factory) -> str:
    """Build the example's image with secrets that only the build knows."""
    directory = tmp_path_factory.mktemp("secrets")
    values = {"shop-db.username": BUILD.user, "shop-db.password": BUILD.password, "shop-admin.token": BUILD.token}
    words = []
    for name, value in values.items():
        (directory / name).write_text(value)
        words.append(f"--secret={name}={directory / name}")
    words += [f"--set={limit}" for limit in limit_warmup(example / "recipe.yaml")]
    line = ["build", example / "recipe.yaml", "--plain-http", cluster.registry, "--json", *words]
    built = user.call(*line).result
    assert [restore["restorer"] for restore in built["restores"]] == ["self", "self"]
    # In all of its memory, nothing else looks like a secret.
    assert {one["name"] for one in built["findings"]} == {"shop-admin.token", "shop-db.password"}
    assert isinstance(built["image"], str)
    return built["image"]


@pytest.fixture(scope="module")
def services(cluster, example) -> Iterator[dict[str, str]]:
    """Run PostgreSQL and Redis with the cluster's secrets, and return their addresses."""
    make_configuration(cluster, NAME, CLUSTER)
    yield run_services(cluster, example / "k8s")
    cluster.kubectl("delete", "statefulset,deployment,service", "-l", "!provider", "--grace-period=1")


@pytest.fixture(scope="module")
def replicas(user, cluster, example, image, services) -> list[Replica]:
    """Deploy one replica from the example's manifest, then three more."""
    add_host_names(example / "k8s/shop.yaml", services)
    line = ["deploy", image, "--from", example / "k8s/shop.yaml", "--apply", "--plain-http", cluster.registry]
    done = user.call(*line)
    assert done.code == 0, done.err
    wait_for_rollout(cluster, "deployment/shop")
    cluster.kubectl("scale", "deployment/shop", "--replicas=4")
    wait_for_rollout(cluster, "deployment/shop")
    return read_replicas(cluster)


def test_all_replicas_are_restored(replicas):
    assert len(replicas) == 4
    for replica in replicas:
        log = replica.read_log()
        assert RESTORED.search(log), log
        assert ":: Spring Boot ::" not in log
        assert replica.read_status()["restartCount"] == 0
    states = [replica.call("GET", "/state").json for replica in replicas]
    assert len({state["startedAt"] for state in states}) == 1


def test_each_serves_with_the_clusters_configuration_and_secrets(replicas):
    for replica in replicas:
        state = replica.call("GET", "/state").json
        assert state["shop"] == NAME
        assert state["databaseUser"] == CLUSTER.user
        assert (state["pod"], state["address"]) == (replica.name, replica.address)

        def change_price(token: str, replica: Replica = replica) -> int:
            headers = {"X-Admin-Token": token, "Content-Type": "application/json"}
            return replica.call("PUT", "/products/7/price", "12.50", headers).status

        assert change_price(CLUSTER.token) == 200
        assert change_price(BUILD.token) == 403
        assert replica.call("GET", "/products/7").json["price"] == 12.5


def test_replicas_share_their_carts_and_orders(replicas):
    first, second, third, fourth = replicas
    cookie = {"Cookie": first.call("PUT", "/cart/3?quantity=2").cookie}
    assert second.call("GET", "/cart", headers=cookie).json == {"3": 2}
    order = third.call("POST", "/orders?customer=Ada", headers=cookie).json
    assert fourth.call("GET", f"/orders/{order['id']}").json == order
    assert first.call("GET", "/cart", headers=cookie).json == {}


def test_the_builds_password_opens_nothing(cluster, replicas, services):
    address = services["postgres"]
    assert try_login(cluster, address, CLUSTER.user, CLUSTER.password) == CLUSTER.user
    for user in (BUILD.user, CLUSTER.user):
        assert "password authentication failed" in try_login(cluster, address, user, BUILD.password)


def test_a_pod_that_starts_after_the_password_was_rotated_is_warm_and_uses_it(cluster, replicas, services):
    rotated = Credentials(CLUSTER.user)
    login = f"postgresql://{CLUSTER.user}:{CLUSTER.password}@{services['postgres']}/shop"
    change = f"ALTER ROLE {rotated.user} PASSWORD '{rotated.password}'"
    cluster.kubectl("exec", "postgres-0", "--", "psql", login, "-c", change)
    cluster.apply(describe_credentials(rotated))
    cluster.kubectl("delete", f"pod/{replicas[0].name}", "--now")
    known = {replica.name for replica in replicas}
    replica = wait_for(lambda: next((one for one in read_replicas(cluster) if one.name not in known), None))
    assert RESTORED.search(replica.read_log())
    assert replica.call("GET", "/products/7").json["price"] == 12.5
    assert "password authentication failed" in try_login(cluster, services["postgres"], CLUSTER.user, CLUSTER.password)


def test_the_image_holds_nothing_of_the_cluster(cluster, image, replicas):
    # The build's name of the database's user is in the memory: the search finds what is there.
    assert find(cluster, image, BUILD.user)
    for value in (CLUSTER.password, CLUSTER.user, CLUSTER.token):
        assert find(cluster, image, value) == []


def test_the_manifest_holds_no_secret_of_the_build(cluster, image):
    with open_image(parse_source(f"docker://{image}"), access=RegistryAccess((cluster.registry,))) as opened:
        published = json.dumps(opened.image.manifest.annotations)
    assert "shop-db" in published
    for value in (BUILD.password, BUILD.token):
        assert value not in published


def find(cluster, image: str, value: str) -> list[str]:
    """Return the digests of the image's layers that contain a value."""
    found = []
    with open_image(parse_source(f"docker://{image}"), access=RegistryAccess((cluster.registry,))) as opened:
        for layer in opened.image.manifest.layers:
            with opened.open_layer(layer) as content:
                if contains(content, value.encode()):
                    found.append(layer.digest)
    return found


def contains(content, value: bytes) -> bool:
    """Return whether a stream contains a value, and read it to its end."""
    found, end = False, b""
    while part := content.read(1 << 20):
        found = found or value in end + part
        end = part[-len(value) :]
    return found
