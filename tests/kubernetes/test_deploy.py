"""A cluster runs the manifests of `warmstart deploy`, and each pod is restored."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.activator import run_activator
from support.builds import STATE, build, write_recipe
from support.cluster.metrics import serve_metrics
from support.cluster.pods import Pod, find_ready_pods, wait_for
from support.cluster_images import push_image

from warmstart.build.context import BuildOptions
from warmstart.cli import main as cli
from warmstart.core.errors import ClusterError, ManifestError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.yaml_document import read_documents
from warmstart.core.yaml_writing import write_yaml
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.open import open_node

pytestmark = pytest.mark.cluster

SCALE_FROM_ZERO = Path(__file__).parents[2] / "docs/how-to/scale-from-zero.md"
WARMUPS = 7
PATIENCE_S = 120
MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: mine}
spec:
  selector: {matchLabels: {app: mine}}
  template:
    metadata: {labels: {app: mine}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web   # the server
          image: registry.example.com/unknown:1
          volumeMounts:
            - {name: cache, mountPath: /cache}
        - name: beside
          image: BASE
          imagePullPolicy: Never
          env: [{name: PORT, value: "8081"}]
          readinessProbe: {httpGet: {path: /ready, port: 8081}, periodSeconds: 1}
      volumes:
        - {name: cache, emptyDir: {}}
"""


@pytest.fixture(scope="module")
def recipe(cluster, base_archive, tmp_path_factory) -> Path:
    return write_recipe(
        tmp_path_factory.mktemp("deploy") / "recipe.yaml",
        base_archive,
        f"{cluster.registry}/tests/deployed:1",
        {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}, "resources": {"limits": {"memory": "64Mi"}}},
        warmup=[{**STATE, "repeat": WARMUPS}],
    )


@pytest.fixture(scope="module")
def image(cluster, cache, recipe) -> str:
    built, _ = build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))
    return built.name


