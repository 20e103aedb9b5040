"""The tests' cluster is a real one with access control and checkpoints, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from support.builds import STATE, build, write_recipe
from support.cluster.network import API_ADDRESS
from support.cluster.node import Node
from support.cluster.pods import Pod, run_pod
from support.cluster.program import VERSION
from support.go_tools import CONTAINERD, ensure_go_tool
from support.leaks import take_snapshot, wait_until_clean

from warmstart.build.context import BuildOptions
from warmstart.core.network import connect_in
from warmstart.core.process import ProgramError
from warmstart.image.registry.credentials import RegistryAccess

pytestmark = pytest.mark.cluster

WARMUPS = 7
# As the restricted standard asks.
RESTRICTED = {
    "securityContext": {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
KEEPER_S = 60.0


@pytest.fixture(scope="module")
def pod(cluster, base_image):
    with run_pod(cluster, "server", base_image) as pod:
        yield pod


@pytest.fixture(scope="module")
def warm_image(cluster, cache, base_archive, tmp_path_factory) -> str:
    """Build an image in the cluster's registry that is dumped after WARMUPS requests."""
    name = f"{cluster.registry}/tests/warm:1"
    recipe = write_recipe(
        tmp_path_factory.mktemp("warm") / "recipe.yaml", base_archive, name, warmup=[{**STATE, "repeat": WARMUPS}]
    )
    build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))
    return name


def fail(cluster, *words: str, **options) -> str:
    """Run kubectl, which must fail, and return its error."""
    with pytest.raises(ProgramError) as caught:
        cluster.kubectl(*words, **options)
    return caught.value.stderr


def test_a_node_says_what_it_is(cluster):
    information = cluster.read("nodes", "node-1")["status"]["nodeInfo"]
    assert information["kubeletVersion"] == f"v{VERSION}"
    assert information["containerRuntimeVersion"] == "cri-o://1.36.3"


def test_a_pod_answers_and_logs_and_executes(cluster, pod):
    assert pod.get("/ready")[0] == 200
    assert cluster.kubectl("logs", pod.name) == "listening\n"
    # The image has no other program; a second server finds its port taken.
    assert "listen: Address already in use" in fail(cluster, "exec", pod.name, "--", "/server")


def test_a_pod_with_guaranteed_resources_runs(cluster, base_image):
    limits = {"resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}}
    with run_pod(cluster, "guaranteed", base_image, limits) as pod:
        assert cluster.read("pods", pod.name)["status"]["qosClass"] == "Guaranteed"


def test_a_pod_reaches_the_api_server_as_its_service_account(cluster, base_image):
    cluster.kubectl("create", "serviceaccount", "caller")
    spec = {"automountServiceAccountToken": True, "serviceAccountName": "caller"}
    with run_pod(cluster, "caller", base_image, **spec) as pod:
        volume = cluster.read("pods", pod.name)["spec"]["volumes"][0]["name"]
        uid = cluster.read("pods", pod.name)["metadata"]["uid"]
        secret = Path("var/lib/kubelet/pods") / uid / "volumes/kubernetes.io~projected" / volume
        files = cluster.nodes[0].session.root / secret
        context = ssl.create_default_context(cadata=(files / "ca.crt").read_text())
        status, answer = ask_api_server(cluster, context, (files / "token").read_text(), "/api/v1/pods")
    assert status == 403
    assert "system:serviceaccount:default:caller" in answer


def ask_api_server(cluster, context: ssl.SSLContext, token: str, path: str) -> tuple[int, str]:
    """Send a request to the API server at the address of the service, like a pod."""
    with connect_in(cluster.nodes[0].session.network, (API_ADDRESS, 443), 5) as plain:
        connection = HTTPSConnection(API_ADDRESS)
        connection.sock = context.wrap_socket(plain, server_hostname=API_ADDRESS)
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def test_who_was_not_allowed_to_may_not(cluster):
    stranger = cluster.write_kubeconfig("stranger", groups=["developers"])
    assert 'User "stranger" cannot list resource "nodes"' in fail(cluster, "get", "nodes", kubeconfig=stranger)


def checkpoint_words(pod) -> list[str]:
    """Return the arguments of kubectl to request a checkpoint from the kubelet. Its standard input must be empty."""
    return ["create", f"--raw=/api/v1/nodes/node-1/proxy/checkpoint/default/{pod.name}/{pod.name}", "--filename=-"]


def take_checkpoint(cluster, pod) -> Path:
    """Have the kubelet take a checkpoint, and return the path of its archive.

    CRIU refuses a container with an open connection, such as that of a probe, so one attempt may fail.
    """
    for left in reversed(range(5)):
        try:
            (item,) = json.loads(cluster.kubectl(*checkpoint_words(pod), stdin=""))["items"]
            return Path(item)
        except ProgramError:
            if not left:
                raise
            time.sleep(0.3)
    raise AssertionError


def test_the_kubelet_takes_a_checkpoint_and_the_pod_goes_on(cluster, pod):
    before = pod.read_state()["id"]
    archive = take_checkpoint(cluster, pod)
    assert archive.parent == Path("/var/lib/kubelet/checkpoints")
    seen = cluster.nodes[0].kubelet_directory / "checkpoints" / archive.name
    with tarfile.open(seen) as tar:
        assert "config.dump" in tar.getnames()
    seen.unlink()
    assert pod.read_state()["id"] == before


def test_only_who_may_takes_a_checkpoint(cluster, pod):
    words, stranger = checkpoint_words(pod), cluster.write_kubeconfig("stranger")
    assert 'cannot create resource "nodes/proxy"' in fail(cluster, *words, stdin="", kubeconfig=stranger)


def test_a_warm_image_is_restored_in_every_pod(cluster, warm_image):
    with run_pod(cluster, "warm-1", warm_image) as one, run_pod(cluster, "warm-2", warm_image) as other:
        first, second = one.read_state(), other.read_state()
    assert first["id"] == second["id"]
    assert first["requests"] >= WARMUPS


def test_a_restored_container_that_ends_is_restored_again(cluster, warm_image):
    with run_pod(cluster, "killed", warm_image) as pod:
        before = pod.read_state()["id"]
        kill_and_wait(cluster, pod)
        assert pod.read_state()["id"] == before
        # The kubelet lets it be: it was not restarted for a reason of its own.
        assert cluster.read("pods", pod.name)["status"]["containerStatuses"][0]["restartCount"] == 1


def kill_and_wait(cluster, pod: Pod, name: str = "server") -> None:
    """Kill the first process of a pod's container, which has this name, and wait until the kubelet has restarted it."""
    (process,) = pod.find_processes(name)
    os.kill(process, signal.SIGKILL)
    for condition in ("jsonpath={.status.containerStatuses[0].restartCount}=1", "condition=Ready"):
        cluster.kubectl("wait", f"pod/{pod.name}", f"--for={condition}", "--timeout=60s", timeout_s=70)


def test_a_warm_image_is_restored_on_a_node_that_knows_nothing(cluster, warm_image):
    with cluster.add_node() as node, run_pod(cluster, "elsewhere", warm_image, nodeName=node.name) as pod:
        assert pod.read_state()["requests"] >= WARMUPS
        assert cluster.kubectl("logs", pod.name) == ""
    assert node.name not in [found["metadata"]["name"] for found in cluster.read("nodes")["items"]]


def test_a_warm_image_starts_cold_on_a_node_that_knows_no_checkpoints(cluster, warm_image):
    with cluster.add_node(restore=False) as node, run_pod(cluster, "cold", warm_image, nodeName=node.name) as pod:
        assert cluster.kubectl("logs", pod.name) == "listening\n"


@pytest.fixture(scope="module")
def image_for_both(cluster, cache, base_archive, tmp_path_factory) -> str:
    """Build an image in the cluster's registry that a runtime restores, or that restores itself."""
    name = f"{cluster.registry}/tests/both:1"
    path = tmp_path_factory.mktemp("both") / "recipe.yaml"
    warmup = [{**STATE, "repeat": WARMUPS}]
    recipe = write_recipe(path, base_archive, name, RESTRICTED, warmup=warmup, restore=["runtime", "self"])
    build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))
    return name


