"""Volumes and their mounts: the files of a build, and what a build cannot mount."""

import base64
import json
from pathlib import Path

import pytest

from warmstart.core.errors import RecipeError
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe, Volume, VolumeFile, VolumeKind, VolumeMount
from warmstart.recipe.volumes import TOKEN

RECIPE = Path("recipe.yaml")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


OBJECTS = """\
build:
  objects:
    - kind: ConfigMap
      metadata: {name: conf}
      data: {app.yml: "a: b", log.xml: <x/>}
      binaryData: {bytes: AAEC}
  secrets: {db: {password: build-only, user: shop}}
"""


def load(volume: str, mount: str = "mountPath: /v", rest: str = OBJECTS, container: str = "") -> Recipe:
    """A recipe with one volume `v` on line 7 and its mount on line 5."""
    RECIPE.write_text(
        "apiVersion: warmstart/v1alpha1\nname: shop\ncontainer:\n  image: localhost/shop:1.0\n"
        f"  volumeMounts: [{{name: v, {mount}}}]\n"
        "  readinessProbe: {tcpSocket: {port: 8080}}\n"
        f"volumes: [{{name: v, {volume}}}]\n"
        f"image: {{name: registry.example.com/shop:warm}}\n{rest}" + container
    )
    return load_recipe(RECIPE)


def mounted(volume: str, mount: str = "mountPath: /v") -> VolumeMount:
    (found,) = load(volume, mount).container.volume_mounts
    return found


def files(volume: str) -> dict[str, tuple[bytes, int]]:
    volume_made = mounted(volume).volume
    assert volume_made.kind is VolumeKind.FILES
    return {file.path: (file.data, file.mode) for file in volume_made.files}


def details(volume: str, mount: str = "mountPath: /v") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(volume, mount)
    return list(caught.value.details)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ("emptyDir: {}", Volume("v", VolumeKind.EMPTY_DIR)),
        ("emptyDir: ", Volume("v", VolumeKind.EMPTY_DIR)),
        ("emptyDir: {sizeLimit: 1Gi}", Volume("v", VolumeKind.EMPTY_DIR)),
        ("emptyDir: {medium: Memory}", Volume("v", VolumeKind.EMPTY_DIR, in_memory=True)),
        (
            "emptyDir: {medium: Memory, sizeLimit: 64Mi}",
            Volume("v", VolumeKind.EMPTY_DIR, in_memory=True, size_limit_bytes=64 << 20),
        ),
        ("persistentVolumeClaim: {claimName: data}", Volume("v", VolumeKind.LASTING)),
        ("ephemeral: {volumeClaimTemplate: {}}", Volume("v", VolumeKind.LASTING)),
    ],
)
def test_volumes_without_files(volume: str, expected: Volume) -> None:
    assert mounted(volume) == VolumeMount(expected, "/v")


def test_a_lasting_volume_is_warned_of() -> None:
    (warning,) = (one for one in load("persistentVolumeClaim: {claimName: data}").warnings if "volumes" in one)
    assert "an empty directory in place of the lasting volume v" in warning


def test_the_files_of_a_config_map() -> None:
    assert files("configMap: {name: conf}") == {
        "app.yml": (b"a: b", 0o644),
        "log.xml": (b"<x/>", 0o644),
        "bytes": (b"\0\1\2", 0o644),
    }


def test_items_have_paths_and_modes() -> None:
    items = "items: [{key: app.yml, path: a/b.yml}, {key: bytes, path: c, mode: 0400}]"
    assert files(f"configMap: {{name: conf, defaultMode: 0600, {items}}}") == {
        "a/b.yml": (b"a: b", 0o600),
        "c": (b"\0\1\2", 0o400),
    }


def test_the_files_of_a_secret() -> None:
    recipe = load("secret: {secretName: db, defaultMode: 256}")
    (mount,) = recipe.container.volume_mounts
    assert mount.volume.files == (
        VolumeFile("password", b"build-only", 0o400),
        VolumeFile("user", b"shop", 0o400),
    )
    assert [one.name for one in recipe.secrets] == ["db.password", "db.user"]


def test_items_tell_the_keys_of_a_secret_that_is_not_known() -> None:
    ((path, (value, _)),) = files("secret: {secretName: other, items: [{key: k, path: p}]}").items()
    assert (path, len(value)) == ("p", 24)


def test_a_secret_whose_keys_are_not_known() -> None:
    assert details("secret: {secretName: other}") == [
        "recipe.yaml:7: volumes[0].secret: the keys of the Secret other are not known: name them in build.secrets",
        "",
        "build:",
        "  secrets:  # values for the build only; without a value, one is made up at random",
        "    other: {KEY: null}",
    ]


