"""Pods: what is read of them, and the manifests of those that take their place."""

from __future__ import annotations

import copy

import pytest

from warmstart.core.errors import ClusterError
from warmstart.kube.answer import Answer
from warmstart.kube.pods import (
    Pod,
    list_cautions,
    make_copy,
    make_helper,
    name_copy,
    parse_pod,
    place_pod,
    strip_pod,
)

TOKEN = {"name": "kube-api-access-x7k2p", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
TOKEN_MOUNT = {"name": TOKEN["name"], "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
DOCUMENT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "server-6f9-abcde",
        "namespace": "shop",
        "uid": "uid-1",
        "resourceVersion": "17",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": "server", "pod-template-hash": "6f9"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "server-6f9", "controller": True}],
    },
    "spec": {
        "nodeName": "node-1",
        "priority": 0,
        "serviceAccountName": "server",
        "containers": [
            {"name": "proxy", "image": "proxy:1", "volumeMounts": [TOKEN_MOUNT]},
            {
                "name": "server",
                "image": "server:1",
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, TOKEN_MOUNT],
            },
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, TOKEN],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "hostIP": "192.168.0.1",
        "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [server]"}],
        "containerStatuses": [
            {
                "name": "server",
                "image": "registry/server:1",
                "imageID": "registry/server@sha256:" + "0" * 64,
                "ready": False,
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"exitCode": 137}},
            },
        ],
    },
}


def read(document: object) -> Pod:
    return parse_pod(Answer(document, "the answer"))


@pytest.fixture
def document():
    return copy.deepcopy(DOCUMENT)


def test_a_pod_is_read(document):
    pod = read(document)
    assert (pod.namespace, pod.name, pod.node, pod.ip) == ("shop", "server-6f9-abcde", "node-1", "10.0.0.7")
    assert pod.controller == ("ReplicaSet", "server-6f9")
    server = pod.find_container("server")
    assert (server.running, server.restarts, server.exit_code) == (False, 2, 137)
    assert server.image == "registry/server:1"
    assert pod.stuck
    assert pod.explain() == [
        "Ready: containers with unready status: [server]",
        "container server: CrashLoopBackOff: back-off",
    ]


def test_why_a_node_did_not_take_a_pod_is_told(document):
    document["status"] = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
    pod = read(document)
    assert pod.stuck
    assert pod.explain() == ["OutOfcpu: Node didn't have enough resource: cpu"]


def test_a_pod_without_a_status_is_read(document):
    del document["status"], document["spec"]["nodeName"], document["metadata"]["ownerReferences"]
    pod = read(document)
    assert (pod.node, pod.ip, pod.ready, pod.stuck, pod.controller) == ("", "", False, False, None)


