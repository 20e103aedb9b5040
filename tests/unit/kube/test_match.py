"""What of an existing pod must differ, and what is the same in other words."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from warmstart.core.privileges import parse_privilege
from warmstart.kube.match import BuildInfo, find_changes, list_settings
from warmstart.kube.mismatch import list_warnings

BUILD = BuildInfo(
    name="shop",
    image="registry.example.com/shop:1-warm",
    container={
        "image": "registry.example.com/shop:1",
        "args": ["--fast"],
        "env": [{"name": "MODE", "value": "prod"}],
        "resources": {"limits": {"memory": "512Mi", "cpu": "1"}},
        "readinessProbe": {"httpGet": {"port": 8080}},
        "securityContext": {"capabilities": {"drop": ["NET_RAW", "CHOWN"]}, "supplementalGroups": [2000, 3000]},
    },
)
CONTAINER = {
    "name": "shop",
    "image": BUILD.image,
    "args": ["--fast"],
    "env": [{"name": "MODE", "value": "prod"}],
    "resources": {"limits": {"memory": "536870912", "cpu": "1000m"}},
    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 5},
    "securityContext": {"capabilities": {"add": [], "drop": ["CHOWN", "NET_RAW"]}},
}
POD = {"automountServiceAccountToken": False, "securityContext": {"supplementalGroups": [3000, 2000]}}


def changed(pod: dict | None = None, build: BuildInfo = BUILD, **container: object) -> dict[str, object]:
    found = find_changes(build, {**POD, **(pod or {})}, {**copy.deepcopy(CONTAINER), **container})
    assert all(change.reason for change in found)
    return {".".join(change.keys): change.value for change in found}


def warned(pod: dict | None = None, build: BuildInfo = BUILD, **container: object) -> list[str]:
    return list(list_warnings(build, {**POD, **(pod or {})}, {**copy.deepcopy(CONTAINER), **container}))


def test_what_means_the_same_is_left() -> None:
    assert changed() == {}
    assert warned() == []


@pytest.mark.parametrize(
    ("pod", "container", "expected"),
    [
        ({"automountServiceAccountToken": True}, {}, {"automountServiceAccountToken": False}),
        ({"securityContext": {}}, {}, {"securityContext.supplementalGroups": [2000, 3000]}),
        ({}, {"image": "other@sha256:00"}, {"image": BUILD.image}),
        ({}, {"readinessProbe": None}, {"readinessProbe": {"httpGet": {"port": 8080}}}),
        ({}, {"terminationMessagePath": "/tmp/end"}, {"terminationMessagePath": "/dev/termination-log"}),
        ({}, {"terminationMessagePath": "/dev/termination-log"}, {}),
        ({}, {"resources": {}}, {"resources.limits.memory": "512Mi", "resources.limits.cpu": "1"}),
        (
            {},
            {"resources": {"limits": {"memory": "1Gi", "cpu": 1}, "requests": {"memory": "1Gi", "cpu": "1"}}},
            {"resources.limits.memory": "512Mi", "resources.requests.memory": "512Mi"},
        ),
        (
            {},
            {"securityContext": {"capabilities": {"drop": ["ALL"]}}},
            {"securityContext.capabilities": {"drop": ["NET_RAW", "CHOWN"]}},
        ),
        ({}, {"resources": {"limits": {"memory": "x", "cpu": 1}}}, {"resources.limits.memory": "512Mi"}),
    ],
)
def test_what_is_not_as_in_the_build_must_differ(pod, container, expected) -> None:
    assert changed(pod, **container) == expected


def test_a_value_of_the_pod_holds_for_its_container() -> None:
    build = replace(BUILD, user=(1000, 1000))

    same = {"securityContext": {**POD["securityContext"], "runAsUser": 1000, "runAsGroup": 1000}}
    assert changed(same, build) == {}
    other = {"securityContext": {**same["securityContext"], "runAsGroup": 0}}
    assert changed(other, build) == {"securityContext.runAsGroup": 1000}


BY_ITSELF = replace(BUILD, restorers=("self",))


def test_an_image_that_restores_itself_asks_for_less() -> None:
    by_runtime = {setting.keys[0] for setting in list_settings(BUILD)}
    by_itself = {setting.keys[0] for setting in list_settings(BY_ITSELF)}

    assert by_runtime - by_itself == {"automountServiceAccountToken", "terminationMessagePath"}
    assert not any("capabilities" in setting.keys for setting in list_settings(BY_ITSELF))
    other = {"securityContext": {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "runAsUser": 7}}
    assert changed(build=replace(BY_ITSELF, user=(7, 7)), **other) == {"securityContext.runAsGroup": 7}
    assert not warned(build=BY_ITSELF, **other)
    mounts = [{"name": "data", "mountPath": "/data"}]
    assert warned(volumeMounts=mounts)
    assert not warned(build=BY_ITSELF, volumeMounts=mounts)


def test_an_image_that_restores_itself_keeps_its_entrypoint() -> None:
    assert changed(command=["/app"]) == {}
    assert changed(build=BY_ITSELF, command=["/app"]) == {"command": None}
    assert changed(build=BY_ITSELF) == {}
    assert any("start cold" in warning for warning in warned(build=BY_ITSELF, args=["--slow"]))


@pytest.mark.parametrize(
    ("pod", "container", "word"),
    [
        ({"hostNetwork": True}, {}, "hostNetwork"),
        ({"shareProcessNamespace": True}, {}, "shareProcessNamespace"),
        ({"hostUsers": False}, {}, "hostUsers"),
        ({"runtimeClassName": "kata"}, {}, "kata"),
        ({}, {"volumeMounts": [{"name": "data", "mountPath": "/data/"}]}, "/data/"),
        ({}, {"volumeDevices": [{"name": "disk"}]}, "volumeDevices"),
        ({}, {"command": ["sh"]}, "command"),
        ({}, {"args": ["--slow"]}, "args"),
        ({}, {"workingDir": "/srv"}, "workingDir"),
        ({}, {"tty": True}, "tty"),
        ({}, {"envFrom": [{"secretRef": {"name": "s"}}]}, "envFrom"),
        ({}, {"env": [{"name": "MODE", "value": "test"}]}, "MODE"),
        ({}, {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, "KEY"),
        ({}, {"securityContext": {**CONTAINER["securityContext"], "runAsUser": 5}}, "runAsUser"),
        ({}, {"securityContext": {**CONTAINER["securityContext"], "readOnlyRootFilesystem": True}}, "readOnly"),
        ({"securityContext": {**POD["securityContext"], "fsGroup": 77}}, {}, "77"),
        ({"securityContext": {**POD["securityContext"], "seccompProfile": {"type": "Unconfined"}}}, {}, "seccomp"),
        ({}, {"resources": {"limits": {"memory": "512Mi", "cpu": 1, "nvidia.com/gpu": 1}}}, "resources.limits"),
        ({}, {"readinessProbe": {"tcpSocket": {"port": 1}, "initialDelaySeconds": 30}}, "30 s"),
    ],
)
def test_what_is_not_heeded_is_said(pod, container, word) -> None:
    (warning,) = warned(pod, **container)
    assert word in warning
    assert changed(pod, **container) == {}


def test_values_of_variables_are_not_shown() -> None:
    (warning,) = warned(env=[{"name": "PASSWORD", "value": "hunter2"}])
    assert "PASSWORD" in warning
    assert "hunter2" not in warning


def test_a_mount_of_the_build_is_missed() -> None:
    build = replace(BUILD, mounts=("/data",))

    (warning,) = warned(build=build)
    assert "/data" in warning
    assert warned(build=build, volumeMounts=[{"name": "data", "mountPath": "/data/"}]) == []


@pytest.mark.parametrize("key", ["containers", "initContainers"])
def test_the_token_is_left_to_other_containers(key) -> None:
    pod = {"automountServiceAccountToken": None, key: [{"name": "proxy"}]}

    assert changed(pod) == {}
    (warning,) = warned(pod)
    assert "proxy" in warning
    assert warned({**pod, "automountServiceAccountToken": False}) == []
    assert warned(pod, BY_ITSELF) == []


# What an image asks for is given to a pod only when its user says so


def of_image(context: dict, *allowed: str, **more: object) -> BuildInfo:
    container = {**BUILD.container, "securityContext": context, **more}
    return replace(BUILD, container=container, allowed=tuple(map(parse_privilege, allowed)))


@pytest.mark.parametrize(
    ("context", "had", "names"),
    [
        ({"privileged": True}, {"privileged": False}, ["privileged"]),
        ({"privileged": True}, {}, ["privileged"]),
        ({"allowPrivilegeEscalation": True}, {"allowPrivilegeEscalation": False}, ["privilege-escalation"]),
        ({"readOnlyRootFilesystem": False}, {"readOnlyRootFilesystem": True}, ["writable-root"]),
        ({"runAsNonRoot": False}, {"runAsNonRoot": True}, ["root"]),
        ({"runAsUser": 0}, {"runAsUser": 1000}, ["root"]),
        ({"runAsUser": 0, "runAsGroup": 0}, {}, ["root", "group=0"]),
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, {}, ["capability=SYS_ADMIN"]),
        (
            {"capabilities": {"add": ["ALL"]}},
            {"capabilities": {"drop": ["KILL"]}},
            ["capability=ALL", "capability=KILL"],
        ),
        ({"capabilities": {"drop": []}}, {"capabilities": {"drop": ["KILL"]}}, ["capability=KILL"]),
    ],
)
def test_a_pod_gets_no_privilege_on_the_word_of_an_image(context, had, names) -> None:
    pod, container = {}, {"securityContext": had}
    assert changed(pod, of_image(context), **container) == {}
    (*warnings,) = warned(pod, of_image(context), **container)
    for name in names:
        assert any(f"--allow {name}" in warning for warning in warnings), warnings
    # Once it is named, and in the user's own recipe, it is as it was.
    given = changed(pod, of_image(context, *names), **container)
    assert given == {f"securityContext.{key}": value for key, value in context.items()}
    assert changed(pod, replace(of_image(context), allowed=None), **container) == given


def test_groups_and_hosts_of_an_image_are_not_taken_either() -> None:
    groups = of_image({"supplementalGroups": [3000, 6]})
    assert changed({"securityContext": {"supplementalGroups": [3000]}}, groups) == {}
    build = of_image({}, readinessProbe={"httpGet": {"port": 1, "host": "10.0.0.1"}})
    assert changed({}, build, readinessProbe=None) == {}
    assert any("--allow probe-host=10.0.0.1" in one for one in warned({}, build, readinessProbe=None))


def test_what_restricts_a_pod_is_taken_from_an_image() -> None:
    context = {"privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    had = {"privileged": True}
    assert changed({}, of_image(context), securityContext=had) == {
        f"securityContext.{key}": value for key, value in context.items()
    }
