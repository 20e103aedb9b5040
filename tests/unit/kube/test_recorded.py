"""What the pod in an image asks for is listed by name, and a field that nobody knows is not let through."""

from __future__ import annotations

import copy
import json

import pytest

from warmstart.core.errors import ImageError
from warmstart.core.privileges import Kind, parse_privilege
from warmstart.kube.recorded import list_pod_privileges, make_recorded_pod

IMAGE = "r.io/saved:1"
DEFAULT_TOLERATION = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
#: All that an ordinary pod has, as the API server describes it.
PLAIN = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "app", "annotations": {"kubectl.kubernetes.io/restartedAt": "2026"}},
    "spec": {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
        "hostNetwork": False,
        "tolerations": [{**DEFAULT_TOLERATION, "tolerationSeconds": 300}],
        "affinity": {"nodeAffinity": {}, "podAntiAffinity": {"any": "thing"}},
        "securityContext": {"fsGroup": 5, "runAsUser": 1000},
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "about", "downwardAPI": {}}],
        "containers": [
            {
                "name": "app",
                "image": IMAGE,
                "imagePullPolicy": "Always",
                "env": [{"name": "A", "value": "b"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi"}, "requests": None},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CAP_CHOWN"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                    "privileged": False,
                },
            }
        ],
    },
}


def asked(pod: dict[str, object] = PLAIN, *, root: bool = False) -> list[str]:
    return [str(one) for one in list_pod_privileges(pod, IMAGE, root=root)]


def with_spec(**fields: object) -> dict[str, object]:
    pod = copy.deepcopy(PLAIN)
    pod["spec"] |= fields
    return pod


def with_container(**fields: object) -> dict[str, object]:
    pod = copy.deepcopy(PLAIN)
    pod["spec"]["containers"][0] |= fields
    return pod


def with_metadata(**fields: object) -> dict[str, object]:
    return {**PLAIN, "metadata": {**PLAIN["metadata"], **fields}}


def test_an_ordinary_pod_asks_for_nothing() -> None:
    assert asked() == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hostNetwork": True}, ["host-network"]),
        ({"hostPID": True}, ["host-pid"]),
        ({"hostIPC": "yes"}, ["host-ipc"]),
        ({"serviceAccountName": "admin"}, ["service-account=admin"]),
        ({"serviceAccount": "admin"}, ["service-account=admin"]),
        ({"nodeName": "control"}, ["node=control"]),
        ({"nodeSelector": {"a": "b"}}, ["node-selector=a=b"]),
        ({"affinity": {"nodeAffinity": {"preferred": []}}}, ["node-affinity"]),
        ({"tolerations": [{"operator": "Exists"}]}, ["toleration=*"]),
        (
            {"tolerations": [{**DEFAULT_TOLERATION, "effect": "NoSchedule"}]},
            [f"toleration={DEFAULT_TOLERATION['key']}"],
        ),
        ({"priorityClassName": "system-node-critical"}, ["priority-class=system-node-critical"]),
        ({"runtimeClassName": "lax"}, ["runtime-class=lax"]),
        ({"schedulerName": "mine"}, ["scheduler=mine"]),
        ({"imagePullSecrets": [{"name": "hub"}]}, ["pull-secret=hub"]),
        (
            {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]},
            ["resource-claim=gpu", "resource-claim=shared"],
        ),
        (
            {"securityContext": {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}},
            ["sysctl=net.ipv4.ip_forward"],
        ),
        ({"securityContext": {"runAsUser": 0}}, ["root"]),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, ["field=spec.securityContext.windowsOptions"]),
        ({"ephemeralContainers": []}, ["field=spec.ephemeralContainers"]),
        ({"hostnetwork": True}, ["field=spec.hostnetwork"]),
        ({"initContainers": [{"name": "evil", "image": "evil"}]}, ["image=evil"]),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, ["host-path=/"]),
        ({"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}, ["secret=db"]),
        ({"volumes": [{"name": "v", "configMap": {"name": "conf"}}]}, ["config-map=conf"]),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}, ["claim=data"]),
        ({"volumes": [{"name": "v", "image": {"reference": "evil"}}]}, ["image=evil"]),
        ({"volumes": [{"name": "v", "csi": {}, "nfs": {}}]}, ["volume=csi", "volume=nfs"]),
        ({"volumes": [{"name": "v", "flexVolume": {}}]}, ["volume=flexVolume"]),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}, ["token=kubernetes"]),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "db"}}]}}]}, ["secret=db"]),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {}}]}}]},
            ["field=spec.volumes[v].projected.sources[0].podCertificate"],
        ),
    ],
)
def test_what_a_pod_asks_for_is_listed(fields, expected) -> None:
    assert sorted(asked(with_spec(**fields))) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"securityContext": {"privileged": True}}, ["privileged"]),
        ({"securityContext": {"allowPrivilegeEscalation": True}}, ["privilege-escalation"]),
        (
            {"securityContext": {"capabilities": {"add": ["CAP_sys_admin", "ALL"]}}},
            ["capability=SYS_ADMIN", "capability=ALL"],
        ),
        ({"securityContext": {"procMount": "Unmasked"}}, ["proc-mount=Unmasked"]),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, ["seccomp=Unconfined"]),
        (
            {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "lax.json"}}},
            ["seccomp=Localhost/lax.json"],
        ),
        ({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, ["apparmor=Unconfined"]),
        ({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, ["selinux=::spc_t:"]),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "x"}}}]}, ["secret=db"]),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "x"}}}]}, ["config-map=c"]),
        ({"envFrom": [{"secretRef": {"name": "db"}}, {"configMapRef": {"name": "c"}}]}, ["secret=db", "config-map=c"]),
        ({"ports": [{"containerPort": 1, "hostPort": 10250}]}, ["host-port=10250"]),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, ["resource=nvidia.com/gpu"]),
        ({"resources": {"claims": [{"name": "gpu"}]}}, ["resource-claim=gpu"]),
        ({"livenessProbe": {"httpGet": {"host": "127.0.0.1", "port": 10255}}}, ["probe-host=127.0.0.1"]),
        ({"lifecycle": {"postStart": {"tcpSocket": {"host": "db", "port": 1}}}}, ["probe-host=db"]),
        ({"volumeMounts": [{"name": "tmp", "mountPropagation": "Bidirectional"}]}, ["mount-propagation=Bidirectional"]),
        ({"later": 1}, ["field=spec.containers[app].later"]),
    ],
)
def test_what_a_container_asks_for_is_listed(fields, expected) -> None:
    assert asked(with_container(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"labels": {"app": "shop"}}, ["label=app=shop"]),
        ({"annotations": {"io.kubernetes.cri-o.Devices": "/dev/kmsg"}}, ["annotation=io.kubernetes.cri-o.Devices"]),
        ({"finalizers": ["x"], "ownerReferences": []}, ["field=metadata.finalizers", "field=metadata.ownerReferences"]),
    ],
)
def test_what_the_metadata_ask_for_is_listed(fields, expected) -> None:
    assert asked(with_metadata(**fields)) == expected


