"""`save`, `restore`, `migrate` and `drain-save` move state between two nodes of a real cluster."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.builds import PORT, STATE, build, write_recipe
from support.checkpoint_image import edit_annotations
from support.cluster_user import list_checkpoints, wait_until
from support.signing_keys import write_pair

from warmstart.build.context import BuildOptions
from warmstart.core.network import connect_in
from warmstart.core.reference import parse_reference
from warmstart.image.registry.client import read_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import check_signatures
from warmstart.image.signatures.keys import read_public_key

pytestmark = pytest.mark.cluster

# What a test puts into a server before it is saved: its number of requests tells.
REQUESTS = 30
# Long enough for a pod to be saved on a machine that has much else to do.
DEADLINE_S = 20
# The server serves one connection after the other, and would leave a probe's waiting.
NOT_PROBED = {"readinessProbe": None}
VALUE = "correct-horse-battery"
WITH_PASSWORD = {"env": [{"name": "PASSWORD", "value": VALUE}]}


@pytest.fixture(scope="module", autouse=True)
def account(user) -> Path:
    """Return the kubeconfig of an account that may move pods."""
    user.grant("save")
    return user.grant("migrate")


@pytest.fixture(autouse=True)
def nothing_stays(user, cluster, account):
    """Check that no helper pod and no archive is left after any test."""
    yield
    user.wait_no_helpers()
    assert list_checkpoints(cluster.nodes[0]) == []


@pytest.fixture
def call(user, cluster, account):
    """Run a command as that account, with the arguments that all of these commands need."""

    def run(*words, **options):
        line = [*words, "-n", "default", "--plain-http", cluster.registry]
        return user.call(*line, kubeconfig=account, **options)

    return run


@pytest.fixture
def image(cluster, request) -> str:
    """Return the name of an image in the cluster's registry."""
    return f"{cluster.registry}/saved/{request.node.name.partition('[')[0].replace('_', '-')}:1"


def use(user, pod):
    """Give a server a state, and return the state."""
    for _ in range(REQUESTS):
        state = user.read_state(pod)
    return state


def assert_goes_on(user, pod, before):
    state = user.read_state(pod)
    assert state["id"] == before["id"]
    assert state["requests"] > before["requests"]


def node_of(cluster, pod):
    return cluster.read("pods", pod)["spec"]["nodeName"]


def test_a_pod_is_saved_goes_on_and_is_restored(user, call, cluster, second_node, image):
    with user.pod("kept", {"env": [{"name": "FILL_MB", "value": "64"}]}, nodeName="node-1") as pod:
        before = use(user, pod)
        saved = call("save", pod, "--image", image, "--json").result
        assert saved["checkpoint"]["sizeBytes"] > 64 << 20
        assert_goes_on(user, pod, before)
        # Its labels would put it behind Services, so they need the caller's word.
        refused = call("restore", image, "--name", "again")
        assert refused.code == 14
        assert "label=app=kept: " in refused.err
        assert f"warmstart restore {image} --name again" in refused.err
        assert user.list_pods() == [pod]
        again = ["restore", image, "--name", "again", "--to", second_node.name, "--allow", "label=app=kept"]
        planned = call(*again, "--dry-run", "--json").result
        assert planned["metadata"] | {"annotations": {}} == {
            "name": "again",
            "namespace": "default",
            "labels": {"app": "kept"},
            "annotations": {},
        }
        assert '"64"' not in json.dumps(planned)
        assert user.list_pods() == [pod]
        done = call(*again, "--json")
        restored = done.result
        assert "name: again" in done.err
        assert (restored["pod"], restored["node"]) == ("again", second_node.name)
        assert_goes_on(user, "again", before)
        taken = call("restore", image, "--allow", "label=app=kept")
        assert "the pod kept already exists" in taken.err
        # And so on: what was restored can be saved, even by the same name, which the node has the first state by.
        second = use(user, "again")
        assert call("save", "again", "--image", image).code == 0
        cluster.kubectl("delete", "pod", "again", "--grace-period=1")
        assert call(*again).code == 0
        assert_goes_on(user, "again", second)


