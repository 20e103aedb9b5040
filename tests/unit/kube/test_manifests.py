"""Manifests that are made anew: they say what the build had, and what belongs to a pod is put there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmstart.engine.cluster import make_build_pod
from warmstart.kube.manifests import make_manifests, make_pod_spec, make_pre_pull, make_service, make_whole_patch
from warmstart.kube.match import find_changes
from warmstart.kube.mismatch import list_warnings
from warmstart.kube.settings import BuildInfo

BUILD = BuildInfo(
    name="shop",
    image="registry.example.com/shop:1-warm",
    container={
        "image": "registry.example.com/shop:1",
        "args": ["--port=$(PORT)"],
        "env": [{"name": "PORT", "value": "8080"}],
        "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "protocol": "UDP"}],
        "resources": {"limits": {"memory": "512Mi"}},
        "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 8080}},
        "securityContext": {"runAsNonRoot": True, "supplementalGroups": [2000]},
    },
    user=(1000, 1001),
    architecture="arm64",
    cpu_features=("AVX2",),
)


@pytest.mark.parametrize("restorers", [("runtime",), ("self",), ("runtime", "self")])
def test_a_pod_has_no_token_as_the_build_had_none(restorers: tuple[str, ...]) -> None:
    assert make_pod_spec(replace(BUILD, restorers=restorers))["automountServiceAccountToken"] is False


def test_a_pod_has_what_the_build_had() -> None:
    pod = make_pod_spec(BUILD)
    (container,) = pod["containers"]

    assert pod["securityContext"] == {"supplementalGroups": [2000]}
    assert pod["nodeSelector"] == {
        "kubernetes.io/arch": "arm64",
        "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true",
    }
    assert container["name"] == "shop"
    assert container["image"] == BUILD.image
    assert container["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1001}
    kept = ("args", "env", "ports", "resources", "readinessProbe", "livenessProbe")
    assert {key: container[key] for key in kept} == {key: BUILD.container[key] for key in kept}


def test_the_pod_of_a_build_is_privileged_where_the_recipe_says_so() -> None:
    build = replace(BUILD, container={**BUILD.container, "securityContext": {"privileged": True}}, user=None)
    pod = make_build_pod(make_pod_spec(build), build.name, "builds")
    (container,) = pod["spec"]["containers"]

    assert container["securityContext"] == {"privileged": True}


def test_what_starts_an_image_that_restores_itself_is_left_to_it() -> None:
    build = replace(BUILD, container={**BUILD.container, "command": ["/app"]}, restorers=("runtime", "self"))
    (container,) = make_pod_spec(build)["containers"]

    assert not {"command", "args"} & container.keys()


def test_nothing_of_a_pod_that_is_made_must_differ() -> None:
    pod = make_pod_spec(BUILD)

    assert find_changes(BUILD, pod, pod["containers"][0]) == []
    assert list(list_warnings(BUILD, pod, pod["containers"][0])) == []


def test_a_recipe_alone_does_not_say_who_the_process_runs_as_and_where() -> None:
    pod = make_pod_spec(replace(BUILD, user=None, architecture="", cpu_features=()))

    assert "nodeSelector" not in pod
    assert "runAsUser" not in pod["containers"][0]["securityContext"]


def test_the_deployment_and_its_service_find_each_other() -> None:
    deployment, service = make_manifests(BUILD, "front", replicas=4, namespace="prod")
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert deployment["metadata"]["name"] == service["metadata"]["name"] == "front"
    assert deployment["metadata"]["namespace"] == service["metadata"]["namespace"] == "prod"
    assert deployment["spec"]["replicas"] == 4
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert service["spec"]["ports"] == [
        {"name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP"},
        {"name": "udp-9090", "port": 9090, "targetPort": 9090, "protocol": "UDP"},
    ]


def test_without_ports_there_is_no_service() -> None:
    build = replace(BUILD, container={"image": "x"})

    assert make_service(build, "shop") is None
    assert [manifest["kind"] for manifest in make_manifests(build, "shop")] == ["Deployment"]


def test_pulling_ahead_does_not_run_the_image() -> None:
    daemon_set = make_pre_pull(BUILD, "shop", "pause:1")
    pod = daemon_set["spec"]["template"]["spec"]

    assert [container["image"] for container in pod["containers"]] == ["pause:1"]
    assert [volume["image"]["reference"] for volume in pod["volumes"]] == [BUILD.image]
    assert pod["nodeSelector"]["kubernetes.io/arch"] == "arm64"
    assert "securityContext" not in pod


def test_a_patch_of_a_recipe_has_no_more_than_must_be() -> None:
    patch = make_whole_patch(BUILD, "front", namespace="prod")
    (container,) = patch["spec"]["template"]["spec"]["containers"]

    assert patch["metadata"] == {"name": "front", "namespace": "prod"}
    assert patch["spec"].keys() == {"template"}
    assert container.keys() == {"name", "image", "resources", "readinessProbe", "securityContext"}


def test_what_is_made_anew_has_the_words_of_the_recipe() -> None:
    volumes = [{"name": "tmp", "emptyDir": {}}]
    # The recipe's reader has moved the pod's groups into its containers.
    groups = {"supplementalGroups": [2000, 3000]}
    wait = [{"name": "migrate", "image": "flyway", "securityContext": {"runAsUser": 7, **groups}}]
    words = {
        "envFrom": [{"secretRef": {"name": "db"}}],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    probe = {"httpGet": {"port": "http"}, "initialDelaySeconds": 40, "periodSeconds": 1}
    build = replace(
        BUILD,
        container={
            **BUILD.container,
            **words,
            "readinessProbe": probe,
            "startupProbe": probe,
            "securityContext": groups,
        },
        pod={"volumes": volumes, "initContainers": wait, "securityContext": {"fsGroup": 2000}},
        mounts=("/tmp",),
    )

    pod = make_pod_spec(build)
    (container,) = pod["containers"]
    assert {key: container[key] for key in words} == words
    assert pod["volumes"] == volumes
    assert pod["initContainers"] == [{"name": "migrate", "image": "flyway", "securityContext": {"runAsUser": 7}}]
    assert pod["securityContext"] == {"fsGroup": 2000, "supplementalGroups": [3000]}
    assert container["readinessProbe"] == {**probe, "initialDelaySeconds": 0}
    assert container["startupProbe"] == {**probe, "initialDelaySeconds": 0, "failureThreshold": 43}
    assert probe["initialDelaySeconds"] == 40
    assert find_changes(build, pod, container) == []
    # The patch brings the mount, and its volume, to an existing pod.
    patch = make_whole_patch(build, "shop")["spec"]["template"]["spec"]
    assert patch["volumes"] == volumes
    assert patch["containers"][0]["volumeMounts"] == words["volumeMounts"]
    assert patch["containers"][0]["readinessProbe"] == {**probe, "initialDelaySeconds": 0}