@pytest.fixture
def deploy(cluster, monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """Run `warmstart deploy` with the cluster's kubeconfig, and return its standard output and standard error."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    def run(*arguments: object) -> tuple[str, str]:
        cli.cli.main(["deploy", *map(str, arguments), "--plain-http", cluster.registry], standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


@pytest.fixture
def clean(cluster) -> Iterator[None]:
    """Remove everything that a test created."""
    yield
    remove_pods(cluster)
    cluster.kubectl("delete", "service", "-l", "app.kubernetes.io/name")


def remove_pods(cluster) -> None:
    """Remove the tests' objects, and wait until their pods have ended."""
    cluster.kubectl("delete", "deployment,daemonset,statefulset,cronjob,job,pod", "--all", "--wait=false")
    cluster.kubectl("wait", "pod", "--all", "--for=delete", f"--timeout={PATIENCE_S}s", timeout_s=PATIENCE_S + 10)


def roll_out(cluster, what: str) -> None:
    cluster.kubectl("rollout", "status", what, f"--timeout={PATIENCE_S}s", timeout_s=PATIENCE_S + 10)


def read_pods(cluster, label: str) -> list[Pod]:
    return [Pod.from_manifest(cluster, pod) for pod in find_ready_pods(cluster, label)]


def check_restored(cluster, label: str, count: int, restarts: int = 0) -> None:
    """Check that all pods with a label continue from the same checkpoint, and that none was restarted."""
    pods = read_pods(cluster, label)
    assert len(pods) == count
    states = [pod.read_state() for pod in pods]
    assert len({state["id"] for state in states}) == 1
    assert all(state["requests"] >= WARMUPS for state in states)
    for pod in pods:
        assert cluster.kubectl("logs", pod.name, "--container=server") == ""
        (status,) = cluster.read("pods", pod.name)["status"]["containerStatuses"]
        assert status["ready"]
        # Of several restores at the same moment CRI-O fails some, and the kubelet tries again.
        assert count > 1 or status["restartCount"] == restarts


def test_a_deployment_scales_rolls_and_heals_and_every_pod_is_restored(cluster, image, deploy, clean):
    label = "app.kubernetes.io/name=server"
    assert deploy(image, "--apply") == ("deployment.apps/server applied\nservice/server applied\n", "")
    roll_out(cluster, "deployment/server")
    check_restored(cluster, label, 1)

    cluster.kubectl("scale", "deployment/server", "--replicas=4")
    roll_out(cluster, "deployment/server")
    check_restored(cluster, label, 4)
    endpoints = cluster.read("endpointslices", selector="kubernetes.io/service-name=server")["items"]
    assert sum(len(each["endpoints"]) for each in endpoints) == 4

    before = {pod.name for pod in read_pods(cluster, label)}
    cluster.kubectl("rollout", "restart", "deployment/server")
    roll_out(cluster, "deployment/server")
    check_restored(cluster, label, 4)
    assert before.isdisjoint(pod.name for pod in read_pods(cluster, label))

    cluster.kubectl("scale", "deployment/server", "--replicas=1")
    (pod,) = wait_for(lambda: pods if len(pods := read_pods(cluster, label)) == 1 else None)
    (process,) = pod.find_processes()
    os.kill(process, signal.SIGKILL)
    # The kubelet may still say that the pod is ready when its next process runs.
    wait_for(lambda: [each for each in pod.find_processes() if each != process] and count_restarts(cluster, pod) == 1)
    wait_for(lambda: read_pods(cluster, label))
    check_restored(cluster, label, 1, restarts=1)


def count_restarts(cluster, pod: Pod) -> int:
    (status,) = cluster.read("pods", pod.name)["status"]["containerStatuses"]
    return status["restartCount"]


def test_a_deployment_scales_from_zero_when_a_request_comes(cluster, image, deploy, clean, tmp_path):
    autoscaler = read_example(SCALE_FROM_ZERO, "HorizontalPodAutoscaler")
    # At once, instead of after five minutes.
    autoscaler["spec"]["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    name, [metric] = autoscaler["spec"]["scaleTargetRef"]["name"], autoscaler["spec"]["metrics"]
    path = tmp_path / "mine.yaml"
    path.write_text(deploy(image, "--name", name)[0].replace("  replicas: 1\n", ""))
    deploy(image, "--from", path, "--apply")
    with run_activator(cluster, name) as activator:
        metrics = {metric["external"]["metric"]["name"]: activator.read_waiting}
        with serve_metrics(cluster, metrics), applied(cluster, autoscaler):
            wait_for(lambda: is_scaled_to_zero(cluster, autoscaler))
            status, body = activator.call("/state")
            assert status == 200
            assert json.loads(body)["requests"] >= WARMUPS
            wait_for(lambda: is_scaled_to_zero(cluster, autoscaler))
            # An update leaves the number of replicas to the autoscaler.
            deploy(image, "--from", path, "--apply")
            assert cluster.read("deployments", name)["spec"]["replicas"] == 0


def read_example(path: Path, kind: str) -> dict:
    """Return the only manifest of a kind in a page of the documentation."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if f"kind: {kind}\n" in block]
    return YAML(typ="safe").load(found)


@contextlib.contextmanager
def applied(cluster, manifest: dict) -> Iterator[None]:
    """Apply a manifest, and delete its object at the end of the block."""
    cluster.apply(manifest)
    try:
        yield
    finally:
        cluster.kubectl("delete", manifest["kind"].lower(), manifest["metadata"]["name"])


def is_scaled_to_zero(cluster, autoscaler: dict) -> bool:
    """Tell whether the autoscaler has removed all pods. It adds pods to an empty workload only if it has emptied it."""
    status = cluster.read("horizontalpodautoscalers", autoscaler["metadata"]["name"]).get("status", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    name = autoscaler["spec"]["scaleTargetRef"]["name"]
    pods = cluster.read("deployments", name)["status"].get("replicas", 0)
    return conditions.get("ScaledToZero") == "True" and not pods


def test_a_manifest_that_was_changed_to_match(cluster, image, base_image, deploy, clean, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MANIFEST.replace("BASE", base_image))

    changed, said = deploy(image, "--from", path, "--container", "web")
    assert "name: web   # the server" in changed
    assert "volumeMounts: /cache is not there in a container that the runtime restores" in " ".join(said.split())
    assert deploy(image, "--from", path, "-c", "web", "--apply")[0] == "deployment.apps/mine applied\n"
    roll_out(cluster, "deployment/mine")
    (pod,) = read_pods(cluster, "app=mine")
    assert pod.read_state()["requests"] >= WARMUPS
    read = cluster.read("pods", pod.name)
    assert {one["name"]: one["restartCount"] for one in read["status"]["containerStatuses"]} == {"web": 0, "beside": 0}
    web, beside = read["spec"]["containers"]
    assert web["securityContext"]["runAsUser"] == 1000
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in [each["mountPath"] for each in beside["volumeMounts"]]


CONFIGURED = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {mode: pod}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mine}
spec:
  selector: {matchLabels: {app: mine}}
  template:
    metadata: {labels: {app: mine}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: registry.example.com/unknown:1
        env:
        - {name: MODE, valueFrom: {configMapKeyRef: {name: conf, key: mode}}}
        readinessProbe: {httpGet: {path: /ready, port: 8080}, initialDelaySeconds: 600, periodSeconds: 1}
        volumeMounts: [{name: conf, mountPath: /etc/conf}]
      volumes:
      - {name: conf, configMap: {name: conf}}
"""


def test_a_manifest_with_volumes_and_configuration(cluster, cache, base_archive, deploy, clean, tmp_path):
    mounts = {"/etc/conf": {"configMap": {"name": "conf"}}, "/tmp": {"emptyDir": {}}}
    variable = {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "mode"}}}
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base_archive,
        f"{cluster.registry}/tests/configured:1",
        {"env": [variable], "volumeMounts": [{"name": Path(at).name, "mountPath": at} for at in mounts]},
        volumes=[{"name": Path(at).name, **volume} for at, volume in mounts.items()],
        build={"objects": [{"kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"mode": "build"}}]},
        warmup=[{**STATE, "repeat": WARMUPS}],
        restore=["runtime"],
    )
    image = build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))[0].name
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIGURED)

    with pytest.raises(ManifestError, match="a frozen value differs") as refused:
        deploy(image, "--from", path)
    assert "MODE: the build had another value (from the ConfigMap conf)" in refused.value.details[0]
    said = deploy(image, "--from", path, "--accept-frozen", "MODE", "--apply")
    assert said[0] == "configmap/conf applied\ndeployment.apps/mine applied\n"
    roll_out(cluster, "deployment/mine")
    (pod,) = read_pods(cluster, "app=mine")
    assert pod.read_state()["requests"] >= WARMUPS
    (pid,) = pod.find_processes()
    assert Path(f"/proc/{pid}/root/etc/conf/mode").read_text() == "pod"
    assert " /tmp " in Path(f"/proc/{pid}/mountinfo").read_text()
    cluster.kubectl("delete", "configmap", "conf")