def test_one_image_is_restored_by_the_node_or_by_itself(cluster, image_for_both):
    with run_pod(cluster, "by-node", image_for_both, RESTRICTED) as pod:
        by_node = pod.read_state()
        assert "warmstart: " not in cluster.kubectl("logs", pod.name)
    with (
        cluster.add_node(restore=False) as node,
        run_pod(cluster, "by-itself", image_for_both, RESTRICTED, nodeName=node.name) as pod,
    ):
        by_itself = pod.read_state()
        assert "warmstart: restored in" in cluster.kubectl("logs", pod.name)
    assert by_node["id"] == by_itself["id"]
    assert min(by_node["requests"], by_itself["requests"]) >= WARMUPS


@pytest.fixture(scope="module")
def containerd_node(cluster, cache) -> Iterator[Node]:
    """Run a node with containerd as released."""
    with cluster.add_node(containerd=ensure_go_tool(cache, CONTAINERD, print)) as node:
        yield node


def test_on_a_node_with_containerd_an_image_restores_itself(cluster, image_for_both, containerd_node):
    runtime = cluster.read("nodes", containerd_node.name)["status"]["nodeInfo"]["containerRuntimeVersion"]
    assert runtime.startswith(f"containerd://{CONTAINERD.version.lstrip('v')}")
    with run_pod(cluster, "on-containerd", image_for_both, RESTRICTED, nodeName=containerd_node.name) as pod:
        before = pod.read_state()
        assert before["requests"] >= WARMUPS
        assert "warmstart: restored in" in cluster.kubectl("logs", pod.name)
        kill_and_wait(cluster, pod, "launcher")
        assert pod.read_state()["id"] == before["id"]


def test_containerd_alone_restores_nothing(cluster, warm_image, containerd_node):
    with run_pod(cluster, "cold-on-containerd", warm_image, nodeName=containerd_node.name) as pod:
        assert cluster.kubectl("logs", pod.name) == "listening\n"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_of_a_cluster_beside_others(cluster, tmp_path, end):
    token = f"ws-{secrets.token_hex(4)}"
    directory = Path("/var/tmp") / token
    directory.mkdir()
    before = take_snapshot(token, directory)
    paths = {"WARMSTART_TMPDIR": str(directory), "PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "support.cluster"], env={**os.environ, **paths}, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.startswith(f"export KUBECONFIG={directory}/")
            assert "node-1" in cluster.kubectl("get", "nodes", kubeconfig=Path(line.split()[1].partition("=")[2]))
            assert take_snapshot(token, directory) > before
            running.send_signal(end)
            running.wait(KEEPER_S)
        assert wait_until_clean(before, lambda: take_snapshot(token, directory), limit_s=KEEPER_S) == []
    finally:
        directory.rmdir()
