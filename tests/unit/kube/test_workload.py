"""Workloads read from a cluster for `init`; the API server is a fake."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import FakeApi, Reply, run_api

from warmstart.core.errors import ClusterError
from warmstart.kube.workload import WorkloadName, parse_workload, read_workload
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.load import load_recipe

CORE = "GET /api/v1/namespaces/shop"
APPS = "GET /apis/apps/v1/namespaces/shop"


def workload(name: str, container: dict[str, Any], **pod: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": "u1",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": name, **container}], **pod},
            }
        },
        "status": {"replicas": 1},
    }


#: As an API server returns it: with defaults.
SHOP = workload(
    "shop",
    {
        "image": "registry.corp.test/shop:1",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {},
        "env": [
            {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-db", "key": "password"}}},
            {"name": "CACHE", "value": "redis://cache:6379"},
        ],
        "envFrom": [{"configMapRef": {"name": "shop-config"}}],
        "readinessProbe": {
            "httpGet": {"path": "/", "port": 8080, "scheme": "HTTP"},
            "timeoutSeconds": 1,
            "periodSeconds": 10,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {"allowPrivilegeEscalation": False},
    },
    securityContext={},
    dnsPolicy="ClusterFirst",
)
POSTGRES = workload(
    "postgres",
    {
        "image": "postgres:17",
        "ports": [{"containerPort": 5432, "protocol": "TCP"}],
        "envFrom": [{"configMapRef": {"name": "postgres-config"}}],
    },
)
OTHER = workload("other", {"image": "registry.corp.test/other:1", "envFrom": [{"configMapRef": {"name": "no"}}]})


def service(name: str, port: int) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": port}]}}


def config_map(name: str, **data: str) -> Reply:
    return Reply({"kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def make_api() -> FakeApi:
    return FakeApi(
        {
            f"{APPS}/deployments/shop": Reply(copy.deepcopy(SHOP)),
            f"{APPS}/deployments": Reply({"items": [SHOP, OTHER]}),
            f"{APPS}/statefulsets": Reply({"items": [POSTGRES]}),
            f"{CORE}/services": Reply({"items": [service("postgres", 5432), service("shop", 80)]}),
            f"{CORE}/configmaps/shop-config": config_map("shop-config", DB_URL="jdbc:postgresql://postgres/shop"),
            f"{CORE}/configmaps/postgres-config": config_map("postgres-config", POSTGRES_DB="shop"),
        }
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deployment/shop", WorkloadName("Deployment", "shop")),
        ("deployments/shop", WorkloadName("Deployment", "shop")),
        ("deploy/shop", WorkloadName("Deployment", "shop")),
        ("deployment.apps/shop", WorkloadName("Deployment", "shop")),
        ("sts/db", WorkloadName("StatefulSet", "db")),
        ("cronjobs.batch/report", WorkloadName("CronJob", "report")),
        ("pod/shop-1", WorkloadName("Pod", "shop-1")),
        ("shop", None),
        ("deployment/", None),
        ("service/shop", None),
        ("deployment/shop:1", None),
        ("deployment/team/shop", None),
        ("docker.io/deployment", None),
    ],
)
def test_names_of_workloads(text: str, expected: WorkloadName | None) -> None:
    assert parse_workload(text) == expected


def test_a_deployment_with_its_objects(tmp_path: Path) -> None:
    api = make_api()
    with run_api(api) as cluster:
        proposal = propose_recipe(read_workload(cluster, WorkloadName("Deployment", "shop")), InitOptions())
    (tmp_path / "recipe.yaml").write_text(proposal.text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert [name for name, _ in recipe.container.env] == ["DB_URL", "DB_PASSWORD", "CACHE"]
    assert dict(recipe.services[0].container.env) == {"POSTGRES_DB": "shop"}
    assert [request for request in api.seen if "secrets" in request] == []
    assert [request for request in api.seen if "configmaps/no" in request] == []
    assert [service.name for service in recipe.services] == ["postgres", "cache"]
    proposed = "proposed, since the namespace shop has no workload for it: the service cache (Redis), in CACHE"
    assert any(note.startswith(proposed) for note in proposal.notes)


def test_defaults_of_the_server_are_left_out() -> None:
    with run_api(make_api()) as cluster:
        text = propose_recipe(read_workload(cluster, WorkloadName("Deployment", "shop")), InitOptions()).text
    for word in ("protocol", "scheme", "timeoutSeconds", "successThreshold", "terminationMessage", "imagePull", "uid"):
        assert word not in text
    assert "allowPrivilegeEscalation: false" in text


def test_an_object_that_may_not_be_read_is_a_note() -> None:
    api = make_api()
    forbidden = Reply({"message": 'services is forbidden: User "me" cannot list resource "services"'}, 403)
    api.answers[f"{CORE}/services"] = forbidden
    api.answers[f"{CORE}/configmaps/shop-config"] = forbidden
    with run_api(api) as cluster:
        proposal = propose_recipe(read_workload(cluster, WorkloadName("Deployment", "shop")), InitOptions())
    assert any(note.startswith("the services of the namespace cannot be read: ") for note in proposal.notes)
    assert any(note.startswith("ConfigMap/shop-config cannot be read: ") for note in proposal.notes)
    assert any(reason.startswith("ConfigMap/shop-config, for envFrom, is not in") for reason in proposal.to_do)


def test_a_whole_secret_has_unknown_keys() -> None:
    api = make_api()
    shop = copy.deepcopy(SHOP)
    shop["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "shop-db"}}]
    shop["spec"]["template"]["spec"]["containers"][0]["env"] = []
    api.answers[f"{APPS}/deployments/shop"] = Reply(shop)
    with run_api(api) as cluster:
        proposal = propose_recipe(read_workload(cluster, WorkloadName("Deployment", "shop")), InitOptions())
    assert proposal.to_do[0].startswith("the keys of Secret/shop-db, for envFrom, are unknown: name them")
    assert [request for request in api.seen if "secrets" in request] == []


def test_the_token_of_a_pod_is_left_out() -> None:
    pod = {
        "metadata": {"name": "shop-1", "namespace": "shop"},
        "spec": {
            "containers": [
                {
                    "name": "shop",
                    "image": "registry.corp.test/shop:1",
                    "ports": [{"containerPort": 8080}],
                    "volumeMounts": [
                        {"name": "kube-api-access-x7x2z", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
                    ],
                }
            ],
            "volumes": [{"name": "kube-api-access-x7x2z", "projected": {"sources": []}}],
        },
    }
    api = FakeApi({f"{CORE}/pods/shop-1": Reply(pod)})
    with run_api(api) as cluster:
        proposal = propose_recipe(read_workload(cluster, WorkloadName("Pod", "shop-1")), InitOptions())
    assert "kube-api-access" not in proposal.text


@pytest.mark.parametrize("answer", [Reply({"message": "not here"}, 404), Reply({"metadata": {}, "spec": {}})])
def test_a_workload_that_is_not_there(answer: Reply) -> None:
    with run_api(FakeApi({f"{APPS}/deployments/shop": answer})) as cluster, pytest.raises(ClusterError):
        read_workload(cluster, WorkloadName("Deployment", "shop"))
