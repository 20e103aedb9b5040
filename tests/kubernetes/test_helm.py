"""Helm creates a release of an image built by warmstart, with the plugin in integrations/helm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.builds import STATE, build, write_recipe
from support.cluster.pods import Pod, find_ready_pods
from support.go_tools import HELM, ensure_go_tool

from warmstart.build.context import BuildOptions
from warmstart.image.registry.credentials import RegistryAccess

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

TOP = Path(__file__).parents[2]
WARMUPS = 7
PATIENCE_S = 120
# The chart that `helm create` makes is for a server with other pages; the image that it names does not exist.
VALUES = (
    "image.repository=registry.example.com/cold",
    "image.tag=1",
    "service.port=8080",
    "livenessProbe=null",
    "readinessProbe.httpGet.path=/ready",
)
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def image(cluster, cache, base_archive, tmp_path_factory) -> str:
    settings = {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}}
    path, name = tmp_path_factory.mktemp("helm") / "recipe.yaml", f"{cluster.registry}/tests/helm:1"
    recipe = write_recipe(path, base_archive, name, settings, warmup=[{**STATE, "repeat": WARMUPS}])
    built, _ = build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))
    return built.name


@pytest.fixture
def helm(cluster, cache, tmp_path, virtual_path) -> Iterator[Helm]:
    """Return Helm with the plugin, in a directory with a new chart."""
    program = ensure_go_tool(cache, HELM, print)
    environment = {**os.environ, "PATH": virtual_path, "KUBECONFIG": str(cluster.kubeconfig)}
    environment |= {f"HELM_{kind}_HOME": str(tmp_path / kind) for kind in ("CACHE", "CONFIG", "DATA")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S + 60
        )

    run("plugin", "install", str(TOP / "integrations/helm")).check_returncode()
    run("create", "web").check_returncode()
    yield run
    run("uninstall", "web", "--ignore-not-found", "--wait")


def call(helm: Helm, image: str, registry: str, *words: str) -> subprocess.CompletedProcess[str]:
    renderer = ["--post-renderer", "warmstart"]
    arguments = [f"--post-renderer-args={word}" for word in (image, f"--plain-http={registry}")]
    return helm(*words, "web", "./web", *renderer, *arguments, *(f"--set={value}" for value in VALUES))


def check_restored(cluster, count: int) -> None:
    found = find_ready_pods(cluster, "app.kubernetes.io/name=web")
    pods = [Pod.from_manifest(cluster, pod) for pod in found]
    states = [pod.read_state() for pod in pods]
    assert len(pods) == count
    assert len({state["id"] for state in states}) == 1
    assert all(state["requests"] >= WARMUPS for state in states)


def test_a_release_is_installed_upgraded_and_uninstalled(cluster, image, helm):
    waiting = ("--wait", f"--timeout={PATIENCE_S}s")
    installed = call(helm, image, cluster.registry, "install", *waiting)
    assert installed.returncode == 0, installed.stderr
    assert "+      automountServiceAccountToken: false" in installed.stderr
    check_restored(cluster, 1)

    upgraded = call(helm, image, cluster.registry, "upgrade", *waiting, "--set=replicaCount=2")
    assert upgraded.returncode == 0, upgraded.stderr
    check_restored(cluster, 2)

    helm("uninstall", "web", "--wait").check_returncode()
    assert cluster.read("deployments")["items"] == []


def test_why_a_chart_could_not_be_changed_is_said(cluster, helm):
    failed = call(helm, f"{cluster.registry}/tests/none:1", cluster.registry, "template")

    assert failed.returncode == 1
    assert "none:1" in failed.stderr
