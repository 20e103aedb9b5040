"""Manifests that a person wrote: what must differ is changed, and all else stays as it was written."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import read_documents
from warmstart.kube.patch import patch_manifest
from warmstart.kube.settings import BuildInfo

BUILD = BuildInfo(
    name="shop",
    image="registry.example.com/shop:1-warm",
    container={
        "image": "x",
        "resources": {"limits": {"memory": "512Mi"}},
        "readinessProbe": {"httpGet": {"port": 8080, "httpHeaders": [{"name": "Accept", "value": "yes"}]}},
    },
    user=(1000, 1000),
)
SERVICE = """\
# the shop
apiVersion: v1
kind: Service
metadata: {name:   shop}   # odd spaces
"""
WORKLOAD = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  template:
    spec:
      # what runs
      containers:
        - name: shop  # it
          image: registry.example.com/shop:1
          args:
            - 'on'
            - "8080"
          env:
            - {name: MODE, value: no}
          resources: {limits: {memory: 1Gi}}  # plenty

        # beside it
        - name: proxy
          image: envoy:1
"""
LAST = "# end\nkind: Other\n"
FILE = f"{SERVICE}--- # next\n{WORKLOAD}---\n{LAST}"


ACCEPTED = ("args", "command", "MODE")


def patched(text: str, container: str | None = "shop", build: BuildInfo = BUILD, accepted=ACCEPTED):
    return patch_manifest(text.encode(), "shop.yaml", container, build, accepted)


def loaded(text: str):
    return [document.value for document in read_documents(text, "x")]


def test_other_documents_are_left_byte_for_byte() -> None:
    text = patched(FILE).text

    assert text.startswith(f"{SERVICE}--- # next\n")
    assert text.endswith(f"---\n{LAST}")


def test_only_what_must_differ_is_changed() -> None:
    before, after = WORKLOAD.splitlines(), patched(FILE).text.splitlines()

    gone = [line for line in before if line not in after]
    assert gone == [
        "          image: registry.example.com/shop:1",
        "          resources: {limits: {memory: 1Gi}}  # plenty",
    ]
    for comment in ("# what runs", "# it", "# plenty", "# beside it"):
        assert sum(comment in line for line in after) == 1


def test_what_was_changed_is_what_a_pod_must_have() -> None:
    _, deployment, _ = loaded(patched(FILE).text)
    pod = deployment["spec"]["template"]["spec"]
    shop, proxy = pod["containers"]

    # It is the other container's as well.
    assert "automountServiceAccountToken" not in pod
    assert shop["image"] == BUILD.image
    assert shop["args"] == ["on", "8080"]
    assert shop["resources"] == BUILD.container["resources"]
    # Read as kubectl reads it, where a plain yes is a boolean.
    assert shop["readinessProbe"] == BUILD.container["readinessProbe"]
    assert shop["securityContext"] == {"runAsUser": 1000, "runAsGroup": 1000}
    assert proxy == {"name": "proxy", "image": "envoy:1"}


def test_a_second_time_nothing_must_differ() -> None:
    first = patched(FILE)
    second = patched(first.text)

    assert (second.text, second.diff, second.patch) == (first.text, "", None)


def test_each_hunk_of_the_diff_says_why() -> None:
    diff = patched(FILE).diff
    hunks = re.findall(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@ (.+)$", diff, re.MULTILINE)

    assert diff.startswith("--- shop.yaml\n+++ shop.yaml, restored\n")
    assert len(hunks) == diff.count("\n@@ ") == 5
    assert "the runtime looks the image up by the name that it was built with" in hunks
    assert "-          image: registry.example.com/shop:1\n" in diff
    assert "+          image: registry.example.com/shop:1-warm\n" in diff


def test_what_is_not_heeded_is_said() -> None:
    named = [warning.partition(":")[0] for warning in patched(FILE, accepted=["args", "MODE"]).warnings]
    assert named == ["args", "env", "automountServiceAccountToken"]


def test_lists_are_indented_as_they_were() -> None:
    shorter = {12: 8, 10: 8, 8: 6}
    beside = re.sub(r"^ {8,}", lambda spaces: " " * shorter[len(spaces[0])], WORKLOAD, flags=re.MULTILINE)
    text = patched(beside).text

    assert "\n      containers:\n      - name: shop  # it\n" in text
    assert "\n        args:\n        - 'on'\n" in text


@pytest.mark.parametrize(
    ("head", "path"),
    [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: shop\n    image: x\n",
            ["spec"],
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a, namespace: b}\nspec:\n  jobTemplate:\n    spec:\n"
            "      template:\n        spec:\n          containers:\n          - name: shop\n            image: x\n",
            ["spec", "jobTemplate", "spec", "template", "spec"],
        ),
    ],
)
def test_the_patch_has_what_was_changed_at_its_place(head, path) -> None:
    patch = patched(head).patch
    (manifest,) = loaded(head)
    assert patch is not None
    assert {key: patch[key] for key in ("apiVersion", "kind", "metadata")} == {
        key: manifest[key] for key in ("apiVersion", "kind", "metadata")
    }
    for key in path:
        patch = patch[key]
    assert patch["automountServiceAccountToken"] is False
    assert patch["containers"][0]["name"] == "shop"
    assert patch["containers"][0]["image"] == BUILD.image


