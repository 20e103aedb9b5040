"""The pod of a build in a cluster: it has the values of the build, and its manifest none of its secrets."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from support.fake_api import POD, FakeApi, Reply, run_api

from warmstart.core.errors import AppError, ClusterError, RecipeError
from warmstart.core.reference import Transport
from warmstart.engine import cluster as engine
from warmstart.engine.cluster import start_pod
from warmstart.engine.cri_messages import Host
from warmstart.pods.build_pod import LIMIT_BYTES, check_recipe, make_build_spec, make_service_spec
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe

PASSWORD = "build-only-password"
SHOP = {
    "env": [
        {"name": "MODE", "value": "a$$b"},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-db", "key": "password"}}},
        {"name": "URL", "value": "postgres://shop:$(PASSWORD)@db"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "shop-config"}}],
    "args": ["--password=$(PASSWORD)"],
    "volumeMounts": [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "conf", "mountPath": "/conf"},
        {"name": "binding", "mountPath": "/bindings/db/", "readOnly": True},
        {"name": "binding", "mountPath": "/etc/password", "subPath": "password"},
        {"name": "data", "mountPath": "/data"},
        {"name": "none", "mountPath": "/none"},
    ],
}
VOLUMES = [
    {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    {"name": "conf", "configMap": {"name": "shop-config"}},
    {"name": "binding", "projected": {"defaultMode": 0o440, "sources": [{"secret": {"name": "shop-db"}}]}},
    {"name": "data", "persistentVolumeClaim": {"claimName": "shop-data"}},
    {"name": "none", "configMap": {"name": "absent", "optional": True}},
]
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-config"}, "data": {"LEVEL": "info"}}
BUILD: dict[str, Any] = {"objects": [CONFIG], "secrets": {"shop-db": {"password": PASSWORD}}}
SERVICE = {
    "name": "db",
    "container": {"image": "r.test/db:1", "readinessProbe": {"tcpSocket": {"port": 5432}}},
}


@pytest.fixture
def read(tmp_path):
    def call(container: dict[str, Any] | None = None, **more: Any) -> Recipe:
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": "shop",
            "container": {
                "image": "r.test/shop:1",
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
                **(container or {}),
            },
            "image": {"name": "r.test/shop:1-warm"},
            "restore": ["runtime"],
            **more,
        }
        (tmp_path / "recipe.yaml").write_text(
            json.dumps({key: value for key, value in document.items() if value is not None})
        )
        return load_recipe(tmp_path / "recipe.yaml")

    return call


def values(secret: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64decode(data).decode() for key, data in secret.items()}


def test_variables_have_the_values_of_the_build(read):
    made = make_build_spec(
        read(SHOP, volumes=VOLUMES, build=BUILD), "shop-build-1", {"r.test/shop:1": "r.test/shop@sha256:0"}
    )
    (container,), held = made.spec["containers"], values(made.secret)
    found = {}
    for one in container["env"]:
        if "valueFrom" in one:
            assert one["valueFrom"]["secretKeyRef"]["name"] == "shop-build-1"
            found[one["name"]] = held[one["valueFrom"]["secretKeyRef"]["key"]]
    assert found.pop("POD_IP")
    assert found == {"PASSWORD": PASSWORD, "URL": f"postgres://shop:{PASSWORD}@db", "LEVEL": "info"}
    assert {"name": "MODE", "value": "a$$b"} in container["env"]
    assert "envFrom" not in container
    assert container["image"] == "r.test/shop@sha256:0"


def test_no_value_of_a_secret_and_no_name_of_the_clusters_objects_is_in_the_manifest(read):
    made = make_build_spec(read(SHOP, volumes=VOLUMES, build=BUILD), "shop-build-1", {})
    text = json.dumps(made.spec)
    assert made.spec["containers"][0]["args"] == ["--password=$(PASSWORD)"]
    for word in (PASSWORD, "shop-config", "shop-db", "shop-data", "absent"):
        assert word not in text


def test_volumes_are_those_of_the_build(read):
    recipe = read(SHOP, volumes=VOLUMES, build=BUILD, securityContext={"fsGroup": 2000})
    made = make_build_spec(recipe, "shop-build-1", {})
    held, files = values(made.secret), {}
    volumes = {one["name"]: one for one in made.spec["volumes"]}
    assert list(volumes) == ["tmp", "conf", "binding", "data", "none"]
    for name in ("conf", "binding"):
        assert volumes[name]["secret"]["secretName"] == "shop-build-1"
        for item in volumes[name]["secret"]["items"]:
            files[name, item["path"]] = (held[item["key"]], item["mode"])
    assert files == {("conf", "LEVEL"): ("info", 0o644), ("binding", "password"): (PASSWORD, 0o440)}
    assert volumes["tmp"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Mi"}
    assert volumes["data"]["emptyDir"] == volumes["none"]["emptyDir"] == {}
    assert made.spec["securityContext"] == {"fsGroup": 2000}
    assert made.spec["containers"][0]["volumeMounts"] == [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "conf", "mountPath": "/conf", "readOnly": True},
        {"name": "binding", "mountPath": "/bindings/db", "readOnly": True},
        {"name": "binding", "mountPath": "/etc/password", "readOnly": True, "subPath": "password"},
        {"name": "data", "mountPath": "/data"},
        {"name": "none", "mountPath": "/none", "readOnly": True},
    ]


def test_a_recipe_that_spells_everything_out_needs_no_secret(read):
    made = make_build_spec(
        read({"env": [{"name": "MODE", "value": "prod"}]}), "shop-build-1", {"r.test/shop:1": "r.test/shop:1"}
    )
    assert made.secret == {}
    assert made.spec["containers"][0]["env"] == [{"name": "MODE", "value": "prod"}]


class Everywhere(dict):
    """All images are in one place."""

    def __missing__(self, image: str) -> Transport:
        return self[""]


def refuse(recipe: Recipe, kind: Transport = Transport.REGISTRY) -> list[str]:
    with pytest.raises(RecipeError, match="the recipe cannot be built on a cluster") as caught:
        check_recipe(recipe, Everywhere({"": kind}))
    return list(caught.value.details)


def test_steps_until_the_application_is_steady_are_refused(read):
    get = {"httpGet": {"path": "/", "port": 8080}}
    recipe = read(warmup=[get, {**get, "until": "steady"}])
    assert refuse(recipe) == [
        "warmup[1].until: the processor time of a pod is not visible here: set repeat, and delete it"
    ]


def test_hooks_that_only_an_image_that_restores_itself_can_have_are_refused(read):
    (line,) = refuse(read(hooks=["python"]))
    assert line.startswith("hooks: in a cluster, they need an image that restores itself")
    check_recipe(read(hooks=["python"], restore=["runtime", "self"]), Everywhere({"": Transport.REGISTRY}))


INIT: dict[str, Any] = {
    "name": "migrate",
    "image": "r.test/migrate:1",
    "env": SHOP["env"][1:3],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared", "mountPath": "/shared"}],
    "securityContext": {"runAsUser": 5, "supplementalGroups": [7]},
}


def test_all_that_a_cluster_cannot_do_is_said_in_one_error(read):
    recipe = read(
        {"image": "localhost/shop:1", "args": ["-p", PASSWORD]},
        initContainers=[{**INIT, "volumeMounts": []}, {"name": "wait", "image": "r.test/wait:1"}],
        build={**BUILD, "services": [SERVICE], "init": [{"container": "migrate"}]},
    )
    where = "is not in a registry: push it to a registry that the cluster can pull from"
    assert refuse(recipe, Transport.CONTAINERS_STORAGE) == [
        f"container.image: localhost/shop:1 {where}",
        f"build.services[0].container.image: r.test/db:1 {where}",
        f"initContainers[0].image: r.test/migrate:1 {where}",
        "container.args[1]: it has the value of a secret, which everyone would read in the pod: use $(NAME)",
    ]


def test_init_containers_are_those_of_the_build_with_its_values(read):
    recipe = read(
        {**SHOP, "securityContext": {"supplementalGroups": [9]}},
        volumes=[*VOLUMES, {"name": "shared", "emptyDir": {}}],
        initContainers=[{"name": "wait", "image": "r.test/wait:1"}, INIT],
        build={**BUILD, "init": [{"container": "migrate"}]},
    )
    made = make_build_spec(recipe, "shop-build-1", {"r.test/migrate:1": "r.test/migrate@sha256:1"})
    (init,), held = made.spec["initContainers"], values(made.secret)
    assert (init["name"], init["image"]) == ("migrate", "r.test/migrate@sha256:1")
    assert [held[one["valueFrom"]["secretKeyRef"]["key"]] for one in init["env"]] == [
        PASSWORD,
        f"postgres://shop:{PASSWORD}@db",
    ]
    assert init["volumeMounts"] == INIT["volumeMounts"]
    assert init["securityContext"] == {"runAsUser": 5}
    assert "shared" in [one["name"] for one in made.spec["volumes"]]
    assert PASSWORD not in json.dumps(made.spec)


def test_the_pod_of_a_service_has_its_values_and_the_names_of_others(read):
    service = {
        "name": "db",
        "container": {
            "image": "r.test/db:1",
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-db", "key": "password"}}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "livenessProbe": {"tcpSocket": {"port": 1}},
            "startupProbe": {"exec": {"command": ["ready"]}, "initialDelaySeconds": 30, "periodSeconds": 60},
            "securityContext": {"runAsUser": 5, "supplementalGroups": [7]},
        },
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "db-data"}}],
        "securityContext": {"fsGroup": 6},
    }
    recipe = read(build={**BUILD, "services": [service]})
    made = make_service_spec(recipe, 0, "db-1", {"r.test/db:1": "r.test/db@sha256:2"}, [Host("10.0.0.9", ("a", "b"))])
    (container,) = made.spec["containers"]
    assert container["image"] == "r.test/db@sha256:2"
    assert container["env"] == [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db-1", "key": "v0"}}}]
    assert values(made.secret) == {"v0": PASSWORD}
    # It is ready at its first success, and not restarted.
    assert container["readinessProbe"] == {
        "exec": {"command": ["ready"]},
        "periodSeconds": 1,
        "failureThreshold": 100_000,
    }
    assert not {"livenessProbe", "startupProbe"} & set(container)
    assert made.spec["securityContext"] == {"fsGroup": 6, "supplementalGroups": [7]}
    assert container["securityContext"] == {"runAsUser": 5}
    assert made.spec["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert made.spec["hostAliases"] == [{"ip": "10.0.0.9", "hostnames": ["a", "b"]}]
    assert made.spec["automountServiceAccountToken"] is False


def test_the_files_of_a_service_have_a_limit_of_their_own(read):
    half = {**CONFIG, "data": {"LEVEL": "x" * (LIMIT_BYTES // 2 + 1)}}
    names = ["a", "b"]
    service = {
        "name": "db",
        "container": {
            **SERVICE["container"],
            "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in names],
        },
        "volumes": [{"name": name, "configMap": {"name": "shop-config"}} for name in names],
    }
    (line,) = refuse(read(build={"objects": [half], "services": [service]}))
    assert line.startswith("build.services[0].volumes: ")


def test_init_containers_that_a_build_leaves_out_are_no_reason(read):
    check_recipe(
        read(initContainers=[{"name": "wait", "image": "r.test/wait:1"}]), Everywhere({"": Transport.REGISTRY})
    )


def test_a_secret_that_is_spelled_out_in_a_command_is_refused(read):
    (line,) = refuse(read({**SHOP, "args": ["-p", PASSWORD]}, volumes=VOLUMES, build=BUILD))
    assert line.startswith("container.args[1]: it has the value of a secret")


@pytest.mark.parametrize("volumes", [2, 3])
def test_more_than_a_secret_holds_is_refused(read, volumes):
    half = {**CONFIG, "data": {"LEVEL": "x" * (LIMIT_BYTES // 2)}}
    names = [f"conf-{number}" for number in range(volumes)]
    recipe = read(
        {"volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in names]},
        volumes=[{"name": name, "configMap": {"name": "shop-config"}} for name in names],
        build={"objects": [half]},
    )
    if volumes == 2:
        check_recipe(recipe, Everywhere({"": Transport.REGISTRY}))
    else:
        (line,) = refuse(recipe)
        assert line.endswith(f"use at most {LIMIT_BYTES}")


PODS, SECRETS = "/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/secrets"


def with_state(state: dict[str, Any]) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    pod["status"]["containerStatuses"] = [{"name": "app", "state": state}]
    return pod


def waiting(message: str) -> dict[str, Any]:
    return with_state({"waiting": {"reason": "CreateContainerConfigError", "message": message}})


@pytest.fixture
def api():
    return FakeApi(
        {
            f"POST {PODS}": Reply(POD),
            f"POST {SECRETS}": Reply({}),
            f"GET {PODS}/app": Reply(with_state({"running": {}})),
            f"DELETE {PODS}/app": Reply(POD),
        }
    )


def test_the_values_are_in_a_secret_that_the_cluster_removes_with_the_pod(api):
    with run_api(api) as cluster, start_pod(cluster, POD, {"v0": "eA=="}):
        pass
    (secret,) = [body for line, body in zip(api.seen, api.bodies, strict=True) if line == f"POST {SECRETS}"]
    assert secret["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "app", "uid": "u1"}]
    assert secret["metadata"]["name"] == "app"
    assert secret["data"] == {"v0": "eA=="}
    assert api.seen.index(f"POST {PODS}") < api.seen.index(f"POST {SECRETS}")


def test_without_values_there_is_no_secret(api):
    with run_api(api) as cluster, start_pod(cluster, POD, {}):
        pass
    assert f"POST {SECRETS}" not in api.seen


def test_a_pod_whose_secret_is_refused_is_removed(api):
    api.answers[f"POST {SECRETS}"] = Reply({"message": "no"}, 403)
    with run_api(api) as cluster, pytest.raises(ClusterError, match="no"), start_pod(cluster, POD, {"v0": "eA=="}):
        pass
    assert f"DELETE {PODS}/app" in api.seen


def test_a_pod_that_is_ahead_of_its_secret_is_waited_for(api, monkeypatch):
    monkeypatch.setattr(engine, "PULL_S", 30)
    states = [with_state({"running": {}}), waiting('secret "app" not found')]
    api.answers[f"GET {PODS}/app"] = lambda _: Reply(states.pop() if len(states) > 1 else states[0])
    with run_api(api) as cluster, start_pod(cluster, POD, {"v0": "eA=="}) as running:
        assert running.name == "app"
    assert len(states) == 1


def test_a_pod_that_lacks_something_else_is_given_up(api):
    api.answers[f"GET {PODS}/app"] = Reply(waiting('secret "other" not found'))
    with run_api(api) as cluster, pytest.raises(ClusterError, match="does not start"), start_pod(cluster, POD):
        pass


def with_init(state: dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    pod = with_state(main)
    pod["spec"]["initContainers"] = [{"name": "first", "image": "first:1"}]
    pod["status"]["initContainerStatuses"] = [{"name": "first", "state": state}]
    return pod


def test_an_init_container_that_fails_is_named_with_its_log(api):
    pod = with_init({"terminated": {"exitCode": 3, "reason": "Error"}}, {"waiting": {"reason": "PodInitializing"}})
    pod["status"]["phase"] = "Failed"
    api.answers[f"GET {PODS}/app"] = Reply(pod)
    api.answers[f"GET {PODS}/app/log"] = lambda query: Reply(b"cannot migrate" if "container=first" in query else b"")
    with run_api(api) as cluster, pytest.raises(AppError) as caught, start_pod(cluster, POD):
        pass
    assert caught.value.brief == "the init container first failed with exit code 3"
    assert "  cannot migrate" in caught.value.details
    assert f"DELETE {PODS}/app" in api.seen


def test_an_init_container_whose_image_cannot_be_pulled_is_given_up(api):
    pod = with_init({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}, {})
    api.answers[f"GET {PODS}/app"] = Reply(pod)
    with run_api(api) as cluster, pytest.raises(ClusterError) as caught, start_pod(cluster, POD):
        pass
    assert "init container first: ErrImagePull: no such image" in caught.value.details


def test_an_init_container_may_take_its_time_and_be_tried_again(api):
    states = [
        with_init({"terminated": {"exitCode": 0, "reason": "Completed"}}, {"running": {}}),
        with_init({"waiting": {"reason": "CrashLoopBackOff"}}, {"waiting": {"reason": "PodInitializing"}}),
        with_init({"running": {}}, {"waiting": {"reason": "PodInitializing"}}),
    ]
    api.answers[f"GET {PODS}/app"] = lambda _: Reply(states.pop() if len(states) > 1 else states[0])
    polled = []
    with run_api(api) as cluster, start_pod(cluster, POD, None, lambda now: polled.append(now.init_containers[0])):
        assert len(states) == 1
    assert [one.running for one in polled] == [True, False, False]
