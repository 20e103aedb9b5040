"""Manifests that run an image: Deployment, Service, a DaemonSet that pulls ahead, patches. Pure.

Documents use the fields of Kubernetes (https://kubernetes.io/docs/reference/kubernetes-api/).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from warmstart.kube.after_restore import list_after_restore_changes
from warmstart.kube.match import list_settings
from warmstart.kube.mounts import list_mount_changes
from warmstart.kube.probes import without_delays
from warmstart.kube.settings import TOKEN, TOKEN_MOUNT, BuildInfo, Setting
from warmstart.recipe.complete import BLANKED
from warmstart.recipe.pods import Block, PodContainer, blocks_at, find_containers, list_at, mapping_at

PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
_NAME_LABEL = "app.kubernetes.io/name"
# Keys of a recipe's container that are replaced, and those that are part of an image that restores itself.
_SAID_ANEW = frozenset({"name", "image"})
_IN_THE_IMAGE = frozenset({"command", "args"})
# Keys that identify the object of a patch.
_IDENTITY = ("name", "namespace")


def make_deployment(build: BuildInfo, name: str, *, replicas: int = 1, namespace: str | None = None) -> Block:
    """Return a Deployment with pods that are restored from the image, or start cold where nothing restores.

    Raises:
        ManifestError: a pod cannot do the recipe's steps after a restore.
    """
    labels = {_NAME_LABEL: name}
    pod = make_pod_spec(build)
    (container,) = pod["containers"]
    put_settings(pod, container, list_after_restore_changes(build, container))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, namespace, labels),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def make_manifests(build: BuildInfo, name: str, *, replicas: int = 1, namespace: str | None = None) -> list[Block]:
    """Return the Deployment, and a Service if the container names ports."""
    service = make_service(build, name, namespace=namespace)
    deployment = make_deployment(build, name, replicas=replicas, namespace=namespace)
    return [deployment, *([service] if service else [])]


def make_service(build: BuildInfo, name: str, *, namespace: str | None = None) -> Block | None:
    """Return the Service for a Deployment of this name; None if the container names no port."""
    ports = [_service_port(port) for port in build.container.get("ports") or ()]
    if not ports:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, namespace, {_NAME_LABEL: name}),
        "spec": {"selector": {_NAME_LABEL: name}, "ports": ports},
    }


def make_pod_spec(build: BuildInfo) -> Block:
    """Return the specification of a pod that is restored from the image.

    It has the words of the recipe, such as `valueFrom` and `volumes`, not the values of the build. As in the build,
    there is no service account token: its volume also costs a start about 0.3 s.
    """
    left_out = _SAID_ANEW | (_IN_THE_IMAGE if build.by_itself else frozenset())
    carried = {key: value for key, value in build.container.items() if key not in left_out}
    carried = without_delays(carried)
    if blanked := list_blanked(build):
        carried["env"] = [one for one in blocks_at(carried["env"]) if one.get("name") not in blanked]
    container = {"name": build.name, "image": build.image, **carried}
    words = copy.deepcopy({key: value for key, value in build.pod.items() if value})
    for one in (container, *blocks_at(words.get("initContainers"))):
        # Groups are the pod's.
        mapping_at(one, "securityContext").pop("supplementalGroups", None)
    pod: Block = {} if TOKEN_MOUNT in build.mounts else {TOKEN: False}
    pod |= {key: words[key] for key in ("securityContext", "initContainers") if key in words}
    # A probe and the group are the recipe's already.
    settings = (one for one in list_settings(build) if not (one.by_default or one.or_other))
    put_settings(pod, container, settings)
    return {**pod, "containers": [container], **{key: words[key] for key in ("volumes",) if key in words}}


def list_blanked(build: BuildInfo) -> list[str]:
    """Return the names of variables whose literal values are those of secrets, which no recipe of an image has."""
    return [str(one.get("name")) for one in blocks_at(build.container.get("env")) if one.get("value") == BLANKED]


def make_pre_pull(build: BuildInfo, name: str, pause_image: str, *, namespace: str | None = None) -> Block:
    """Return a DaemonSet that makes every node pull and keep the image, without running it.

    The image is a volume (`ImageVolume`, on by default from Kubernetes 1.35): as a container, it would be restored.
    """
    labels = {_NAME_LABEL: f"{name}-pre-pull"}
    pod: Block = {}
    put_settings(pod, {}, (setting for setting in list_settings(build) if setting.of_pod))
    pod.pop("securityContext", None)
    pause = {
        "name": "pause",
        "image": pause_image,
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "16Mi"}},
        "securityContext": {
            "runAsUser": 65535,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "image", "mountPath": "/image", "readOnly": True}],
    }
    image = {"name": "image", "image": {"reference": build.image, "pullPolicy": "IfNotPresent"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(f"{name}-pre-pull", namespace, labels),
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": dict(labels)},
                "spec": {**pod, "terminationGracePeriodSeconds": 1, "containers": [pause], "volumes": [image]},
            },
        },
    }


def make_patch(target: PodContainer, settings: Sequence[Setting]) -> Block:
    """Return a strategic merge patch: containers are matched by name, and mappings are merged."""
    container: Block = {"name": target.name}
    pod: Block = {}
    put_settings(pod, container, settings)
    if len(container) > 1:
        pod["containers"] = [container]
    inner: Block = pod
    for key in reversed(target.pod_path):
        inner = {key: inner}
    metadata = {key: value for key, value in mapping_at(target.manifest, "metadata").items() if key in _IDENTITY}
    return {"apiVersion": target.manifest.get("apiVersion"), "kind": target.kind, "metadata": metadata, **inner}


def make_whole_patch(build: BuildInfo, name: str, *, namespace: str | None = None) -> Block:
    """Return a patch with all settings, for a Deployment of this name and its container of the recipe's name."""
    target = next(find_containers(make_deployment(build, name, namespace=namespace)))
    build = replace(build, container=without_delays(dict(build.container)))
    settings = [setting for setting in list_settings(build) if not setting.by_default]
    return make_patch(target, [*settings, *list_mount_changes(build, {}, {}), *list_after_restore_changes(build, {})])


def put_settings(pod: Block, container: Block, settings: Iterable[Setting]) -> None:
    """Set values at their paths, append items to their lists, and create missing mappings and lists."""
    for setting in settings:
        *path, key = setting.keys
        place = pod if setting.of_pod else container
        for step in path:
            if not isinstance(place.get(step), dict):
                place[step] = {}
            place = place[step]
        if not setting.item:
            place[key] = copy.deepcopy(setting.value)
        else:
            place[key] = [*list_at(place.get(key)), copy.deepcopy(setting.value)]


def _metadata(name: str, namespace: str | None, labels: dict[str, str]) -> Block:
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": dict(labels)}


def _service_port(port: dict[str, Any]) -> Block:
    number, protocol = port["containerPort"], port.get("protocol", "TCP")
    name = port.get("name") or f"{protocol.lower()}-{number}"
    return {"name": name, "port": number, "targetPort": port.get("name", number), "protocol": protocol}