def test_a_list_of_objects() -> None:
    items = "".join(f"- {line}\n" if not i else f"  {line}\n" for i, line in enumerate(WORKLOAD.splitlines()))
    (document,) = loaded(patched(f"apiVersion: v1\nkind: List\nitems:\n{items}", "shop/shop").text)

    (deployment,) = document["items"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == BUILD.image


def test_what_must_not_be_is_taken_out() -> None:
    build = replace(BUILD, restorers=("runtime", "self"))
    found = patched(FILE.replace("          args:", "          command: [/app]\n          args:"), build=build)

    assert "command" not in found.text
    assert found.patch["spec"]["template"]["spec"]["containers"][0]["command"] is None


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
def test_a_manifest_in_json_stays_json(indent) -> None:
    manifest = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "ä", "image": "x"}]}}
    text = json.dumps(manifest, indent=indent, ensure_ascii=False)
    after = patched(text.replace('"image"', '"ports":   [],  "image"'), None)
    pod = json.loads(after.text)

    assert pod["spec"]["containers"][0]["image"] == BUILD.image
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["readinessProbe"] == BUILD.container["readinessProbe"]
    # What was there is as it was, and each new key is on a line of its own where the others are.
    assert '"ports":   [],  "image"' in after.text
    step = indent if isinstance(indent, str) else " " * (indent or 0)
    new = f",\n{step}{step}" if indent else ", "
    assert f'{new}"automountServiceAccountToken": false' in after.text


def test_objects_of_one_name_are_told_apart_by_their_kinds() -> None:
    text = WORKLOAD + "---\n" + WORKLOAD.replace("apps/v1", "batch/v1").replace("Deployment", "Job")
    with pytest.raises(ManifestError, match="2 containers to choose from") as caught:
        patched(text, "shop/shop")
    assert caught.value.details == ("deployment/shop/shop", "job/shop/shop")

    deployment, job = loaded(patched(text, "job/shop/shop").text)
    assert deployment == loaded(WORKLOAD)[0]
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == BUILD.image


def test_of_several_containers_the_one_with_the_image_is_meant() -> None:
    for image in (BUILD.image, "docker.io/shop:1", "docker://docker.io/shop:1"):
        build = replace(BUILD, container={**BUILD.container, "image": image})
        text = WORKLOAD.replace("registry.example.com/shop:1", image.removeprefix("docker://"))
        assert patched(text, None, build).text == patched(text, "shop", build).text
    with pytest.raises(ManifestError, match="2 containers to choose from"):
        patched(text.replace("envoy:1", "docker.io/shop:1"), None, build)


def test_the_hooks_of_a_chart_are_not_meant_unless_they_are_named() -> None:
    hook = """\
apiVersion: v1
kind: Pod
metadata: {name: shop-test, annotations: {helm.sh/hook: test}}
spec: {containers: [{name: wget, image: busybox}]}
"""
    shop = "apiVersion: v1\nkind: Pod\nmetadata: {name: shop}\nspec: {containers: [{name: shop, image: x}]}\n"
    images = {None: [BUILD.image, "busybox"], "wget": ["x", BUILD.image]}

    for container, expected in images.items():
        pods = loaded(patched(f"{shop}---\n{hook}", container).text)
        assert [pod["spec"]["containers"][0]["image"] for pod in pods] == expected


@pytest.mark.parametrize(
    ("text", "container", "message"),
    [
        (FILE, None, "2 containers to choose from"),
        (FILE, "other", "no container named other"),
        (SERVICE, None, "has no container"),
        ("a: [", None, "not valid YAML"),
        (WORKLOAD.replace("image: envoy:1", "image: envoy:1\n          <<: {a: b}"), "proxy", "a merge key"),
        ("kind: Pod\nspec:\n  containers:\n  - &a !odd {name: shop}\n", None, "a mistake"),
    ],
)
def test_one_clear_error(text, container, message) -> None:
    with pytest.raises(ManifestError, match=message):
        patched(text, container)