def test_a_pod_is_saved_to_a_file(user, call, cluster, image, tmp_path):
    with user.pod("filed", WITH_PASSWORD, nodeName="node-1") as pod:
        before = use(user, pod)
        archive = f"oci-archive:{tmp_path}/saved.tar"
        line = ["save", pod, "--image", image, "-o", archive, "--values", write_values(tmp_path)]
        refused = call(*line)
        assert refused.code == 16
        assert "PASSWORD" in refused.err
        assert "environment" in refused.err
        assert VALUE not in refused.err
        assert not (tmp_path / "saved.tar").exists()
        done = call(*line, "--allow-secret", "known-value=a value of this test", "--json")
        assert [one["allowed"] for one in done.result["findings"]] == [["a value of this test"]]
        assert VALUE not in done.out + done.err
        cluster.kubectl("delete", "pod", pod, "--grace-period=1")
        words = ["restore", archive, "--to", "node-1", "--json", "--allow", "label=app=filed"]
        assert f"image={image}: " in call(*words).err
        assert call(*words, "--allow", f"image={image}").result["pod"] == pod
        assert_goes_on(user, pod, before)
    other = call("restore", user.base)
    assert other.code == 10
    assert "was not made by `warmstart save`: it has no pod record" in other.err


def write_values(directory: Path) -> Path:
    """Write a file with the value of the pods with a password."""
    file = directory / "prod.env"
    file.write_text(f"PASSWORD={VALUE}\n")
    return file


EVIL = {
    "hostPID": True,
    "hostNetwork": True,
    "serviceAccountName": "attached",
    "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
}
BAD = {"securityContext": {"privileged": True}, "volumeMounts": [{"name": "node", "mountPath": "/host"}]}


def test_a_pod_in_an_image_gets_no_privilege_that_is_not_named(user, call, cluster, image, tmp_path):
    """The image is of a real pod, and the recorded pod is changed in it."""
    with user.pod("honest", nodeName="node-1") as pod:
        layout = tmp_path / "saved"
        assert call("save", pod, "--image", image, "-o", f"oci:{layout}").code == 0
        cluster.kubectl("delete", "pod", pod, "--grace-period=1")
        change_record(layout, image)
        words = ["restore", f"oci:{layout}", "--allow", f"image={image}", "--allow", "label=app=honest"]
        done = call(*words)
        assert done.code == 14
        said = [line.split(": ")[0].strip() for line in done.err.splitlines() if line.startswith("  ")]
        others = ["host-network", "host-path=/", "host-pid", "image=evil.example/x", "privileged"]
        assert sorted(said) == [*others, "service-account=attached"]
        assert user.list_pods() == user.list_pods(namespace="kube-system") == []


def change_record(layout: Path, image: str) -> None:
    """Change an image's recorded pod: another namespace, the node's namespaces, and an additional container."""

    def change(annotations: dict[str, str]) -> None:
        pod = json.loads(annotations["dev.warmstart.pod"])
        pod["metadata"]["namespace"] = "kube-system"
        pod["spec"] |= EVIL
        pod["spec"]["containers"].append({"name": "evil", "image": "evil.example/x", **BAD})
        annotations["dev.warmstart.pod"] = json.dumps(pod)

    edit_annotations(layout, change)


def test_a_pod_moves(user, call, cluster, second_node, image, tmp_path):
    container = {"env": [*WITH_PASSWORD["env"], {"name": "LOCK", "value": "/server.lock"}]}
    with user.pod("moving", container, nodeName="node-1") as pod:
        before = use(user, pod)
        line = ["migrate", pod, "--to", second_node.name, "--image", image]
        assert call(*line, "--values", write_values(tmp_path)).code == 16
        assert user.list_pods("app=moving") == [pod]
        done = call(*line, "--json", "--compare-state")
        moved = done.result
        # The only thing that it loses.
        assert done.err.count("the runtime did not restore everything: ") == done.err.count("[lost-lock]") == 1
        [new] = user.list_pods("app=moving")
        assert new == moved["restored"]["pod"] != pod
        assert node_of(cluster, new) == second_node.name
        assert_goes_on(user, new, before)
        assert 0 < moved["gapSeconds"] < 60
        # And back: where it was put is not part of what it is.
        key = write_pair(tmp_path)
        assert call("migrate", new, "--to", "node-1", "--image", f"{image}1", "--sign", key).code == 0
        name, access = parse_reference(f"{image}1"), RegistryAccess((cluster.registry,))
        trusted = read_public_key(key.with_suffix(".pub"))
        assert check_signatures(name, read_manifest(name, access=access), [trusted], access=access).signers == (
            trusted,
        )
        [newer] = user.list_pods("app=moving")
        assert node_of(cluster, newer) == "node-1"
        assert_goes_on(user, newer, before)


def test_a_pod_that_has_restored_itself_moves(user, call, cluster, second_node, image, base_archive, tmp_path):
    name = f"{cluster.registry}/tests/itself:1"
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, name, restore=["self"], warmup=[STATE])
    build(recipe, BuildOptions(user.cache, access=RegistryAccess((cluster.registry,))))
    with user.pod("itself", {"image": name}, nodeName="node-1") as pod:
        assert "warmstart: restored in" in cluster.kubectl("logs", pod)
        before = use(user, pod)
        moved = call("migrate", pod, "--to", second_node.name, "--image", image, "--json").result
        assert_goes_on(user, moved["restored"]["pod"], before)


