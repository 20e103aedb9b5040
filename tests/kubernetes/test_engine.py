"""`warmstart build --engine kubernetes` on a real cluster."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from ruamel.yaml import YAML
from support.builds import STATE, write_recipe
from support.cluster_user import list_checkpoints, wait_until
from support.signing_keys import write_pair

from warmstart.core.reference import parse_reference
from warmstart.image.registry.client import read_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import check_signatures
from warmstart.image.signatures.keys import read_public_key
from warmstart.image.signatures.predicates import PROVENANCE, SBOM, VERIFICATION

pytestmark = pytest.mark.cluster

WARMUPS = 25
BUILD = "app.kubernetes.io/managed-by=warmstart"


@pytest.fixture(scope="module")
def account(user):
    """Return the kubeconfig of an account that may build."""
    return user.grant("build")


@pytest.fixture
def build(user, account, cluster, tmp_path):
    """Build with additional fields of the container and the recipe, and additional arguments."""

    def call(*words, container=None, interrupt=None, **more):
        name = f"{cluster.registry}/tests/built:1"
        recipe = write_recipe(tmp_path / "recipe.yaml", user.base, name, container, **more)
        line = ["build", recipe, "--engine", "kubernetes", "-n", "default", "--plain-http", cluster.registry, *words]
        if interrupt:
            return user.interrupt(*interrupt, *line)
        return user.call(*line, kubeconfig=account)

    yield call
    wait_until(lambda: not user.list_pods(BUILD), 30)
    user.wait_no_helpers()
    assert list_checkpoints(cluster.nodes[0]) == []


def test_an_image_is_built_signed_and_restores_in_the_cluster(build, user, cluster, tmp_path):
    key = write_pair(tmp_path)
    done = build(
        "--json",
        "--compare-state",
        "--sign",
        key,
        warmup=[{**STATE, "repeat": WARMUPS}],
        container={"env": [{"name": "FILL_MB", "value": "32"}, {"name": "LOCK", "value": "/server.lock"}]},
    )
    built = done.result
    name, access = parse_reference(built["image"]), RegistryAccess((cluster.registry,))
    manifest = read_manifest(name, access=access)
    assert manifest.digest == built["digest"]
    checked = check_signatures(name, manifest, [read_public_key(key.with_suffix(".pub"))], access=access)
    assert {one.type for one in checked.statements} == {PROVENANCE, SBOM, VERIFICATION}
    assert len(built["restores"]) == 2
    # The only thing that the runtime loses.
    assert [one[-len("[lost-lock]") :] for one in built["warnings"]] == ["[lost-lock]"]
    assert built["provenance"]["runtime"] == "cri-o 1.36.3"
    assert re.fullmatch(r"4\.\d+(\.\d+)?", built["provenance"]["criu"])
    assert built["edits"]["dumpedBytes"] > 32 << 20
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "warm", "labels": {"app": "warm"}},
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [{"name": "server", "image": built["image"], "imagePullPolicy": "Always"}],
            },
        }
    )
    try:
        user.wait_ready("warm")
        assert user.read_state("warm")["requests"] > WARMUPS
    finally:
        cluster.kubectl("delete", "pod", "warm", "--grace-period=1")


@pytest.fixture
def secret(cluster):
    """Make a Secret with values that no build may see, and see that no other is left in its namespace."""
    cluster.kubectl("create", "secret", "generic", "size", "--from-literal=megabytes=1", "-n", "default")
    yield "size"
    cluster.kubectl("delete", "secret", "size", "-n", "default")
    wait_until(lambda: not cluster.kubectl("get", "secrets", "-n", "default", "-l", BUILD, "-o", "name"), 30)


def make_words(secret, **env):
    """Return a container with a variable and a file of a Secret, and other parts of a recipe with their values."""
    container = {
        "env": [
            {"name": "FILL_MB", "valueFrom": {"secretKeyRef": {"name": secret, "key": "megabytes"}}},
            *({"name": name, "value": value} for name, value in env.items()),
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "conf", "mountPath": "/conf"}],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "conf", "secret": {"secretName": secret}}]
    build = {"secrets": {secret: {"megabytes": "32"}}}
    return {"container": container, "volumes": volumes, "build": build, "restore": ["runtime"]}


def test_the_pod_has_the_values_of_the_build_and_a_restored_one_the_clusters(build, user, cluster, secret):
    words = make_words(secret)
    built = build("--json", **words).result
    assert len(built["restores"]) == 2
    assert built["edits"]["dumpedBytes"] > 32 << 20
    server = {**words["container"], "name": "server", "image": built["image"], "imagePullPolicy": "Always"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "warm", "labels": {"app": "warm"}},
            "spec": {"automountServiceAccountToken": False, "containers": [server], "volumes": words["volumes"]},
        }
    )
    try:
        user.wait_ready("warm")
        assert user.read_state("warm")["requests"] > 0
    finally:
        cluster.kubectl("delete", "pod", "warm", "--grace-period=1")


@pytest.mark.parametrize(
    ("file", "end"), [("megabytes", "404"), ("missing", "the container ended with exit code 9 before it was ready")]
)
def test_the_files_of_volumes_are_there(build, secret, file, end):
    words = make_words(secret, HOLD=f"/conf/{file}")
    done = build(warmup=[{"httpGet": {"path": "/nothing", "port": 8080}}], **words)
    assert done.code == 6
    assert end in done.err


@pytest.fixture
def other_processor(cluster):
    """Let helper pods see another processor than this machine's on all nodes.

    The build's container does not: the mount for it would become part of its checkpoint.
    """
    with contextlib.ExitStack() as undo:
        for node in cluster.nodes:
            cpuinfo, runc = node.session.workspace / "cpuinfo", node.session.root / "usr/bin/runc"
            cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu amx_tile sha_ni\n")
            mount = f'{{"destination":"/proc/cpuinfo","type":"bind","source":"{cpuinfo}","options":["bind","ro"]}}'
            script = runc.read_text()
            undo.callback(runc.write_text, script)
            edit = f"""sed -i -z -e '/checkpoints/s#{{[[:space:]]*"destination": *"/proc",[^}}]*}}#&,{mount}#' -e """
            runc.write_text(script.replace("sed -i ", edit))
        yield


def test_nodes_are_held_to_the_processor_of_the_builds_node(build, user, cluster, other_processor):
    image = build("--json").result["image"]
    line = ["deploy", image, "--match-cpu", "--plain-http", cluster.registry]
    deployment = next(YAML(typ="safe").load_all(user.call(*line).out))
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {
        "kubernetes.io/arch": "amd64",
        "feature.node.kubernetes.io/cpu-cpuid.AMXTILE": "true",
        "feature.node.kubernetes.io/cpu-cpuid.SHA": "true",
    }


def test_memory_is_mapped_where_the_recipe_says_so(build):
    env = {"env": [{"name": "FILL_MB", "value": "32"}]}
    edits = build("--json", container=env, memory={"mapped": "all"}).result["edits"]
    assert edits["mappedBytes"] > 32 << 20
    # The server is linked statically, and nothing is known of its allocator.
    [process] = build("--json", container=env).result["edits"]["processes"]
    assert any("linked statically" in reason for reason in process["left"])


def test_an_application_that_does_not_start_is_shown(build):
    done = build(container={"command": ["/missing"]})
    assert done.code == 13
    assert "does not start" in done.err
    assert "no such file or directory" in done.err


def test_an_application_that_ends_is_shown(build):
    done = build(container={"env": [{"name": "EXIT_MS", "value": "500"}]})
    assert done.code == 6
    assert "the container ended with exit code 7 before it was ready" in done.err
    assert "giving up, as I was told" in done.err


def test_an_application_that_does_not_become_ready_is_given_up(build):
    probe = {"httpGet": {"path": "/nothing", "port": 8080}, "periodSeconds": 1, "failureThreshold": 3}
    done = build(container={"readinessProbe": probe})
    assert done.code == 6
    assert "the pod was not ready within 3 s" in done.err


def test_a_step_that_fails_ends_the_build(build):
    done = build(warmup=[{"httpGet": {"path": "/nothing", "port": 8080}}])
    assert done.code == 6
    assert "404" in done.err


def test_an_image_that_is_in_no_registry_is_refused_at_once(user, tmp_path):
    local = write_recipe(tmp_path / "local.yaml", "localhost/tests/base:1", "registry.example.com/built:1")
    done = user.call("build", local, "--engine", "kubernetes")
    assert done.code == 3
    assert "is not in a registry" in done.err


@pytest.fixture
def baseline(cluster):
    """Let the default namespace admit only pods of the baseline standard."""
    label = "pod-security.kubernetes.io/enforce"
    cluster.kubectl("label", "namespace", "default", f"{label}=baseline")
    yield
    cluster.kubectl("label", "namespace", "default", f"{label}-")


def test_a_namespace_that_does_not_admit_the_launcher_leaves_the_runtime(build, baseline):
    done = build(restore=["self"])
    assert done.code == 13
    assert "the namespace default does not admit the launcher's privileges" in done.err
    assert "pod-security.kubernetes.io/enforce: privileged, or set `restore: [runtime]`" in done.err
    built = build("--json", restore=None).result
    assert {restore["restorer"] for restore in built["restores"]} == {"runtime"}
    (warning,) = [one for one in built["warnings"] if "only the runtime restores it" in one]
    assert "does not admit" in warning


def describe_service(user, **env):
    variables = [{"name": name, "value": value} for name, value in env.items()]
    probe = {"tcpSocket": {"port": 8080}}
    container = {"image": user.base, "env": variables, "ports": [{"containerPort": 8080}], "readinessProbe": probe}
    return {"name": "db", "container": container}


def test_services_and_init_containers_that_fail_are_shown(build, user):
    done = build(build={"services": [describe_service(user, EXIT_MS="300")]})
    assert done.code == 6
    assert "the service db did not start: the container ended with exit code 7 before it was ready" in done.err
    assert "giving up, as I was told" in done.err
    words = {
        "build": {"services": [describe_service(user)], "init": [{"container": "migrate"}]},
        "initContainers": [{"name": "migrate", "image": user.base, "env": [{"name": "EXIT_MS", "value": "1"}]}],
    }
    done = build(restore=["self"], **words)
    assert done.code == 6
    assert "the init container migrate failed with exit code 7" in done.err
    assert "giving up, as I was told" in done.err
    assert "the end of the log of the service db:" in done.err


def test_the_right_that_is_missing_is_named(user, cluster, tmp_path):
    cluster.kubectl("create", "serviceaccount", "builder", "-n", "default")
    kubeconfig = cluster.write_account_kubeconfig("builder")
    recipe = write_recipe(tmp_path / "recipe.yaml", user.base, f"{cluster.registry}/tests/built:1")
    line = ["build", recipe, "--engine", "kubernetes", "-n", "default", "--plain-http", cluster.registry]
    done = user.call(*line, kubeconfig=kubeconfig)
    assert done.code == 13
    assert "hint: needs: create pods in the namespace default" in done.err


@pytest.mark.parametrize(
    ("signal", "step", "code"),
    [("SIGINT", "start", 130), ("SIGTERM", "warm up", 143), ("SIGINT", "fetch", 130), ("SIGINT", "verify", 130)],
)
def test_an_interruption_leaves_nothing(build, signal, step, code):
    done = build(interrupt=(signal, step, 0.1), warmup=[{**STATE, "repeat": WARMUPS}])
    assert done.code == code, json.dumps(done.err)


def test_an_interruption_leaves_neither_services_nor_the_launcher(build, user):
    words = {"restore": ["self"], "build": {"services": [describe_service(user)]}}
    done = build(interrupt=("SIGINT", "start", 0.4), **words)
    assert done.code == 130, json.dumps(done.err)
