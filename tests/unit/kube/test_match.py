"""What of an existing pod must differ, and what is the same in other words."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from warmstart.core.privileges import parse_privilege
from warmstart.kube.match import find_changes, list_settings
from warmstart.kube.mismatch import list_warnings
from warmstart.kube.settings import BuildInfo

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
    assert ["is not there" in one for one in warned(volumeMounts=mounts)] == [True]
    # It is seen, but nobody has read it yet.
    assert ["was not in the build" in one for one in warned(build=BY_ITSELF, volumeMounts=mounts)] == [True]


def test_an_image_that_restores_itself_keeps_its_entrypoint() -> None:
    assert changed(command=["/app"]) == {}
    assert changed(build=BY_ITSELF, command=["/app"]) == {"command": None}
    assert changed(build=BY_ITSELF) == {}


@pytest.mark.parametrize(
    ("pod", "container", "word"),
    [
        ({"hostNetwork": True}, {}, "hostNetwork"),
        ({"shareProcessNamespace": True}, {}, "shareProcessNamespace"),
        ({"hostUsers": False}, {}, "hostUsers"),
        ({"runtimeClassName": "kata"}, {}, "kata"),
        ({}, {"volumeMounts": [{"name": "data", "mountPath": "/data/"}]}, "/data is"),
        ({}, {"volumeDevices": [{"name": "disk"}]}, "volumeDevices"),
        ({}, {"workingDir": "/srv"}, "workingDir"),
        ({}, {"tty": True}, "tty"),
        ({}, {"securityContext": {**CONTAINER["securityContext"], "runAsUser": 5}}, "runAsUser"),
        ({}, {"securityContext": {**CONTAINER["securityContext"], "readOnlyRootFilesystem": True}}, "readOnly"),
        ({"securityContext": {**POD["securityContext"], "fsGroup": 77}}, {}, "77"),
        ({"securityContext": {**POD["securityContext"], "seccompProfile": {"type": "Unconfined"}}}, {}, "seccomp"),
        ({"securityContext": {**POD["securityContext"], "appArmorProfile": {"type": "Localhost"}}}, {}, "appArmor"),
        ({}, {"resources": {"limits": {"memory": "512Mi", "cpu": 1, "nvidia.com/gpu": 1}}}, "resources.limits"),
        ({}, {"readinessProbe": {"tcpSocket": {"port": 1}}}, "after 10 s"),
        ({}, {"startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 20}}, "after 20 s"),
    ],
)
def test_what_is_not_heeded_is_said(pod, container, word) -> None:
    (warning,) = warned(pod, **container)
    assert word in warning
    assert changed(pod, **container) == {}


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


# Groups and volumes


def in_groups(*groups: int, fs_group: int | None = None, restorers=("runtime",)) -> BuildInfo:
    context = {**({"supplementalGroups": [*groups]} if groups else {})}
    pod = {} if fs_group is None else {"securityContext": {"fsGroup": fs_group}}
    return replace(BUILD, container={**BUILD.container, "securityContext": context}, pod=pod, restorers=restorers)


@pytest.mark.parametrize(
    ("build", "context", "expected"),
    [
        (in_groups(2000), {"fsGroup": 2000}, {}),
        (in_groups(2000), {"fsGroup": 2000, "supplementalGroups": [2000]}, {}),
        (in_groups(2000, 3000), {"fsGroup": 2000}, {"securityContext.supplementalGroups": [3000]}),
        (in_groups(2000, 3000), {"fsGroup": 2000, "supplementalGroups": [2000, 3000]}, {}),
        (in_groups(2000, fs_group=2000), {}, {"securityContext.fsGroup": 2000}),
        (in_groups(fs_group=2000), {"fsGroup": 2000}, {}),
        # Whose the files of the volumes are is for the user to say.
        (in_groups(fs_group=2000), {"fsGroup": 3000}, {}),
        (in_groups(3000, fs_group=2000), {"fsGroup": 2000, "supplementalGroups": [3000]}, {}),
    ],
)
def test_the_group_of_the_volumes_is_not_given_twice(build, context, expected) -> None:
    own = {**CONTAINER, "securityContext": {}}
    pod = {**POD, "securityContext": context}
    for restorers in (("runtime",), ("self",), ("runtime", "self")):
        found = find_changes(replace(build, restorers=restorers), pod, own)
        assert {".".join(one.keys): one.value for one in found if one.keys[-1] != "command"} == expected


def test_groups_that_the_build_was_not_in_are_said() -> None:
    for context in ({"fsGroup": 7}, {"supplementalGroups": [7]}):
        (said,) = warned({"securityContext": context}, in_groups(), securityContext={})
        assert "what is restored is not either" in said
        (said,) = warned({"securityContext": context}, in_groups(restorers=("self",)), securityContext={})
        assert said.endswith("an image that restores itself starts cold")
    assert not warned({"securityContext": {"fsGroup": 7}}, in_groups(fs_group=7), securityContext={})


@pytest.mark.parametrize("drop", [["all"], ["CAP_ALL"], ["ALL", "KILL"]])
def test_capabilities_have_several_names(drop) -> None:
    build = replace(BUILD, container={**BUILD.container, "securityContext": {"capabilities": {"drop": ["ALL"]}}})
    assert "securityContext.capabilities" not in changed(build=build, securityContext={"capabilities": {"drop": drop}})
    added = replace(build, container={"securityContext": {"capabilities": {"drop": drop, "add": ["cap_kill"]}}})
    same = {"capabilities": {"drop": ["ALL"], "add": ["KILL"]}}
    assert "securityContext.capabilities" not in changed(build=added, securityContext=same)


def test_a_build_that_says_nothing_of_capabilities_does_not_empty_them() -> None:
    for capabilities in ({}, {"drop": []}, {"add": [], "drop": None}):
        build = replace(BUILD, container={**BUILD.container, "securityContext": {"capabilities": capabilities}})
        assert changed(POD, build, securityContext={"capabilities": {"drop": ["all"]}}) == {}
        assert any(
            "capabilities" in one for one in warned(POD, build, securityContext={"capabilities": {"drop": ["all"]}})
        )


# Mounts

TMP = {"name": "tmp", "emptyDir": {}}
CONF = {"name": "conf", "configMap": {"name": "shop"}}
MOUNTS = [{"name": "tmp", "mountPath": "/tmp/"}, {"name": "conf", "mountPath": "/conf", "readOnly": True}]
MOUNTED = replace(
    BUILD, container={**BUILD.container, "volumeMounts": MOUNTS}, pod={"volumes": [TMP, CONF]}, mounts=("/tmp", "/conf")
)


def test_mounts_of_the_build_are_added() -> None:
    found = find_changes(MOUNTED, POD, CONTAINER)
    assert [(one.keys, one.value, one.of_pod) for one in found] == [
        (("volumes",), TMP, True),
        (("volumeMounts",), MOUNTS[0], False),
        (("volumes",), CONF, True),
        (("volumeMounts",), MOUNTS[1], False),
    ]
    assert warned(build=MOUNTED) == []
    # Other mounts of the same paths are as good, and so is a volume of a claim's template.
    mounts = [{"name": "a", "mountPath": "/tmp"}, {"name": "b", "mountPath": "/conf/"}]
    assert changed(build=MOUNTED, volumeMounts=mounts) == {}
    assert warned(build=MOUNTED, volumeMounts=mounts) == []


def test_a_volume_is_added_once_and_never_replaced() -> None:
    twice = [*MOUNTS, {"name": "tmp", "mountPath": "/var/tmp", "subPath": "x"}]
    build = replace(MOUNTED, container={**BUILD.container, "volumeMounts": twice}, mounts=("/tmp", "/conf", "/var/tmp"))
    found = find_changes(build, {**POD, "volumes": [CONF]}, CONTAINER)
    assert [one.value for one in found] == [TMP, MOUNTS[0], MOUNTS[1], twice[2]]
    other = {**POD, "volumes": [{"name": "conf", "emptyDir": {}}]}
    assert [one.value for one in find_changes(MOUNTED, other, CONTAINER)] == [TMP, MOUNTS[0]]
    (said,) = warned(other, MOUNTED)
    assert said == "volumeMounts: /conf is missing: the build had this mount, and is not restored without it"


def test_an_image_that_restores_itself_asks_for_no_mount() -> None:
    build = replace(MOUNTED, restorers=("self",))
    assert changed(build=build) == {}
    assert ["is missing" in one for one in warned(build=build)] == [True, True]


def test_an_image_gets_no_object_on_its_word() -> None:
    stranger = replace(MOUNTED, allowed=())
    assert [one.value for one in find_changes(stranger, POD, CONTAINER)] == [TMP, MOUNTS[0]]
    said = warned(build=stranger)
    assert any("--allow config-map=shop" in one for one in said)
    allowed = replace(MOUNTED, allowed=(parse_privilege("config-map=shop"),))
    assert len(find_changes(allowed, POD, CONTAINER)) == 4


def test_a_build_with_a_token_needs_one() -> None:
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    build = replace(BUILD, mounts=(path,))
    assert changed({"automountServiceAccountToken": None}, build) == {}
    assert warned({"automountServiceAccountToken": None}, build) == []
    assert any(path in one for one in warned(POD, build))


# Probes

PROBE = {"tcpSocket": {"port": 8080}, "periodSeconds": 5}


def test_a_restored_container_is_asked_at_once() -> None:
    late = {**PROBE, "initialDelaySeconds": 60}
    assert changed(readinessProbe=late) == {"readinessProbe.initialDelaySeconds": 0}
    # A cold start has as much time as before: 12 periods more.
    assert changed(readinessProbe=PROBE, startupProbe=late) == {
        "startupProbe.initialDelaySeconds": 0,
        "startupProbe.failureThreshold": 15,
    }
    assert changed(livenessProbe=late) == {}
    assert changed(readinessProbe={**PROBE, "initialDelaySeconds": 0}) == {}


def test_a_probe_of_the_recipe_fits_the_pod() -> None:
    probe = {"httpGet": {"port": "http"}, "initialDelaySeconds": 9}
    ports = [{"name": "http", "containerPort": 8080}]
    build = replace(BUILD, container={**BUILD.container, "readinessProbe": probe, "ports": ports})

    assert changed(build=build, readinessProbe=None) == {
        "readinessProbe": {"httpGet": {"port": 8080}, "initialDelaySeconds": 0}
    }
    named = {**probe, "initialDelaySeconds": 0}
    assert changed(build=build, readinessProbe=None, ports=ports) == {"readinessProbe": named}


def test_odd_values_are_no_fault() -> None:
    odd = {
        "volumeMounts": {"a": 1},
        "readinessProbe": [1],
        "startupProbe": {"initialDelaySeconds": "x"},
        "lifecycle": 1,
    }
    changed({"volumes": {"a": 1}, "securityContext": {"supplementalGroups": {}}}, MOUNTED, **odd)
    warned({"volumes": [1], "securityContext": {"supplementalGroups": "x"}}, MOUNTED, **odd)
