"""A pod moves while it serves requests: the experience of its clients, and the reported times."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.builds import PORT, READY
from support.cluster.cluster import Cluster
from support.cluster_user import list_checkpoints, wait_until

from warmstart.kube.client import connect_cluster

pytestmark = pytest.mark.cluster

NAME = "served"
PERIOD_S = 0.05
PATIENCE_S = 30.0
# What a poll of the service's addresses, or a busy machine, may add to what is measured elsewhere.
SLACK_S = 5.0
# For how long the pod is held while it is frozen: longer than a request takes for any other reason.
HELD_S = 4.0
# Requests are on their way at any time: what is accepted is closed in the copy, and what is not is left out of it.
RUNC_CONF = "tcp-established\nskip-in-flight\n"


@dataclass(frozen=True)
class Answer:
    """A response: its pod and state, and `time.monotonic()` of the request and of the response."""

    address: str
    state: dict[str, Any]
    asked: float
    answered: float


class Clients:
    """Clients of a service that send requests at a steady rate, on new connections, even while others wait.

    They connect like through a proxy: to the ready addresses of the service's EndpointSlices in turn.
    """

    def __init__(self, cluster: Cluster, service: str) -> None:
        self._node = cluster.nodes[0]
        self._service = service
        self._addresses: list[str] = []
        self._done = threading.Event()
        self._asked: list[Future[Answer]] = []

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Send requests during the block."""
        with ThreadPoolExecutor(200) as pool, connect_cluster(namespace="default") as api:
            following = pool.submit(self._follow, api)
            wait_until(lambda: bool(self._addresses) or following.done(), 30)
            pacing = pool.submit(self._pace, pool)
            try:
                yield
            finally:
                self._done.set()
            following.result()
            pacing.result()

    @property
    def answers(self) -> list[Answer]:
        """Return all responses so far, in the order of their requests. Errors of requests are raised."""
        return [asked.result() for asked in list(self._asked)]

    @property
    def addresses(self) -> list[str]:
        """Return the addresses that they use at the moment."""
        return self._addresses

    def _follow(self, api: Any) -> None:
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        query = {"labelSelector": f"kubernetes.io/service-name={self._service}"}
        while not self._done.wait(PERIOD_S):
            slices = api.request("GET", path, query=query).value["items"]
            found = [one for each in slices for one in each.get("endpoints") or () if one["conditions"]["ready"]]
            self._addresses = [address for one in found for address in one["addresses"]]

    def _pace(self, pool: ThreadPoolExecutor) -> None:
        turn = 0
        while not self._done.wait(PERIOD_S):
            # A service without any ready pod turns everybody away: that is an error, too.
            addresses = self._addresses
            self._asked.append(pool.submit(self._ask, addresses[turn % len(addresses)]))
            turn += 1

    def _ask(self, address: str) -> Answer:
        asked = time.monotonic()
        status, body = self._node.http_get(address, PORT, "/state", timeout_s=PATIENCE_S)
        assert status == 200
        return Answer(address, json.loads(body), asked, time.monotonic())


def make_pod(image: str) -> dict[str, Any]:
    # As with any pod that is replaced, it takes a moment until all know that it is going away.
    server = {
        "name": "server",
        "image": image,
        "ports": [{"containerPort": PORT}],
        "readinessProbe": READY,
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
    }
    spec = {"nodeName": "node-1", "terminationGracePeriodSeconds": 10, "containers": [server]}
    return {"metadata": {"name": NAME, "labels": {"app": NAME}}, "spec": spec}


def make_deployment(image: str) -> dict[str, Any]:
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": NAME}}, "template": make_pod(image)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, "spec": spec}


@pytest.fixture(params=["Pod", "Deployment"])
def served(user, cluster, request, monkeypatch) -> Iterator[str]:
    """Return the name of a pod that serves requests on a node that dumps open connections."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    user.grant("save")
    options = cluster.nodes[0].session.root / "etc/criu/runc.conf"
    options.parent.mkdir(exist_ok=True)
    options.write_text(RUNC_CONF)
    ports = [{"port": 80, "targetPort": PORT}]
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": NAME}, "ports": ports}}
    pod = {"apiVersion": "v1", "kind": "Pod", **make_pod(user.base)}
    cluster.apply(
        {**service, "metadata": {"name": NAME}}, pod if request.param == "Pod" else make_deployment(user.base)
    )
    wait_until(lambda: bool(user.list_pods(f"app={NAME}")), 30)
    [name] = user.list_pods(f"app={NAME}")
    user.wait_ready(name)
    yield name
    cluster.kubectl("delete", f"service/{NAME}", f"deployment/{NAME}", "--ignore-not-found")
    cluster.kubectl("delete", "pod", "-l", f"app={NAME}", "--ignore-not-found")
    options.unlink()
    user.wait_no_helpers()
    assert list_checkpoints(cluster.nodes[0]) == []


def test_clients_are_served_while_a_pod_moves(user, cluster, second_node, served):
    image = f"{cluster.registry}/saved/under-load:1"
    clients = Clients(cluster, NAME)
    with clients.asking(), user.hold(served) as hold, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: len(clients.answers) > 40, 60)
        [old] = clients.addresses
        words = ["migrate", served, "-n", "default", "--to", second_node.name, "--image", image, "--json"]
        calling = pool.submit(user.call, *words, "--plain-http", cluster.registry)
        wait_until(lambda: hold.held or calling.done(), 120)
        time.sleep(HELD_S)
        hold.release()
        moved = calling.result().result
        new = moved["restored"]["address"]
        wait_until(lambda: clients.addresses == [new], 30)
        asked = len(clients.answers)
        wait_until(lambda: len(clients.answers) > asked + 40, 60)
    # Each of them had an answer, from the same application.
    answers = clients.answers
    assert {answer.address for answer in answers} == {old, new}
    assert len({answer.state["id"] for answer in answers}) == 1
    before, after = ([one for one in answers if one.address == address] for address in (old, new))
    assert_goes_on(before, after)
    assert_as_reported(before, after, moved)


def count(answers: list[Answer]) -> list[int]:
    return [one.state["requests"] for one in answers]


def find_frozen(before: list[Answer]) -> Answer:
    """Return the request that waited longest, while the pod was frozen."""
    return max(before, key=lambda one: one.answered - one.asked)


def assert_goes_on(before: list[Answer], after: list[Answer]) -> None:
    """Check that the copy continues counting from the checkpoint, and that every count occurs once."""
    known = [one for one in before if one.answered < find_frozen(before).asked]
    assert min(count(after)) > max(count(known))
    for answers in (before, after):
        assert len(set(count(answers))) == len(answers)
    assert max(count(after)) >= min(count(after)) + len(after) - 1


def assert_as_reported(before: list[Answer], after: list[Answer], moved: dict[str, Any]) -> None:
    """Check that clients waited, and the old pod's work was lost, for no longer than reported."""
    frozen = find_frozen(before)
    waited_s = frozen.answered - frozen.asked
    checkpoint = moved["saved"]["checkpoint"]
    assert HELD_S / 2 < waited_s < moved["downtimeSeconds"] + SLACK_S
    assert moved["downtimeSeconds"] == checkpoint["stoppedAtMostSeconds"]
    # From the checkpoint until the copy is asked, and until the old one is not asked any more.
    assert abs(min(one.asked for one in after) - frozen.asked - moved["gapSeconds"]) < SLACK_S
    window_s = moved["gapSeconds"] + moved["overlapSeconds"]
    assert max(one.asked for one in before) - frozen.asked < window_s + SLACK_S
