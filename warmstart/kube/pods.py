"""Pods as the API server describes them, and the manifests of those that warmstart makes. No I/O.

Fields: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/.
"""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warmstart.core.errors import ClusterError
from warmstart.kube.answer import Answer, drop_nulls

MANAGED_BY = {"app.kubernetes.io/managed-by": "warmstart"}
_HELPER = {"app.kubernetes.io/component": "helper"}
#: Labels that tie a pod to its controller.
REPLICA_LABELS = ("pod-template-hash", "controller-revision-hash", "pod-template-generation")


@dataclass(frozen=True)
class ContainerState:
    """A container of a pod.

    Attributes:
        name: its name in the pod.
        image: the image as the runtime names it; that of the specification until it runs.
        image_id: the image as NAME@DIGEST, or another name that the runtime reports.
        running: whether it runs.
        ready: whether its readiness probe succeeds.
        restarts: how often it was started again.
        exit_code: of its end, if it has ended, or of the last one.
        why: the reason why it does not run, such as `ImagePullBackOff`, and its message.
        runtime_id: its id, as RUNTIME://ID; "" until it runs.
    """

    name: str
    image: str
    image_id: str = ""
    running: bool = False
    ready: bool = False
    restarts: int = 0
    exit_code: int | None = None
    why: str = ""
    runtime_id: str = ""


@dataclass(frozen=True)
class Pod:
    """A pod at one moment; `manifest` is the API server's full object.

    `node` and the addresses are empty until it has them. `deleting`: its deletion was requested. `init_containers` run
    before its `containers`.
    """

    namespace: str
    name: str
    uid: str
    node: str
    ip: str
    host_ip: str
    phase: str
    ready: bool
    deleting: bool
    containers: tuple[ContainerState, ...]
    manifest: Mapping[str, Any]
    init_containers: tuple[ContainerState, ...] = ()

    def find_container(self, name: str | None) -> ContainerState:
        """Return a container by name; without a name, kubectl's default.

        Raises:
            ClusterError: there is no such container.
        """
        wanted = name or self.annotations.get("kubectl.kubernetes.io/default-container") or self.containers[0].name
        for container in self.containers:
            if container.name == wanted:
                return container
        names = ", ".join(container.name for container in self.containers)
        raise ClusterError(f"the pod {self.namespace}/{self.name} has no container {wanted}; it has {names}")

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""
        return self.manifest["metadata"].get("annotations") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.manifest["metadata"].get("labels") or {}

    @property
    def controller(self) -> tuple[str, str] | None:
        """Kind and name of its controller; None if it has none."""
        for owner in self.manifest["metadata"].get("ownerReferences") or ():
            if owner.get("controller"):
                return owner["kind"], owner["name"]
        return None

    @property
    def stuck(self) -> bool:
        """Whether it has ended, or one of its containers cannot start."""
        hopeless = ("ErrImage", "ImagePull", "InvalidImage", "CreateContainer", "RunContainer")
        return (
            self.phase in ("Failed", "Succeeded")
            or any(one.why.startswith((*hopeless, "CrashLoop")) for one in self.containers)
            # An init container that fails may only be early, and is tried again.
            or any(one.why.startswith(hopeless) for one in self.init_containers)
        )

    def explain(self) -> list[str]:
        """Return reasons from its status why it is not ready."""
        status = self.manifest.get("status") or {}
        conditions = status.get("conditions") or ()
        # Of a pod that its node rejected.
        refusal = [": ".join(text for text in (status.get("reason"), status.get("message")) if text)]
        said = [
            f"{condition['type']}: {condition['message']}"
            for condition in conditions
            if condition.get("status") != "True" and condition.get("message")
        ]
        return [
            *filter(None, refusal),
            *said,
            *(
                f"init container {one.name}: {one.why}"
                for one in self.init_containers
                if one.why and one.exit_code != 0
            ),
            *(f"container {one.name}: {one.why}" for one in self.containers if one.why),
        ]