def test_what_is_optional_may_be_missing() -> None:
    assert files("secret: {secretName: other, optional: true}") == {}
    assert files("configMap: {name: other, optional: true}") == {}
    assert files("configMap: {name: conf, optional: true, items: [{key: none, path: p}]}") == {}


def test_projected_sources_are_one_directory() -> None:
    sources = (
        "{configMap: {name: conf, items: [{key: app.yml, path: x}]}}, {secret: {name: db}}, "
        "{serviceAccountToken: {path: t/token, audience: a}}, "
        "{downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}, "
        "{configMap: {name: conf, items: [{key: log.xml, path: x}]}}"
    )
    assert files(f"projected: {{defaultMode: 0440, sources: [{sources}]}}") == {
        "x": (b"<x/>", 0o440),
        "password": (b"build-only", 0o440),
        "user": (b"shop", 0o440),
        "t/token": (TOKEN, 0o440),
        "name": (b"shop", 0o440),
    }


def test_the_token_is_a_web_token_without_claims() -> None:
    header, claims, signature = TOKEN.split(b".")
    assert json.loads(base64.urlsafe_b64decode(header + b"==")) == {"alg": "none", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(claims + b"==")) == {}
    assert signature == b""


def test_the_certificate_of_every_namespace_is_there() -> None:
    source = "{configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}"
    ((_, (data, _)),) = files(f"projected: {{sources: [{source}]}}").items()
    assert data.startswith(b"-----BEGIN CERTIFICATE-----\n")
    assert base64.b64decode(b"".join(data.splitlines()[1:-1]), validate=True)[0] == 0x30


def test_fields_and_amounts_as_files() -> None:
    items = (
        "{path: ip, fieldRef: {fieldPath: status.podIP}}, "
        "{path: cpu, resourceFieldRef: {resource: requests.cpu, containerName: shop}, mode: 0400}"
    )
    assert files(f"downwardAPI: {{items: [{items}]}}") == {"ip": (b"127.0.0.1", 0o644), "cpu": (b"0", 0o400)}


@pytest.mark.parametrize(
    ("mount", "path", "sub_path"),
    [
        ("mountPath: /a/b/", "/a/b", ""),
        ("mountPath: a", "/a", ""),
        ("mountPath: //a//b", "/a/b", ""),
        ("mountPath: /a, subPath: app.yml", "/a", "app.yml"),
        ("mountPath: /a, subPathExpr: $(APP).yml", "/a", "app.yml"),
        ("mountPath: /a, subPath: .", "/a", ""),
        ("mountPath: /dev/shm", "/dev/shm", ""),
    ],
)
def test_mounts(mount: str, path: str, sub_path: str) -> None:
    rest = OBJECTS
    RECIPE.write_text("")
    text = f"  env: [{{name: APP, value: app}}]\n  volumeMounts: [{{name: v, {mount}}}]\n"
    RECIPE.write_text(
        "apiVersion: warmstart/v1alpha1\nname: shop\ncontainer:\n  image: localhost/shop:1.0\n"
        f"{text}  readinessProbe: {{tcpSocket: {{port: 8080}}}}\n"
        "volumes: [{name: v, configMap: {name: conf}}]\n"
        f"image: {{name: registry.example.com/shop:warm}}\n{rest}"
    )
    (found,) = load_recipe(RECIPE).container.volume_mounts
    # The kubelet mounts the files that it writes read-only.
    assert (found.path, found.sub_path, found.read_only) == (path, sub_path, True)


def test_read_only() -> None:
    assert mounted("emptyDir: {}", "mountPath: /v, readOnly: true").read_only
    assert not mounted("emptyDir: {}").read_only


PATH = "expected a path other than /, without ':' and '..'"
BAD_MOUNTS = {
    "mountPath: /": f"[0].mountPath: {PATH}, got '/'",
    "mountPath: ''": f"[0].mountPath: {PATH}, got ''",
    "mountPath: /a/../b": f"[0].mountPath: {PATH}, got '/a/../b'",
    "mountPath: /..": f"[0].mountPath: {PATH}, got '/..'",
    "mountPath: 'a:b'": f"[0].mountPath: {PATH}, got 'a:b'",
    "mountPath: /.": "[0].mountPath: expected a path other than /, which a container needs itself",
    "mountPath: /proc/x": "[0].mountPath: expected a path outside /proc, which a container needs itself",
    "mountPath: /dev": "[0].mountPath: expected a path outside /dev, which a container needs itself",
    "mountPath: /.warmstart": "[0].mountPath: expected a path outside /.warmstart, which a container needs itself",
    "mountPath: /a, subPath: ../x": "[0].subPath: expected a relative path without '..', got '../x'",
    "mountPath: /a, subPath: /x": "[0].subPath: expected a relative path without '..', got '/x'",
    "mountPath: /a, subPathExpr: $(NO)": "[0].subPathExpr: there is no variable NO for $(...)",
    "mountPath: /a, subPath: a, subPathExpr: b": "[0].subPathExpr: expected either subPath or subPathExpr, not both",
    "mountPath: /a, mountPropagation: Bidirectional": "[0].mountPropagation: expected None, got 'Bidirectional'",
    "mountPath: /a}, {name: v, mountPath: /a/": "[1].mountPath: /a is mounted twice: delete one of the mounts",
    "mountPath: /a}, {name: w, mountPath: /b": "[1].name: there is no volume w; volumes has: v",
}


