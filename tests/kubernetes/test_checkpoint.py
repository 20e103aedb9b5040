"""`warmstart checkpoint` on a real cluster: the container keeps running, and nothing but the archive is left."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.builds import PORT
from support.cluster.cluster import Cluster
from support.cluster.network import API_ADDRESS
from support.cluster_user import list_checkpoints, wait_until

from warmstart.dump.archive.archive import read_contents

pytestmark = pytest.mark.cluster

# Long enough to do something while it is made and fetched.
LARGE_MB = 150
LARGE = {"env": [{"name": "FILL_MB", "value": str(LARGE_MB)}]}
PERIOD_S = 0.1


@pytest.fixture(scope="module", autouse=True)
def account(user):
    """Return the kubeconfig of an account that may take checkpoints, and create the namespace of helper pods."""
    return user.grant("checkpoint")


@pytest.fixture(scope="module")
def pod(user, account):
    with user.pod("checkpointed", nodeName="node-1") as name:
        yield name


@pytest.fixture(scope="module")
def large(user, account):
    """Run a pod with much memory, and return its name."""
    with user.pod("large", LARGE, nodeName="node-1") as name:
        yield name


@pytest.fixture(autouse=True)
def nothing_stays(user, cluster, account):
    """Check that no helper pod and no archive is left after any test."""
    yield
    user.wait_no_helpers()
    assert list_checkpoints(cluster.nodes[0]) == []


def test_a_checkpoint_is_fetched_and_the_container_goes_on(user, large, account, tmp_path):
    before = user.read_state(large)
    result = user.call(
        "checkpoint", large, "-n", "default", "-o", tmp_path / "c.tar", "--json", kubeconfig=account
    ).result
    after = user.read_state(large)
    assert after["id"] == before["id"]
    assert after["requests"] > before["requests"]
    assert [path.name for path in tmp_path.iterdir()] == ["c.tar"]
    assert (tmp_path / "c.tar").stat().st_mode & 0o777 == 0o600
    assert result["sizeBytes"] == (tmp_path / "c.tar").stat().st_size > LARGE_MB << 20
    assert 0 < result["frozenSeconds"] <= result["stoppedAtMostSeconds"]
    assert result["image"].startswith(user.base.rpartition(":")[0] + "@sha256:")
    assert read_contents(tmp_path / "c.tar").container_name == large


def test_clients_wait_while_it_is_frozen_and_none_is_turned_away(user, large, account, tmp_path):
    first = user.read_state(large)
    with steady_load(user, large) as answers:
        result = user.call(
            "checkpoint", large, "-n", "default", "-o", tmp_path / "c.tar", "--json", kubeconfig=account
        ).result
    assert {answer.state["id"] for answer in answers} == {first["id"]}
    counts = [answer.state["requests"] for answer in answers]
    assert counts == sorted(set(counts))
    # Whoever asked meanwhile waited for as long as it was frozen, about. How much longer depends on the machine.
    assert max(answer.seconds for answer in answers) > result["frozenSeconds"] / 2


@dataclass(frozen=True)
class Answer:
    """The response to a request, and its duration in seconds."""

    state: dict[str, Any]
    seconds: float


@contextmanager
def steady_load(user, pod) -> Iterator[list[Answer]]:
    """Send requests to a server during the block. Errors of requests are raised at its end."""
    answers: list[Answer] = []
    address, node, done = user.cluster.read("pods", pod)["status"]["podIP"], user.cluster.nodes[0], threading.Event()

    def ask() -> None:
        while not done.wait(PERIOD_S):
            asked = time.monotonic()
            status, body = node.http_get(address, PORT, "/state", timeout_s=60)
            assert status == 200
            answers.append(Answer(json.loads(body), time.monotonic() - asked))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield answers
        finally:
            done.set()
        asking.result()


def test_the_archive_can_be_kept_on_the_node(user, pod, cluster, tmp_path):
    result = user.call("checkpoint", pod, "-o", tmp_path / "c.tar", "--keep", "--json").result
    [kept] = (cluster.nodes[0].kubelet_directory / "checkpoints").iterdir()
    try:
        assert result["onNode"] == f"/var/lib/kubelet/checkpoints/{kept.name}"
        assert kept.read_bytes() == (tmp_path / "c.tar").read_bytes()
    finally:
        kept.unlink()


def test_what_is_not_there_is_said(user, pod, tmp_path):
    missing = user.call("checkpoint", "nobody", "-o", tmp_path / "c.tar")
    assert missing.code == 13
    assert "there is no pod nobody in the namespace default" in missing.err
    other = user.call("checkpoint", pod, "-c", "sidecar", "-o", tmp_path / "c.tar")
    assert f"the pod default/{pod} has no container sidecar; it has {pod}" in other.err
    assert list(tmp_path.iterdir()) == []


RULES = {
    "get pods": {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    "create pods": {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]},
    "create nodes/proxy": {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["create"]},
    "pods/exec": {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
}


MAKE_STRANGER = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
MAKE_STRANGER += ["-subj", "/CN=stranger"]


@contextmanager
def limited_account(cluster: Cluster, rules: list[object]) -> Iterator[object]:
    name = "limited"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
        {**api, "kind": "ClusterRole", "rules": rules},
        {**api, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]},
    )
    yield cluster.write_account_kubeconfig(name)
    for kind in ("clusterrolebinding", "clusterrole", "serviceaccount"):
        cluster.kubectl("delete", kind, name)


@pytest.mark.parametrize("missing", RULES)
def test_the_right_that_is_missing_is_named(user, pod, cluster, missing, tmp_path):
    rules = [rule for name, rule in RULES.items() if name != missing]
    with limited_account(cluster, rules) as kubeconfig:
        done = user.call("checkpoint", pod, "-n", "default", "-o", tmp_path / "c.tar", kubeconfig=kubeconfig)
    assert done.code == 13
    [hint] = [line for line in done.err.splitlines() if line.startswith("hint: ")]
    assert hint.startswith("hint: needs: ")
    assert missing in hint
    assert list(tmp_path.iterdir()) == []
    # What was made on the node could not be removed without pods/exec, which is said.
    if missing == "pods/exec":
        [left] = (cluster.nodes[0].kubelet_directory / "checkpoints").iterdir()
        assert left.name in done.err
        left.unlink()


def test_the_kubelet_itself_is_asked_where_the_proxy_may_not_be(user, pod, cluster, tmp_path):
    kubelet = {"apiGroups": [""], "resources": ["nodes/checkpoint"], "verbs": ["create"]}
    rules = [rule for name, rule in RULES.items() if name != "create nodes/proxy"]
    line = ["checkpoint", pod, "-n", "default", "-o", tmp_path / "c.tar"]
    with limited_account(cluster, [*rules, kubelet]) as kubeconfig:
        text = re.sub("https://127.0.0.1:[0-9]+", f"https://{API_ADDRESS}", kubeconfig.read_text())
        kubeconfig.write_text(text)
        done = user.call(*line, kubeconfig=kubeconfig, inside=cluster.nodes[0])
        assert done.code == 0, done.err
        (tmp_path / "c.tar").unlink()
        # It is not told who we are before it has shown who it is.
        stranger = tmp_path / "stranger.crt"
        subprocess.run([*MAKE_STRANGER, "-out", stranger, "-keyout", tmp_path / "key"], check=True, capture_output=True)
        done = user.call(*line, "--kubelet-ca", stranger, kubeconfig=kubeconfig, inside=cluster.nodes[0])
    assert done.code == 13
    assert "CERTIFICATE_VERIFY_FAILED" in done.err
    assert not (tmp_path / "c.tar").exists()


def test_the_role_without_the_proxy_is_enough_where_the_kubelet_is_reached(user, pod, cluster, tmp_path):
    role = user.call("rbac", "checkpoint", "-n", "default", "--kubelet").out
    for name in ("name: checkpoint", "warmstart-checkpoint", "warmstart-helper"):
        role = role.replace(name, name.replace("checkpoint", "narrow").replace("helper", "narrow-helper"))
    cluster.kubectl("apply", "-f", "-", stdin=role)
    kubeconfig = cluster.write_account_kubeconfig("narrow", namespace="warmstart")
    kubeconfig.write_text(re.sub("https://127.0.0.1:[0-9]+", f"https://{API_ADDRESS}", kubeconfig.read_text()))
    line = ["checkpoint", pod, "-o", tmp_path / "c.tar"]
    done = user.call(*line, "-n", "default", kubeconfig=kubeconfig, inside=cluster.nodes[0])
    elsewhere = user.call(*line, "-n", "kube-system", kubeconfig=kubeconfig, inside=cluster.nodes[0])
    # All but the namespace, which the other tests have, too.
    cluster.kubectl("delete", "-f", "-", stdin=role.partition("---\n")[2])
    assert done.code == 0, done.err
    assert "needs: get pods in the namespace kube-system" in elsewhere.err


def test_the_namespace_for_helpers_is_missing(user, pod, tmp_path):
    done = user.call("checkpoint", pod, "-o", tmp_path / "c.tar", "--helper-namespace", "nowhere")
    assert done.code == 13
    assert "make the namespace with `warmstart rbac`" in done.err


def test_a_namespace_that_admits_no_helpers(user, pod, cluster, tmp_path):
    cluster.kubectl("create", "namespace", "strict")
    cluster.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=baseline")
    done = user.call("checkpoint", pod, "-o", tmp_path / "c.tar", "--helper-namespace", "strict")
    cluster.kubectl("delete", "namespace", "strict")
    assert done.code == 13
    assert "the namespace strict must admit privileged pods" in done.err


def test_the_helper_has_an_image_that_cannot_be_had(user, pod, cluster, tmp_path):
    done = user.call("checkpoint", pod, "-o", tmp_path / "c.tar", helper=f"{cluster.registry}/no/such:1")
    assert done.code == 13
    assert "name another one with --helper-image" in done.err


@pytest.mark.parametrize("step", ["helper", "checkpoint", "fetch"])
def test_an_interruption_leaves_nothing(user, large, step, tmp_path):
    before = user.read_state(large)["id"]
    done = user.interrupt("SIGINT", step, 0.1, "checkpoint", large, "-o", tmp_path / "c.tar")
    assert done.code == 130
    assert list(tmp_path.iterdir()) == []
    assert user.read_state(large)["id"] == before


def test_what_comes_too_late_is_removed(user, tmp_path):
    # A probe would find it stopped, and be a connection that cannot be dumped.
    with (
        user.pod("delayed", {"readinessProbe": None}, nodeName="node-1") as pod,
        user.hold(pod) as hold,
        ThreadPoolExecutor(1) as pool,
    ):
        before = user.read_state(pod)["id"]
        words = ["checkpoint", pod, "-o", tmp_path / "c.tar", "--checkpoint-timeout", "1"]
        calling = pool.submit(user.call, *words)
        wait_until(lambda: hold.held, 60)
        time.sleep(1.5)
        assert not calling.done()
        hold.release()
        done = calling.result()
        assert done.code == 8
        assert "the kubelet of node-1 took longer than 1.0 s for the checkpoint" in done.err
        assert list(tmp_path.iterdir()) == []
        assert user.read_state(pod)["id"] == before


CUT_BYTES = 50 << 20


class Cut:
    """A relay to the API server during a block. It disconnects after CUT_BYTES."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passed_bytes = 0

    def __enter__(self) -> Cut:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, call: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=call, args=arguments)
        self._threads.append(thread)
        thread.start()

    def cut(self) -> None:
        """End all connections, and accept no new ones."""
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self._start(self._pass, near, far)
                self._start(self._pass, far, near)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.passed_bytes += len(data)
                if self.passed_bytes > CUT_BYTES:
                    self.cut()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def way_that_is_cut(cluster, kubeconfig) -> Iterator[Cut]:
    """Yield a kubeconfig for the relay, and delete the helper pods left by the disconnection at the end."""
    text = cluster.kubeconfig.read_text()
    port = int(text.partition("https://127.0.0.1:")[2].partition('"')[0].split()[0])
    with Cut(("127.0.0.1", port)) as way:
        kubeconfig.write_text(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{way.port}"))
        yield way
    cluster.kubectl("delete", "pods", "--all", "-n", "warmstart")


def test_the_api_server_goes_away_while_it_is_fetched(user, pod, large, cluster, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    with way_that_is_cut(cluster, kubeconfig) as way:
        done = user.call("checkpoint", large, "-n", "default", "-o", tmp_path / "c.tar", kubeconfig=kubeconfig)
        assert way.passed_bytes > CUT_BYTES
    assert done.code == 13
    assert "the connection" in done.err
    [left] = (cluster.nodes[0].kubelet_directory / "checkpoints").iterdir()
    assert f"the checkpoint may still be on the node node-1: /var/lib/kubelet/checkpoints/{left.name}" in done.err
    left.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"]
    assert user.call("checkpoint", pod, "-o", tmp_path / "c.tar").code == 0


def test_the_api_server_goes_away_while_it_is_made(user, cluster, tmp_path):
    kubeconfig, directory = tmp_path / "kubeconfig", cluster.nodes[0].kubelet_directory / "checkpoints"
    with (
        user.pod("forsaken", {"readinessProbe": None}, nodeName="node-1") as pod,
        user.hold(pod) as hold,
        way_that_is_cut(cluster, kubeconfig) as way,
        ThreadPoolExecutor(1) as pool,
    ):
        line = ["checkpoint", pod, "-n", "default", "-o", tmp_path / "c.tar"]
        calling = pool.submit(user.call, *line, kubeconfig=kubeconfig)
        wait_until(lambda: hold.held or calling.done(), 60)
        assert hold.held, calling.result()
        way.cut()
        done = calling.result()
        hold.release()
        wait_until(lambda: list_checkpoints(cluster.nodes[0]) != [], 60)
        assert done.code == 13
        [where] = re.findall(r"the checkpoint may still be on the node node-1: (\S+)", done.err)
        # Its name ends with a time that only the kubelet knows.
        [left] = directory.glob(Path(where).name)
        # The container goes on when all of it has been written.
        assert user.read_state(pod)["requests"] > 0
        left.unlink()