@pytest.fixture
def connections_are_dumped(cluster):
    """Let the first node's CRIU dump open connections."""
    options = cluster.nodes[0].session.root / "etc/criu/runc.conf"
    options.parent.mkdir(exist_ok=True)
    options.write_text("tcp-established\n")
    yield
    options.unlink()


def test_open_connections_are_refused_where_the_node_does_not_dump_them(user, call, cluster, image):
    with user.pod("connected", NOT_PROBED, nodeName="node-1") as pod, connect(cluster, pod):
        done = call("save", pod, "--image", image)
        assert done.code == 8
        assert "tcp-established" in done.err.partition("hint: ")[2]


def test_open_connections_are_closed_in_what_is_restored(
    user, call, cluster, second_node, image, connections_are_dumped
):
    with user.pod("talking", NOT_PROBED, nodeName="node-1") as pod:
        before = use(user, pod)
        with connect(cluster, pod):
            moved = call("migrate", pod, "--to", second_node.name, "--image", image, "--json").result
        assert moved["saved"]["closedSockets"] >= 1
        assert_goes_on(user, moved["restored"]["pod"], before)


def connect(cluster, pod):
    """Return a connection to a server that waits for a request."""
    address = cluster.read("pods", pod)["status"]["podIP"]
    return connect_in(cluster.nodes[0].session.network, (address, PORT), 5)


def make_deployment(user, name, replicas):
    server = {
        "name": "server",
        "image": user.base,
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
    }
    pod = {"nodeName": "node-1", "terminationGracePeriodSeconds": 1, "containers": [server]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }


def test_a_deployments_pod_moves_and_the_deployment_keeps_it(user, call, cluster, second_node, image):
    cluster.apply(make_deployment(user, "fleet", 2))
    try:
        cluster.kubectl("rollout", "status", "deployment/fleet", "--timeout=60s")
        pod, other = sorted(user.list_pods("app=fleet"))
        before = use(user, pod)
        moved = call("migrate", pod, "--to", second_node.name, "--image", image, "--json").result
        new = moved["restored"]["pod"]
        assert set(user.list_pods("app=fleet")) == {new, other}
        assert_goes_on(user, new, before)
        [owner] = cluster.read("pods", new)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["controller"]) == ("ReplicaSet", True)
    finally:
        cluster.kubectl("delete", "deployment", "fleet")


def test_a_pod_that_would_be_made_anew_is_left_alone(user, call, cluster, image):
    daemon = make_deployment(user, "daemon", 1)
    daemon["kind"] = "DaemonSet"
    del daemon["spec"]["replicas"], daemon["spec"]["template"]["spec"]["nodeName"]
    cluster.apply(daemon)
    try:
        wait_until(lambda: user.list_pods("app=daemon"), 20)
        pod = user.list_pods("app=daemon")[0]
        user.wait_ready(pod)
        done = call("migrate", pod, "--to", "node-1", "--image", image)
        assert done.code == 13
        assert "its DaemonSet daemon would recreate it" in done.err
    finally:
        cluster.kubectl("delete", "daemonset", "daemon")


def test_a_node_that_does_not_restore_gets_no_pod(user, call, cluster, image):
    with user.pod("staying", nodeName="node-1") as pod, cluster.add_node(restore=False) as node:
        before = use(user, pod)
        done = call("migrate", pod, "--to", node.name, "--image", image)
        assert done.code == 11
        assert f"the node {node.name} started {image} cold instead of restoring it" in done.err
        wait_until(lambda: user.list_pods("app=staying") == [pod], 40)
        assert_goes_on(user, pod, before)


def test_a_node_that_is_not_there_gets_no_pod(user, call, image):
    with user.pod("homely", nodeName="node-1") as pod:
        before = use(user, pod)
        done = call("migrate", pod, "--to", "nowhere", "--image", image, "--ready-timeout", "5")
        assert done.code == 13
        assert "was not ready within 5 s" in done.err
        wait_until(lambda: user.list_pods("app=homely") == [pod], 40)
        assert_goes_on(user, pod, before)


@pytest.mark.parametrize("step", ["image", "restore"])
def test_an_interrupted_move_leaves_the_old_pod(user, cluster, second_node, image, step):
    with user.pod("steady", nodeName="node-1") as pod:
        before = use(user, pod)
        line = ["migrate", pod, "--to", second_node.name, "--image", image, "--plain-http", cluster.registry]
        assert user.interrupt("SIGINT", step, 0.3, *line).code == 130
        wait_until(lambda: user.list_pods("app=steady") == [pod], 40)
        assert_goes_on(user, pod, before)