def parse_pod(answer: Answer) -> Pod:
    """Parse a pod from the API server.

    Raises:
        ClusterError: its structure is not that of the API.
    """
    answer.check_depth()
    answer = replace(answer, value=drop_nulls(answer.value))
    metadata, spec, status = answer.at("metadata"), answer.at("spec"), answer.at("status")
    _check_metadata(metadata)
    _check_spec(spec)
    conditions = {one.at("type").text(): one.at("status").text() for one in status.at("conditions").items()}
    for text in (
        *(one.at("message") for one in status.at("conditions").items()),
        *map(status.at, ("reason", "message")),
    ):
        text.text("")
    return Pod(
        namespace=metadata.at("namespace").name(),
        name=metadata.at("name").name(),
        uid=metadata.at("uid").name(),
        node=spec.at("nodeName").text(""),
        ip=status.at("podIP").text(""),
        host_ip=status.at("hostIP").text(""),
        phase=status.at("phase").text(""),
        ready=conditions.get("Ready") == "True",
        deleting=metadata.at("deletionTimestamp").value is not None,
        containers=_parse_containers(spec.at("containers"), status.at("containerStatuses")),
        manifest=answer.members(),
        init_containers=_parse_containers(spec.at("initContainers"), status.at("initContainerStatuses")),
    )


def _check_metadata(metadata: Answer) -> None:
    """Check that all parts used later have the form of the API."""
    metadata.at("labels").texts()
    metadata.at("annotations").texts()
    for owner in metadata.at("ownerReferences").items():
        if owner.at("controller").flag():
            owner.at("kind").name(), owner.at("name").name()


def _check_spec(spec: Answer) -> None:
    """Check the form as in `_check_metadata`."""
    if not spec.at("containers").items():
        spec.at("containers").fail("a list of containers")
    for container in [*spec.at("containers").items(), *spec.at("initContainers").items()]:
        container.at("name").name()
        container.at("securityContext").members()
        for mount in container.at("volumeMounts").items():
            mount.at("name").text()
    for volume in spec.at("volumes").items():
        volume.at("name").text()
    required = spec.at("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    if required.value is not None and required.at("nodeSelectorTerms").value is None:
        required.at("nodeSelectorTerms").fail("a list")
    for term in required.at("nodeSelectorTerms").items():
        for rule in term.at("matchFields").items():
            rule.at("key").text()


def _parse_containers(specs: Answer, statuses: Answer) -> tuple[ContainerState, ...]:
    states = {state.at("name").text(): state for state in statuses.items()}
    none = Answer({}, statuses.source, statuses.path)
    return tuple(_parse_container(one, states.get(one.at("name").text(), none)) for one in specs.items())


def _parse_container(spec: Answer, state: Answer) -> ContainerState:
    now = state.at("state")
    ended, waiting, past = now.at("terminated"), now.at("waiting"), state.at("lastState", "terminated")
    code = (ended if ended.members() else past).at("exitCode")
    off = waiting if waiting.members() else ended
    return ContainerState(
        name=spec.at("name").name(),
        image=state.at("image").text("") or spec.at("image").text(""),
        image_id=state.at("imageID").text(""),
        running="running" in now.members(),
        ready=state.at("ready").flag(),
        restarts=state.at("restartCount").number(0),
        exit_code=None if code.value is None else code.number(),
        why=": ".join(text for text in (off.at("reason").text(""), off.at("message").text("")) if text),
        runtime_id=state.at("containerID").text(""),
    )


def make_helper(
    name: str, namespace: str, node: str, image: str, directory: str, *, writable: bool, sees_processes: bool = False
) -> dict[str, Any]:
    """Return the manifest of an idle helper pod that mounts one directory of a node at /checkpoints.

    It is root, the owner of the directory, without any capability but SYS_PTRACE if it sees the node's processes. It
    ends by itself after an hour.
    """
    capabilities = {"drop": ["ALL"], **({"add": ["SYS_PTRACE"]} if sees_processes else {})}
    # A profile of AppArmor keeps a container from looking into others.
    profile = {"appArmorProfile": {"type": "Unconfined"}} if sees_processes else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {**MANAGED_BY, **_HELPER}},
        "spec": {
            "nodeName": node,
            **({"hostPID": True} if sees_processes else {}),
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 3600,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "helper",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "3600"],
                    "securityContext": {
                        "runAsUser": 0,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": capabilities,
                        "seccompProfile": {"type": "RuntimeDefault"},
                        **profile,
                        # Otherwise, if SELinux is on, a container may not read files of the kubelet.
                        "seLinuxOptions": {"type": "spc_t"},
                    },
                    # No requests, so that it also starts on a full node.
                    "resources": {"requests": {"cpu": "0", "memory": "0"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": not writable}],
                }
            ],
            "volumes": [{"name": "checkpoints", "hostPath": {"path": directory, "type": "Directory"}}],
        },
    }


