"""What an image was built from, told by the image or by its recipe; and the command that makes manifests of it."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from support.checkpoint_image import ANNOTATIONS, PROVENANCE, make_warm_image

from warmstart.cli import main as cli
from warmstart.core.errors import ImageError, InputError, ManifestError, PrivilegeError
from warmstart.core.privileges import parse_privilege
from warmstart.core.yaml_document import read_documents
from warmstart.image.annotations import write_provenance
from warmstart.inspect.build_info import list_beyond_pod, read_build
from warmstart.inspect.inspection import inspect_target
from warmstart.kube import client
from warmstart.kube.answer import Answer
from warmstart.kube.manifests import make_manifests
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Recipe

RECIPE = {
    "apiVersion": "warmstart/v1alpha1",
    "name": "app",
    "container": {
        "image": "registry.example.com/app:1.0",
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1},
    },
    "image": {"name": "registry.example.com/app:1.0-warm"},
}
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  automountServiceAccountToken: false
  containers:
    - name: app
      image: registry.example.com/app:1.0  # the one
      args: [--slow]
      readinessProbe: {httpGet: {port: 8080}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(RECIPE))
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    provenance = replace(PROVENANCE, recipe=json.dumps(RECIPE), architecture="arm64")
    annotations = {**ANNOTATIONS, **write_provenance(provenance), "dev.warmstart.cpu": "fpu avx2 fma sse4_2"}
    return make_warm_image(tmp_path_factory.mktemp("warm"), annotations)


@pytest.fixture
def deploy(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    def run(*arguments: object) -> tuple[str, str]:
        cli.cli.main(["deploy", *map(str, arguments)], standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def loaded(text: str) -> list:
    return [document.value for document in read_documents(text, "output")]


def test_a_recipe(recipe: Path) -> None:
    known = read_build(str(recipe), overrides=["name=front"], tag="2-warm")

    assert known.warnings == ()
    assert (known.build.name, known.build.image) == ("front", "registry.example.com/app:2-warm")
    assert known.build.container == RECIPE["container"]
    assert (known.build.user, known.build.mounts, known.build.architecture) == (None, (), "")


def test_a_recipe_on_standard_input(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(recipe.read_bytes())))

    assert read_build("-").build == read_build(str(recipe)).build


def test_a_recipe_says_what_its_pod_has(tmp_path: Path) -> None:
    volumes = [{"name": "conf", "configMap": {"name": "shop"}}, {"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "conf", "mountPath": "/conf"}, {"name": "tmp", "mountPath": "/tmp"}]
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}, "data": {"MODE": "prod"}}
    env = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    sources = [{"configMapRef": {"name": "shop"}}]
    container = {**RECIPE["container"], "volumeMounts": mounts, "env": env, "envFrom": sources}
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps(
            {
                **RECIPE,
                "container": container,
                "volumes": volumes,
                "securityContext": {"fsGroup": 2000},
                "build": {"objects": [config], "secrets": {"db": {"password": "hunter2"}}},
                "late": ["IP"],
                "onDifference": "warn",
                "afterRestore": [{"signal": "SIGHUP"}],
            }
        )
    )

    build = read_build(str(path)).build
    assert build.mounts == ("/conf", "/tmp")
    assert build.pod == {"volumes": volumes, "securityContext": {"fsGroup": 2000}}
    assert (build.late, build.on_difference, build.after_restore) == (("IP",), "warn", ({"signal": "SIGHUP"},))
    assert build.stand_ins["objects"] == [config]
    assert build.stand_ins["secrets"] == {"db": {"password": None}}
    assert "hunter2" not in repr(build)

    # What is made anew has the words of the pod, not what the build had in their place.
    pod = make_manifests(build, "shop")[0]["spec"]["template"]["spec"]
    assert pod["volumes"] == volumes
    assert pod["securityContext"] == {"fsGroup": 2000}
    (made,) = pod["containers"]
    assert {key: made[key] for key in ("volumeMounts", "env", "envFrom")} == {
        "volumeMounts": mounts,
        "env": env,
        "envFrom": sources,
    }


def test_an_image_says_more(image: Path) -> None:
    known = read_build(str(image))
    container = inspect_target(str(image)).checkpoint.container

    assert known.warnings == ()
    assert known.build.image == "registry.example.com/app:1.0-warm"
    assert known.build.container == RECIPE["container"]
    assert known.build.user == (container.user.uid, container.user.gid)
    assert known.build.architecture == "arm64"
    assert known.build.cpu_features == ()
    mounts = {mount.destination for mount in container.mounts}
    assert set(known.build.mounts) == mounts - {"/etc/hosts", "/dev/termination-log"}


def test_an_image_in_an_archive_is_no_recipe(image: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image", "w") as tar:
        tar.add(image, arcname=".")

    assert read_build(str(tmp_path / "image")).build == read_build(str(image)).build


def test_the_processor_of_the_build(image: Path) -> None:
    assert read_build(str(image), match_cpu=True).build.cpu_features == ("AVX2", "FMA3")


def test_who_does_not_know_the_processor_says_so(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only an image has a record of the processor"):
        read_build(str(recipe), match_cpu=True)
    older = {**ANNOTATIONS, **write_provenance(replace(PROVENANCE, recipe=json.dumps(RECIPE)))}
    with pytest.raises(ImageError, match="no record of the processor"):
        read_build(str(make_warm_image(tmp_path, older)), match_cpu=True)


@pytest.mark.parametrize(
    ("restorers", "effect"), [(["runtime"], "a runtime restores it anyway"), (["self"], "it starts cold")]
)
def test_an_image_that_has_expired_is_warned_of(tmp_path: Path, restorers: list[str], effect: str) -> None:
    provenance = replace(PROVENANCE, recipe=json.dumps({**RECIPE, "restore": restorers}))
    annotations = {**ANNOTATIONS, **write_provenance(provenance), "dev.warmstart.expires": "2026-01-01T00:00:00Z"}
    image = make_warm_image(tmp_path, annotations)
    (warning,) = read_build(str(image)).warnings
    assert warning == f"{image} expired at 2026-01-01T00:00:00Z, {effect}: build it again"


def test_an_image_that_restores_itself_is_named_by_its_digest(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str, name: str) -> Recipe:
        return replace(parse_recipe(text, name), restore=("self",))

    monkeypatch.setattr("warmstart.inspect.build_info.parse_recipe", parse)

    digest = inspect_target(str(image)).image.digest
    assert read_build(str(image)).build.image == f"registry.example.com/app@{digest}"


def test_an_image_that_is_called_otherwise(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = inspect_target(str(image))
    monkeypatch.setattr("warmstart.inspect.build_info.inspect_target", lambda *_, **__: inspection)

    assert read_build("registry.example.com/app:1.0-warm").warnings == ()
    assert read_build(f"registry.example.com/app@{inspection.image.digest}").warnings == ()
    known = read_build("mirror.example.com/app:1.0-warm")
    assert known.build.image == "registry.example.com/app:1.0-warm"
    (warning,) = known.warnings
    assert "mirror.example.com/app:1.0-warm was built as registry.example.com/app:1.0-warm" in warning


def test_an_image_of_somebody_else(tmp_path: Path) -> None:
    others = {key: value for key, value in ANNOTATIONS.items() if not key.startswith("dev.warmstart.")}

    with pytest.raises(ImageError, match="was not built by warmstart: it has no build record"):
        read_build(str(make_warm_image(tmp_path, others)))


def test_values_are_for_a_recipe(image: Path) -> None:
    with pytest.raises(InputError, match="for a recipe only"):
        read_build(str(image), tag="x")


# The command


def test_what_is_printed_is_applied_as_it_is(deploy, recipe: Path) -> None:
    out, err = deploy(recipe, "--name", "front", "--replicas", "4", "-n", "prod")
    deployment, service = loaded(out)

    assert err == ""
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    assert deployment["metadata"]["name"] == "front"
    assert deployment["metadata"]["namespace"] == "prod"
    assert deployment["spec"]["replicas"] == 4


def test_a_variable_with_the_value_of_a_secret_is_left_out(deploy, tmp_path: Path) -> None:
    env = [{"name": "URL", "value": "pg://hunter2@db"}, {"name": "MODE", "value": "prod"}]
    source = {"secretKeyRef": {"name": "db", "key": "password"}}
    container = {**RECIPE["container"], "env": [*env, {"name": "PASSWORD", "valueFrom": source}]}
    recipe = tmp_path / "recipe.yaml"
    secrets = {"db": {"password": "pg://hunter2@db"}}
    recipe.write_text(json.dumps({**RECIPE, "container": container, "build": {"secrets": secrets}}))

    out, err = deploy(recipe)
    (made,) = loaded(out)[0]["spec"]["template"]["spec"]["containers"]
    assert made["env"] == [env[1], {"name": "PASSWORD", "valueFrom": source}]
    assert "left out, because their values are secrets: URL" in " ".join(err.split())
    assert "hunter2" not in out + err


def test_pull_ahead(deploy, image: Path) -> None:
    (daemon_set,) = loaded(deploy(image, "--pre-pull", "--pause-image", "pause:x")[0])

    assert daemon_set["metadata"]["name"] == "app-pre-pull"
    assert daemon_set["spec"]["template"]["spec"]["containers"][0]["image"] == "pause:x"


def test_a_manifest_that_is_to_match(deploy, image: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(POD)

    with pytest.raises(ManifestError, match="a frozen value differs from the build's") as caught:
        deploy(image, "--from", manifest)
    assert caught.value.details == (f"{manifest}:9: args: the build was started with another one",)
    out, err = deploy(image, "--from", manifest, "--accept-frozen", "args")
    assert "image: registry.example.com/app:1.0-warm  # the one" in out
    assert "+      image: registry.example.com/app:1.0-warm  # the one\n" in err
    assert "warning: args:" in err
    (patch,) = loaded(deploy(image, "--from", manifest, "--accept-frozen", "*", "--output", "patch")[0])
    assert patch["spec"]["containers"][0]["image"] == "registry.example.com/app:1.0-warm"
    assert deploy(image, "--from", manifest, "--accept-frozen", "args", "--diff")[0] in err
    # What the processes may do, whatever the pod says.
    assert "processes 16, 17, 18: user 0:0; capabilities bounding CHOWN" in " ".join(err.split())


def test_a_manifest_that_matches(deploy, recipe: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.yaml"
    manifest.write_text(deploy(recipe)[0])

    out, err = deploy(recipe, "--from", manifest)
    assert out == manifest.read_text()
    assert err == f"{manifest}: nothing must differ\n"
    assert deploy(recipe, "--from", manifest, "--diff") == ("", "")
    with pytest.raises(ManifestError, match="nothing must differ"):
        deploy(recipe, "--from", manifest, "--output", "patch")


@pytest.mark.parametrize("command", ["init", "deploy"])
def test_several_containers_are_told_apart_by_an_option(command: str, recipe: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(POD.replace("app:1.0", "app:0.9") + "    - {name: proxy, image: envoy}\n")

    with pytest.raises(ManifestError, match="has 2 containers to choose from:") as caught:
        cli.cli.main(
            [command, *([str(recipe)] if command == "deploy" else []), "--from", str(manifest)], standalone_mode=False
        )

    assert caught.value.hint == "choose one with --container"


def test_a_manifest_that_cannot_be_read_is_no_recipe(deploy, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        deploy(recipe, "--from", tmp_path / "none.yaml")


def test_apply(deploy, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Server(client.Cluster):
        def __init__(self) -> None:
            self.namespace = "prod"

        def __exit__(self, *_: object) -> None:
            pass

        def request(self, method, path, body=None, *, query=None, content_type="", timeout_s=0.0):
            asked.append((method, path, query))
            kinds = [("deployments", "Deployment"), ("services/status", "Service"), ("services", "Service")]
            known = [{"name": name, "kind": kind, "namespaced": True} for name, kind in kinds]
            return Answer({"resources": known}, f"{method} {path}")

    monkeypatch.setattr("warmstart.cli.deploy.connect_cluster", lambda *_: Server())

    assert deploy(recipe, "--apply", "--force-conflicts")[0] == "deployment.apps/app applied\nservice/app applied\n"
    patches = [(path, query) for method, path, query in asked if method == "PATCH"]
    query = {"fieldManager": "warmstart", "force": "true"}
    assert patches == [
        ("/apis/apps/v1/namespaces/prod/deployments/app", query),
        ("/api/v1/namespaces/prod/services/app", query),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "x", "--name", "app"],
        ["--from", "x", "--replicas", "0"],
        ["--from", "x", "--pre-pull"],
        ["--container", "x"],
        ["--diff"],
        ["--accept-frozen", "x"],
        ["--apply", "--output", "patch"],
        ["--apply", "--from", "x", "--diff"],
        ["--name", "App"],
        ["--name", "x" * 60],
    ],
)
def test_options_that_contradict_each_other(deploy, recipe: Path, arguments) -> None:
    with pytest.raises(click.UsageError):
        deploy(recipe, *arguments)


# What an image asks for


@pytest.fixture
def greedy(tmp_path: Path) -> Path:
    """An image whose recipe wants all."""
    context = {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}
    # A build leaves it alone, and the kubelet would ask.
    probe = {"httpGet": {"port": 80, "host": "10.0.0.1"}}
    container = {**RECIPE["container"], "securityContext": context, "livenessProbe": probe}
    recipe = {**RECIPE, "container": container}
    annotations = {**ANNOTATIONS, **write_provenance(replace(PROVENANCE, recipe=json.dumps(recipe)))}
    return make_warm_image(tmp_path / "greedy", annotations)


def test_a_manifest_made_of_an_image_has_no_privilege_that_is_not_named(deploy, greedy: Path) -> None:
    for more in ([], ["--output", "patch"], ["--apply"]):
        with pytest.raises(PrivilegeError) as caught:
            deploy(greedy, *more)
        assert caught.value.refused == ("capability=SYS_ADMIN", "privileged", "probe-host=10.0.0.1")
    allowed = [word for name in caught.value.refused for word in ("--allow", name)]
    out, _ = deploy(greedy, *allowed)
    assert "privileged: true" in out
    # Nothing of it runs.
    deploy(greedy, "--pre-pull")


def test_a_manifest_of_the_users_is_not_made_privileged(deploy, greedy: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(POD + "      securityContext: {privileged: false}\n")
    out, err = deploy(greedy, "--from", manifest, "--accept-frozen", "args")
    assert "privileged: false" in out
    assert "SYS_ADMIN" not in out
    assert "privileged: the image asks for true" in " ".join(err.split())
    out, _ = deploy(greedy, "--from", manifest, "--accept-frozen", "args", "--allow", "privileged")
    assert "privileged: true" in out


def test_an_image_that_says_it_has_another_name_is_refused(deploy, image: Path, monkeypatch) -> None:
    inspection = inspect_target(str(image))
    monkeypatch.setattr("warmstart.inspect.build_info.inspect_target", lambda *_, **__: inspection)
    with pytest.raises(PrivilegeError, match=r"^mirror\.example\.com/app:1 asks") as caught:
        deploy("mirror.example.com/app:1")
    assert caught.value.refused == ("image=registry.example.com/app:1.0-warm",)
    with pytest.raises(PrivilegeError):
        deploy(f"mirror.example.com/app@{inspection.image.digest}")
    assert "1.0-warm" in deploy("mirror.example.com/app:1", "--allow", f"image={RECIPE['image']['name']}")[0]


def test_a_cluster_is_not_tried_with_an_image_that_asks_for_more(greedy: Path, monkeypatch) -> None:
    monkeypatch.setattr("warmstart.cli.deploy.connect_cluster", lambda *_: pytest.fail("it was asked"))
    with pytest.raises(PrivilegeError):
        cli.cli.main(["doctor", "--cluster", "--image", str(greedy)], standalone_mode=False)


def test_a_new_pod_has_no_filter_that_an_image_could_lack():
    filtered, capability = parse_privilege("seccomp=Unconfined"), parse_privilege("capability=SYS_ADMIN")
    assert list_beyond_pod([filtered, capability]) == [capability]
    assert list_beyond_pod([parse_privilege("seccomp=localhost/own.json")]) != []