POD = {"spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": "unknown"}]}}
TEMPLATE = {"metadata": {"labels": {"app": "mine"}}, **POD}
ONCE = {"template": {**TEMPLATE, "spec": {**POD["spec"], "restartPolicy": "Never"}}}
SELECTED = {"selector": {"matchLabels": {"app": "mine"}}, "template": TEMPLATE}


def write_manifest(directory: Path, version: str, kind: str, spec: dict) -> Path:
    """Write a JSON manifest of an object that is, or creates, a pod with the label `app=mine`."""
    path = directory / "mine.json"
    metadata = {"name": "mine", "labels": {"app": "mine"}}
    path.write_text(json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
    return path


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        ("apps/v1", "StatefulSet", {**SELECTED, "serviceName": "mine"}),
        ("apps/v1", "DaemonSet", SELECTED),
        ("batch/v1", "Job", ONCE),
        ("batch/v1", "CronJob", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": ONCE}}),
        ("v1", "Pod", POD["spec"]),
    ],
)
def test_what_each_kind_runs_is_restored(cluster, image, deploy, clean, tmp_path, version, kind, spec):
    deploy(image, "--from", write_manifest(tmp_path, version, kind, spec), "--apply")
    if kind == "CronJob":
        cluster.kubectl("create", "job", "now", "--from=cronjob/mine")
    for condition in ("create", "condition=Ready"):
        limit = f"--timeout={PATIENCE_S}s"
        cluster.kubectl("wait", "pod", "--selector=app=mine", f"--for={condition}", limit, timeout_s=PATIENCE_S + 10)

    (pod,) = read_pods(cluster, "app=mine")
    assert pod.read_state()["requests"] >= WARMUPS