def test_every_privilege_can_be_named() -> None:
    for pod in (with_spec(nodeSelector={"a b": "c=d"}), with_container(image="evil"), with_spec(later={})):
        for one in list_pod_privileges(pod, IMAGE, root=False):
            assert parse_privilege(str(one)) == one
    assert {parse_privilege("host-pid").kind, parse_privilege("label=a=b").kind} == {Kind.HOST_PID, Kind.LABEL}


def test_root_is_what_the_image_runs_as_anyway_but_no_other_one() -> None:
    as_root = {"securityContext": {"runAsUser": 0}}
    assert asked(with_container(**as_root)) == ["root"]
    assert asked(with_container(**as_root), root=True) == []
    assert asked(with_container(**as_root, image="evil"), root=True) == ["image=evil", "root"]


@pytest.mark.parametrize(
    ("pod", "where"),
    [
        (with_spec(volumes="/"), r"spec\.volumes is not a list"),
        (with_spec(containers=["x"]), r"spec\.containers\[0\] is not a mapping"),
        (with_spec(serviceAccountName={"a": 1}), r"spec\.serviceAccountName is not a string"),
        ({**PLAIN, "metadata": []}, "metadata is not a mapping"),
        (with_container(securityContext={"capabilities": {"drop": [5]}}), r"capabilities\.drop is not a string"),
        (
            with_spec(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}),
            "nodeAffinity is not a list",
        ),
        (with_spec(topologySpreadConstraints=json.loads("[" * 400 + "]" * 400)), "nested more than 50 levels"),
    ],
)
def test_what_is_not_of_its_type_is_refused(pod, where) -> None:
    with pytest.raises(ImageError, match=where):
        asked(pod)


def test_the_namespace_is_the_callers_and_copies_of_values_are_dropped() -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kubectl.kubernetes.io/restartedAt": "2026"}
    recorded = {**with_metadata(namespace="kube-system", annotations=applied), "status": {}}
    recorded["spec"] = {**recorded["spec"], "affinity": None}
    made = make_recorded_pod(recorded, "shop")
    assert "affinity" not in made["spec"]
    assert made["metadata"] == {
        "name": "app",
        "namespace": "shop",
        "annotations": {"kubectl.kubernetes.io/restartedAt": "2026"},
    }
    assert made.keys() == {"apiVersion", "kind", "metadata", "spec"}
