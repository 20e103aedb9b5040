"""`warmstart doctor --cluster` finds the nodes that cannot restore an image, and reports the reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.builds import build, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.cli import main as cli
from warmstart.core.errors import ClusterError
from warmstart.core.progress import Progress, SilentListener
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.kube.rbac import read_role
from warmstart.node.open import open_node

pytestmark = pytest.mark.cluster

# The tests' server, with the programs by which a container is asked who it is.
SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
mkdir root
for program in cat dd; do
    cp --dereference --parents $(command -v $program) $(ldd $(command -v $program) | grep -o '/[^ ]*') root
done
container=$(tool from oci-archive:base.tar)
tool add -q "$container" root /
tool commit -q "$container" oci-archive:asking.tar
"""


@pytest.fixture(scope="module")
def asking_archive(cache, base_archive, tmp_path_factory) -> Path:
    archive = tmp_path_factory.mktemp("asking") / "asking.tar"
    with open_node("test", cache, Progress(SilentListener())) as session:
        (session.workspace / "base.tar").write_bytes(base_archive.read_bytes())
        session.run(["sh", "-c", SCRIPT], cwd=str(session.workspace), timeout_s=60)
        archive.write_bytes((session.workspace / "asking.tar").read_bytes())
    return archive


@pytest.fixture
def doctor(cluster, monkeypatch, capsys) -> Callable[..., list[dict]]:
    """Run `warmstart doctor --cluster --json`, and return its findings even if they are errors."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    def run(image: str, *more: str) -> list[dict]:
        words = ["doctor", "--cluster", "--image", image, "--plain-http", cluster.registry, "--json", *more]
        try:
            cli.cli.main(words, standalone_mode=False)
            restored = True
        except ClusterError:
            restored = False
        found = json.loads(capsys.readouterr().out)
        assert restored == all(each["restoredBy"] for each in found)
        assert cluster.read("pods", selector="app.kubernetes.io/managed-by=warmstart")["items"] == []
        return found

    return run


def make_image(cluster, cache, archive: Path, directory: Path, name: str, **more: object) -> str:
    recipe = write_recipe(directory / "recipe.yaml", archive, f"{cluster.registry}/tests/{name}:1", **more)
    built, _ = build(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))))
    return built.name


@pytest.fixture(scope="module")
def by_runtime(cluster, cache, asking_archive, tmp_path_factory) -> str:
    return make_image(cluster, cache, asking_archive, tmp_path_factory.mktemp("runtime"), "by-runtime")


@pytest.fixture(scope="module")
def by_itself(cluster, cache, asking_archive, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("self")
    return make_image(cluster, cache, asking_archive, directory, "by-itself", restore=["self"])


def test_a_node_that_restores(cluster, doctor, by_runtime):
    (found,) = doctor(by_runtime)

    assert (found["restoredBy"], found["node"], found["nodes"]) == ("runtime", "node-1", ["node-1"])
    assert (found["runtime"], found["architecture"]) == ("cri-o://1.36.3", "amd64")


def test_the_programs_of_a_node_say_whether_they_have_the_fixes(cluster, user, doctor, by_runtime):
    cluster.kubectl("apply", "-f", "-", stdin=read_role("doctor"))
    (found,) = doctor(by_runtime)
    assert [fix["fixed"] for fix in found["fixes"]] == [None, None, None]
    options = ("--node-programs", "--helper-image", user.helper, "--helper-namespace", "warmstart")
    (found,) = doctor(by_runtime, *options)
    fixes = {fix["program"]: fix["fixed"] for fix in found["fixes"]}
    assert fixes == {"runc": True, "crun": False, "criu": False}


def test_nodes_that_are_alike_are_tried_once(cluster, doctor, by_runtime):
    cluster.kubectl("cordon", "node-1")
    try:
        with cluster.add_node() as node:
            (found,) = doctor(by_runtime)
            assert (found["node"], found["nodes"]) == (node.name, [node.name, "node-1"])
        (found,) = doctor(by_runtime)
        assert (found["outcome"], found["reason"]) == ("not tried", "no node takes pods")
    finally:
        cluster.kubectl("uncordon", "node-1")


def test_a_node_that_starts_the_image_cold(cluster, doctor, by_runtime):
    cluster.kubectl("cordon", "node-1")
    try:
        with cluster.add_node(restore=False):
            (found,) = doctor(by_runtime)
    finally:
        cluster.kubectl("uncordon", "node-1")
    assert (found["outcome"], found["restoredBy"]) == ("cold", None)
    assert "enable_criu_support" in found["reason"]


def test_an_image_that_restores_itself_does_where_the_runtime_does_not(cluster, doctor, by_itself):
    cluster.kubectl("cordon", "node-1")
    try:
        with cluster.add_node(restore=False):
            (found,) = doctor(by_itself)
    finally:
        cluster.kubectl("uncordon", "node-1")
    assert found["restoredBy"] == "self", found


def test_who_has_the_role_may(cluster, by_runtime, monkeypatch, capsys):
    cluster.kubectl("apply", "-f", "-", stdin=read_role("doctor"))
    kubeconfig = cluster.write_account_kubeconfig("doctor", namespace="warmstart-doctor")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    words = ["doctor", "--cluster", "--image", by_runtime, "--plain-http", cluster.registry, "--json"]

    cli.cli.main([*words, "--namespace", "warmstart-doctor"], standalone_mode=False)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["restoredBy"] == "runtime"
    with pytest.raises(ClusterError, match="cannot create resource") as refused:
        cli.cli.main([*words, "--namespace", "default"], standalone_mode=False)
    assert "warmstart rbac" in refused.value.hint


def test_a_container_that_cannot_be_asked(cluster, cache, doctor, base_archive, tmp_path):
    (found,) = doctor(make_image(cluster, cache, base_archive, tmp_path, "mute"))

    assert found["outcome"] == "unknown"
    assert "cat" in found["reason"]


def test_an_image_that_cannot_be_pulled(doctor, by_runtime, monkeypatch):
    monkeypatch.setattr("warmstart.kube.trial.make_pod_spec", lambda build: {"containers": [broken(build)]})

    (found,) = doctor(by_runtime)
    assert found["outcome"] == "failed"
    assert "ErrImagePull" in found["reason"]


def broken(build) -> dict:
    return {"name": build.name, "image": "registry.invalid/none:1"}