@pytest.mark.parametrize(("mount", "expected"), BAD_MOUNTS.items(), ids=BAD_MOUNTS.keys())
def test_a_bad_mount(mount: str, expected: str) -> None:
    assert details("emptyDir: {}", mount) == [f"recipe.yaml:5: container.volumeMounts{expected}"]


def test_a_part_that_the_files_do_not_have() -> None:
    assert details("configMap: {name: conf}", "mountPath: /a, subPath: app.yaml") == [
        "recipe.yaml:5: container.volumeMounts[0]: the volume v has no app.yaml; its files are: app.yml, log.xml, bytes"
    ]


def test_a_variable_cannot_lead_out_of_a_volume() -> None:
    RECIPE.write_text(
        "apiVersion: warmstart/v1alpha1\nname: shop\ncontainer:\n  image: localhost/shop:1.0\n"
        '  env: [{name: A, value: ".."}]\n'
        "  volumeMounts: [{name: v, mountPath: /v, subPathExpr: a/$(A)/$(A)/b}]\n"
        "  readinessProbe: {tcpSocket: {port: 8080}}\n"
        "volumes: [{name: v, emptyDir: {}}]\nimage: {name: registry.example.com/shop:warm}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(RECIPE)
    assert caught.value.details == (
        "recipe.yaml:6: container.volumeMounts[0]: expected a relative path without '..', got ../b",
    )


REFUSED = {
    "hostPath: {path: /run}": "hostPath: not accepted: a build may not read the node's files",
    "nfs: {server: a, path: /b}": "nfs: not accepted: a build cannot reach a file server of the cluster. Replace",
    "csi: {driver: secrets-store.csi.k8s.io}": "csi: not accepted: a build has no drivers of a cluster. If",
    "image: {reference: a}": "image: not accepted: a checkpoint does not hold the files of another image. Copy",
    "azureFile: {shareName: a}": "azureFile: not accepted: a build cannot reach the cluster's storage. Replace",
    "projected: {sources: [{clusterTrustBundle: {path: a}}]}": "projected.sources[0].clusterTrustBundle: not accepted",
    "emptyDir: {medium: HugePages}": 'emptyDir.medium: expected Memory or "", got',
    "configMap: {name: conf, items: [{key: app.yml, path: ../x}]}": "configMap.items[0].path: expected a relative path",
    "configMap: {name: conf, items: [{key: app.yml, path: .}]}": "expected a path other than . for a file",
    "configMap: {name: conf, defaultMode: 01000}": "configMap.defaultMode: expected permissions, such as 0644, got",
    "secret: {secretName: db, items: [{key: a, path: x}, {key: b, path: x/y}]}": "x is both a file and a directory",
}


@pytest.mark.parametrize(("volume", "expected"), REFUSED.items(), ids=REFUSED.keys())
def test_what_a_build_cannot_mount(volume: str, expected: str) -> None:
    (line,) = details(volume)
    assert line.startswith("recipe.yaml:7: volumes[0]")
    assert expected in line


def test_two_kinds_of_volume_at_once() -> None:
    (line,) = details("emptyDir: {}, configMap: {name: conf}")
    assert "expected a mapping with name and exactly one kind of volume" in line


def test_a_volume_that_the_container_does_not_mount_may_be_anything() -> None:
    RECIPE.write_text(
        "apiVersion: warmstart/v1alpha1\nname: shop\ncontainer:\n  image: localhost/shop:1.0\n"
        "  volumeMounts: [{name: tmp, mountPath: /tmp}]\n"
        "  readinessProbe: {tcpSocket: {port: 8080}}\n"
        "volumes:\n  - {name: sock, hostPath: {path: /run/docker.sock}}\n  - {name: tmp, emptyDir: {mediun: Memory}}\n"
        "image: {name: registry.example.com/shop:warm}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(RECIPE)
    # The other's line stays its own.
    assert caught.value.details == ("recipe.yaml:9: volumes[0].emptyDir.mediun: unknown key: did you mean medium?",)


def test_the_group_of_the_pod() -> None:
    assert load("emptyDir: {}", container="securityContext: {fsGroup: 2000}\n").container.fs_group == 2000
    assert load("emptyDir: {}").container.fs_group is None