def test_the_container_is_the_one_that_kubectl_would_take(document):
    assert read(document).find_container(None).name == "proxy"
    document["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "server"}
    assert read(document).find_container(None).name == "server"
    with pytest.raises(ClusterError, match="no container web; it has proxy, server"):
        read(document).find_container("web")


def test_what_the_cluster_added_is_stripped(document):
    stripped = strip_pod(read(document))
    assert stripped["metadata"] == {
        "name": "server-6f9-abcde",
        "namespace": "shop",
        "labels": {"app": "server", "pod-template-hash": "6f9"},
    }
    assert "nodeName" not in stripped["spec"]
    assert "status" not in stripped
    assert stripped["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    assert [one["volumeMounts"] for one in stripped["spec"]["containers"]] == [
        [],
        [{"name": "tmp", "mountPath": "/tmp"}],
    ]
    assert document == DOCUMENT


def test_a_copy_of_another_name_is_nobodys_replica(document):
    manifest = strip_pod(read(document))
    same = make_copy(manifest, "server", "registry/saved:1")
    assert [one["image"] for one in same["spec"]["containers"]] == ["proxy:1", "registry/saved:1"]
    assert same["spec"]["containers"][1]["imagePullPolicy"] == "Always"
    assert same["metadata"] == manifest["metadata"]
    other = make_copy(manifest, "server", "registry/saved:1", name="other")
    assert other["metadata"] == {"name": "other", "namespace": "shop", "labels": {"app": "server"}}
    assert manifest["spec"]["containers"][1]["image"] == "server:1"


def test_a_pod_is_placed_and_what_it_wants_itself_holds():
    wish = {"key": "disk", "operator": "In", "values": ["ssd"]}
    terms = [{"matchExpressions": [wish]}, {"matchFields": [{"key": "metadata.name", "operator": "Exists"}]}]
    required = {"nodeSelectorTerms": terms}
    manifest = {
        "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}},
    }
    place_pod(manifest, "node-2", there=False)
    rule = {"key": "metadata.name", "operator": "NotIn", "values": ["node-2"]}
    assert required["nodeSelectorTerms"][0] == {"matchExpressions": [wish], "matchFields": [rule]}
    assert required["nodeSelectorTerms"][1]["matchFields"][1] == rule


def test_a_pod_without_wishes_is_placed():
    manifest = {"spec": {}}
    place_pod(manifest, "node-2", there=True)
    required = manifest["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    rule = {"key": "metadata.name", "operator": "In", "values": ["node-2"]}
    assert required == {"nodeSelectorTerms": [{"matchFields": [rule]}]}


def test_the_copy_of_a_copy_has_no_longer_name():
    first = name_copy("server")
    second = name_copy(first)
    assert first != second
    assert len(first) == len(second) == len("server-w123456")
    assert len(name_copy("s" * 63)) <= 63


def test_what_a_copy_loses_is_told(document):
    document["spec"]["initContainers"] = [{"name": "migrate", "image": "migrate:1"}]
    assert list_cautions(read(document), "server") == [
        "what is in its volume tmp (emptyDir) is not saved",
        "its other containers start anew: proxy",
        "its init containers run again",
    ]


@pytest.mark.parametrize("writable", [True, False])
def test_a_helper_has_one_directory_and_no_privilege(writable):
    image = "registry/busybox@sha256:" + "0" * 64
    spec = make_helper("h", "warmstart", "node-1", image, "/var/lib/kubelet/checkpoints", writable=writable)["spec"]
    [container] = spec["containers"]
    assert container["image"] == image
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["volumeMounts"] == [{"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": not writable}]
    directory = {"path": "/var/lib/kubelet/checkpoints", "type": "Directory"}
    assert spec["volumes"] == [{"name": "checkpoints", "hostPath": directory}]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"type": "spc_t"},
    }
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "64Mi"}
    assert spec["automountServiceAccountToken"] is False
    assert 0 < spec["activeDeadlineSeconds"] <= 3600
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & spec.keys()


def test_a_helper_that_sees_processes_has_what_this_needs_and_no_more():
    words = ("h", "warmstart", "node-1", "busybox", "/var/lib/kubelet/checkpoints")
    plain = make_helper(*words, writable=True)["spec"]
    seeing = make_helper(*words, writable=True, sees_processes=True)["spec"]
    assert seeing.pop("hostPID") is True
    context = seeing["containers"][0]["securityContext"]
    assert context["capabilities"].pop("add") == ["SYS_PTRACE"]
    assert context.pop("appArmorProfile") == {"type": "Unconfined"}
    assert seeing == plain


def test_where_a_pod_was_put_by_name_is_forgotten(document):
    wish = {"key": "disk", "operator": "In", "values": ["ssd"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [wish]}]}
    document["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    before = strip_pod(read(document))
    place_pod(document, "node-2", there=True)
    assert strip_pod(read(document)) == before
    del document["spec"]["affinity"]
    place_pod(document, "node-2", there=True)
    assert strip_pod(read(document))["spec"]["affinity"] == {"nodeAffinity": {}}