def test_what_cannot_be_changed_any_more_is_said(cluster, image, deploy, clean, tmp_path):
    path = write_manifest(tmp_path, "batch/v1", "Job", ONCE)
    cluster.kubectl("apply", "-f", path)

    with pytest.raises(ClusterError, match=r"field is immutable$") as refused:
        deploy(image, "--from", path, "--apply", "--force-conflicts")
    assert "delete it" in refused.value.hint


def test_the_patch_does_in_kustomize_what_deploy_does_itself(cluster, image, base_image, deploy, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(MANIFEST.replace("BASE", base_image))
    (tmp_path / "patch.yaml").write_text(deploy(image, "--from", mine, "-c", "web", "--output", "patch")[0])
    (tmp_path / "kustomization.yaml").write_text(
        write_yaml({"resources": ["mine.yaml"], "patches": [{"path": "patch.yaml"}]})
    )

    by_kustomize = YAML(typ="safe").load(cluster.kubectl("kustomize", tmp_path))
    changed = deploy(image, "--from", mine, "-c", "web")[0]
    (by_us,) = [document.value for document in read_documents(changed, "changed")]
    assert by_kustomize == by_us


def test_a_patch_of_a_recipe_alone(cluster, recipe, deploy, tmp_path):
    (tmp_path / "kustomization.yaml").write_text(
        write_yaml({"resources": ["all.yaml"], "patches": [{"path": "patch.yaml"}]})
    )
    deployment = deploy(recipe)[0].split("---\n")[0]
    (tmp_path / "all.yaml").write_text(deployment)
    (tmp_path / "patch.yaml").write_text(deploy(recipe, "--output", "patch")[0])

    (expected,) = [document.value for document in read_documents(deployment, "x")]
    assert YAML(typ="safe").load(cluster.kubectl("kustomize", tmp_path)) == expected


@pytest.fixture
def idle_image(cluster, cache, base_archive) -> str:
    """Return an image that waits in a pod: the cluster's own pause image cannot run as a container."""
    with open_node("test", cache, Progress(SilentListener())) as session:
        return push_image(cluster, session, base_archive, "tests/idle:1")


def test_pulled_ahead_by_a_node_that_does_not_run_it(cluster, image, idle_image, deploy, clean):
    with cluster.add_node() as node:
        deploy(image, "--pre-pull", "--pause-image", idle_image, "--apply")
        roll_out(cluster, "daemonset/server-pre-pull")

        names = {pod["spec"]["nodeName"] for pod in cluster.read("pods")["items"]}
        assert names == {"node-1", node.name}
        for pod in read_pods(cluster, "app.kubernetes.io/name=server-pre-pull"):
            (container,) = cluster.read("pods", pod.name)["status"]["containerStatuses"]
            assert container["image"] == idle_image
        events = cluster.kubectl("get", "events", "--field-selector=reason=Pulled", "--output=jsonpath={..message}")
        assert f'Successfully pulled image "{image}"' in events
        # A pod on a node that is gone ends only when the cluster has noticed that.
        remove_pods(cluster)


def test_fields_of_others_are_not_taken_over_unasked(cluster, image, deploy, clean):
    mine = deploy(image)[0].replace("replicas: 1", "replicas: 2").split("---\n")[0]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=mine)

    with pytest.raises(ClusterError, match="conflict") as refused:
        deploy(image, "--apply")
    assert "--force-conflicts" in refused.value.hint
    deploy(image, "--apply", "--force-conflicts")
    assert cluster.read("deployments", "server")["spec"]["replicas"] == 1


def test_a_kind_that_the_cluster_does_not_know(image, deploy, tmp_path):
    path = tmp_path / "odd.yaml"
    pod = "{spec: {containers: [{name: a, image: b}]}}"
    path.write_text(f"apiVersion: example.com/v1\nkind: Odd\nmetadata: {{name: odd}}\nspec: {{template: {pod}}}\n")

    with pytest.raises(ClusterError, match=r"knows no Odd of example\.com/v1"):
        deploy(image, "--from", path, "--apply")