def test_anchors_stay() -> None:
    text = WORKLOAD.replace("image: envoy:1", "image: envoy:1\n          resources: *r").replace(
        "resources: {limits: {memory: 1Gi}}", "resources: &r {limits: {memory: 512Mi}}"
    )
    after = patched(text).text
    assert "resources: &r {limits: {memory: 512Mi}}" in after
    assert "resources: *r" in after
    assert YAML(typ="safe").load(after)


@pytest.mark.parametrize(
    ("what", "alias"),
    [
        ("resources: &r {limits: {memory: 1Gi}}", "resources: *r"),
        ("&c\n          resources: {limits: {memory: 1Gi}}", "<<: *c"),
        ("resources: {limits: &r {memory: 1Gi}}", "resources: {limits: *r, requests: *r}"),
    ],
)
@pytest.mark.parametrize("container", ["shop", "proxy"])
def test_what_is_shared_with_others_is_not_changed(what, alias, container) -> None:
    shared = f"kind: Pod\nspec:\n  containers:\n        - {what}\n          name: shop\n          image: x\n"
    shared += f"        - name: proxy\n          image: y\n          {alias}\n"
    YAML(typ="safe").load(shared)
    with pytest.raises(ManifestError, match=r"has an anchor|a merge key"):
        patched(shared, container)


# YAML as people write it


def test_only_the_lines_of_the_diff_differ() -> None:
    odd = FILE.replace("- name: shop", "-   name:   shop").replace("          image: reg", "            image:  reg")
    odd = odd.replace("          args:", "            args:").replace("          env:", "            env:")
    odd = odd.replace("          resources:", "            resources:")
    after = patched(odd)

    removed = [line[1:] for line in after.diff.splitlines()[2:] if line.startswith("-")]
    added = [line[1:] for line in after.diff.splitlines()[2:] if line.startswith("+")]
    assert [line for line in after.text.splitlines() if line not in added] == [
        line for line in odd.splitlines() if line not in removed
    ]
    assert "            resources: {limits: {memory: 512Mi}}  # plenty" in added


def test_ends_of_lines_and_a_byte_order_mark_stay() -> None:
    unix = patched(FILE)
    windows = patched(f"\ufeff{FILE}".replace("\n", "\r\n"))

    assert windows.text == f"\ufeff{unix.text}".replace("\n", "\r\n")
    assert windows.diff == unix.diff


@pytest.mark.parametrize("end", ["---", "---\n", "--- # end", "...\n", "...\n---\n# nothing\n"])
def test_a_file_may_end_in_a_marker(end) -> None:
    assert patched(f"---\n{WORKLOAD}{end}").text == f"---\n{patched(WORKLOAD).text}{end}"


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    text = WORKLOAD.replace("          image: reg", "          image: first\n          image: reg")
    after = patched(text)

    assert after.text == patched(WORKLOAD).text.replace(
        "          image: reg", "          image: first\n          image: reg"
    )
    assert after.warnings[0].startswith("shop.yaml:12: ")
    assert after.warnings[0].endswith("image: given twice, on line 11 and here: delete one; the last one counts")


@pytest.mark.parametrize("drop", ["[all]", "[ALL]", "[cap_all]", "[ALL, NET_RAW]", "[NET_RAW, All]"])
def test_capabilities_in_other_words_are_not_changed(drop) -> None:
    security = {"runAsUser": 1000, "runAsGroup": 1000}
    context = f"securityContext: {{runAsUser: 1000, runAsGroup: 1000, capabilities: {{drop: {drop}}}}}"
    text = WORKLOAD.replace("          env:", f"          {context}\n          env:")
    for recipe in (["ALL"], ["all"], []):
        build = replace(BUILD, container={**BUILD.container, "securityContext": {"capabilities": {"drop": recipe}}})
        after = patched(text, build=build)
        assert context in after.text, recipe
        assert f"{security}" not in after.diff


def test_a_mount_is_appended_as_the_others_are_written() -> None:
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "shop"}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "conf", "mountPath": "/conf"}]
    build = replace(
        BUILD, container={**BUILD.container, "volumeMounts": mounts}, mounts=("/tmp", "/conf"), pod={"volumes": volumes}
    )
    text = f"{WORKLOAD}      volumes:\n      - {{name: conf, configMap: {{name: shop}}}}  # the rest\n"
    after = patched(text, build=build)

    assert after.text.endswith(
        "- {name: conf, configMap: {name: shop}}  # the rest\n      - name: tmp\n        emptyDir: {}\n"
    )
    pod = loaded(after.text)[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"] == mounts
    assert pod["volumes"] == volumes[::-1]
    patch = after.patch["spec"]["template"]["spec"]
    assert (patch["volumes"], patch["containers"][0]["volumeMounts"]) == (volumes[:1], mounts)
    assert not [warning for warning in after.warnings if "volumeMounts" in warning]
    # A second time nothing is added.
    assert patched(after.text, build=build).diff == ""