def test_pods_of_a_node_are_saved_and_restored_on_others(user, call, cluster, second_node, image):
    labels = {"drain": "yes"}
    with (
        user.pod("first", labels=labels, nodeName="node-1") as first,
        user.pod("second", labels=labels, nodeName="node-1") as second,
    ):
        before = {pod: use(user, pod) for pod in (first, second)}
        repository = image.rpartition(":")[0]
        words = ["drain-save", "node-1", "-l", "drain=yes", "--image", repository, "--deadline", "60", "--json"]
        fates = {fate["pod"]: fate for fate in call(*words).result}
        assert set(fates) == {first, second}
        for pod, fate in fates.items():
            new = fate["migrated"]["restored"]["pod"]
            assert node_of(cluster, new) == second_node.name
            assert_goes_on(user, new, before[pod])
        assert len(user.list_pods("drain=yes")) == 2


def test_one_that_is_late_stays_and_the_others_do_not_wait_for_it(user, call, cluster, second_node, image):
    labels = {"drain": "late"}
    words = ["drain-save", "node-1", "-l", "drain=late", "--image", image.rpartition(":")[0], "--json"]
    with (
        user.pod("late", NOT_PROBED, labels=labels, nodeName="node-1") as late,
        user.pod("prompt", labels=labels, nodeName="node-1") as prompt,
        user.hold(late) as hold,
        ThreadPoolExecutor(1) as pool,
    ):
        before = {pod: use(user, pod) for pod in (late, prompt)}
        calling = pool.submit(call, *words, "--deadline", str(DEADLINE_S))
        # It is held until the other one has been replaced, and that begins at the deadline.
        wait_until(lambda: prompt not in user.list_pods("drain=late"), 120)
        assert hold.held
        hold.release()
        done = calling.result()
        assert done.code == 13
        fates = {fate["pod"]: fate for fate in json.loads(done.out)}
        assert (fates[late]["saved"], fates[late]["migrated"]) == (False, None)
        assert "took longer than" in fates[late]["error"]
        assert "1 of 2 pods of node-1 are not on another node" in done.err
        new = fates[prompt]["migrated"]["restored"]["pod"]
        assert set(user.list_pods("drain=late")) == {late, new}
        assert_goes_on(user, late, before[late])
        assert_goes_on(user, new, before[prompt])


@pytest.mark.parametrize("step", ["checkpoint", "restore"])
def test_an_interruption_leaves_the_pods_where_they_are(user, cluster, second_node, image, step):
    labels = {"drain": step}
    with (
        user.pod("here", labels=labels, nodeName="node-1") as here,
        user.pod("there", labels=labels, nodeName="node-1") as there,
    ):
        before = {pod: use(user, pod) for pod in (here, there)}
        line = ["drain-save", "node-1", "-l", f"drain={step}", "--image", image.rpartition(":")[0]]
        line += ["--deadline", "60", "--plain-http", cluster.registry]
        assert user.interrupt("SIGINT", step, 0.3, *line).code == 130
        # Kubernetes gives the pod that is taken back 30 s to end, and the kubelet takes some more to remove it.
        wait_until(lambda: set(user.list_pods(f"drain={step}")) == {here, there}, 90)
        for pod in (here, there):
            assert_goes_on(user, pod, before[pod])


def test_one_that_fails_does_not_disturb_the_others(user, call, cluster, second_node, image):
    labels = {"drain": "some"}
    with (
        user.pod("sound", labels=labels, nodeName="node-1") as sound,
        user.pod("joined", NOT_PROBED, labels=labels, nodeName="node-1") as joined,
    ):
        before = {pod: use(user, pod) for pod in (sound, joined)}
        words = ["drain-save", "node-1", "-l", "drain=some", "--image", image.rpartition(":")[0], "--json"]
        with connect(cluster, joined):
            done = call(*words, "--deadline", str(DEADLINE_S))
        assert done.code == 13
        fates = {fate["pod"]: fate for fate in json.loads(done.out)}
        assert "connect" in fates[joined]["error"].lower()
        new = fates[sound]["migrated"]["restored"]["pod"]
        assert set(user.list_pods("drain=some")) == {joined, new}
        assert_goes_on(user, new, before[sound])


def test_a_node_without_such_pods(call):
    words = ["drain-save", "node-1", "-l", "app=nobody", "--image", "registry.example.com/x", "--deadline", "9"]
    assert "matches app=nobody" in call(*words).err