def strip_pod(pod: Pod) -> dict[str, Any]:
    """Return a manifest that creates an equal pod: without the additions of the cluster.

    Node, owner and status are left out. So is the service account's token; the cluster adds a new one if the pod had
    one.
    """
    metadata = pod.manifest["metadata"]
    kept = {
        key: copy.deepcopy(metadata[key]) for key in ("name", "namespace", "labels", "annotations") if key in metadata
    }
    spec = copy.deepcopy(dict(pod.manifest["spec"]))
    for field in ("nodeName", "priority", "preemptionPolicy", "serviceAccount", "ephemeralContainers"):
        spec.pop(field, None)
    tokens = {volume["name"] for volume in spec.get("volumes") or () if _is_token(volume)}
    spec["volumes"] = [volume for volume in spec.get("volumes") or () if volume["name"] not in tokens]
    for container in [*spec["containers"], *(spec.get("initContainers") or ())]:
        mounts = container.get("volumeMounts") or ()
        container["volumeMounts"] = [mount for mount in mounts if mount["name"] not in tokens]
    _free_from_node(spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": kept, "spec": spec}


def _free_from_node(spec: dict[str, Any]) -> None:
    """Remove the requirement of a node by name, as `place_pod` sets it; other requirements stay."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return
    for term in required["nodeSelectorTerms"]:
        rules = [rule for rule in term.pop("matchFields", None) or () if rule["key"] != "metadata.name"]
        if rules:
            term["matchFields"] = rules
    # A term without any rule would match no node.
    required["nodeSelectorTerms"] = [term for term in required["nodeSelectorTerms"] if term]
    if not required["nodeSelectorTerms"]:
        del affinity["requiredDuringSchedulingIgnoredDuringExecution"]


def _is_token(volume: Mapping[str, Any]) -> bool:
    """Whether the cluster added this volume (`ServiceAccount` in kubernetes/plugin/pkg/admission/serviceaccount)."""
    return "projected" in volume and str(volume["name"]).startswith("kube-api-access-")


def make_copy(manifest: Mapping[str, Any], container: str, image: str, *, name: str = "") -> dict[str, Any]:
    """Return the manifest of a pod with a container that is restored from an image.

    Args:
        manifest: of a pod as `strip_pod` gives it.
        container: name of the container.
        image: the image of its checkpoint.
        name: name of the new pod; that of the manifest if empty. A pod with another name belongs to no controller.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(manifest))
    for one in copied["spec"]["containers"]:
        if one["name"] == container:
            # A node with another state by this name would restore that one.
            one |= {"image": image, "imagePullPolicy": "Always"}
    if name:
        copied["metadata"]["name"] = name
        for label in REPLICA_LABELS:
            (copied["metadata"].get("labels") or {}).pop(label, None)
    return copied


def place_pod(manifest: dict[str, Any], node: str, *, there: bool) -> None:
    """Require a node, or exclude it, for the scheduler; the pod's own requirements stay."""
    rule = {"key": "metadata.name", "operator": "In" if there else "NotIn", "values": [node]}
    affinity = manifest["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [{}]})
    # One of the terms must hold, with all of its rules.
    for term in required["nodeSelectorTerms"]:
        term["matchFields"] = [*(term.get("matchFields") or ()), rule]


def name_copy(name: str) -> str:
    """Return a name for a pod that replaces another; a copy of a copy gets no longer name."""
    stem = re.sub("-w[0-9a-f]{6}$", "", name)[:50].rstrip("-.")
    return f"{stem}-w{secrets.token_hex(3)}"


def list_cautions(pod: Pod, container: str) -> list[str]:
    """Describe the parts of a pod that a copy will lack, or have anew."""
    spec = pod.manifest["spec"]
    said = [
        f"what is in its volume {volume['name']} (emptyDir) is not saved"
        for volume in spec.get("volumes") or ()
        if "emptyDir" in volume
    ]
    others = [one["name"] for one in spec["containers"] if one["name"] != container]
    if others:
        said.append(f"its other containers start anew: {', '.join(others)}")
    if spec.get("initContainers"):
        said.append("its init containers run again")
    return said
