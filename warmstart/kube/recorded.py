"""Privileges in the manifest of a pod that an image carries, and the resulting pod. Pure.

The manifest comes from the author of the image. Every field of it is judged: a field that is not listed here is refused
like a privilege. Fields: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/.

Rights that any pod may have by default are not privileges: the service account `default`, a user other than 0, the
capabilities of the baseline Pod Security Standard, emptyDir, the downward API, placement relative to other pods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from warmstart.core.errors import ImageError
from warmstart.core.privileges import ORDINARY_CAPABILITIES, Kind, Privilege, name_capability

Rule = Callable[[Any, str], Iterator[Privilege]]

_MOST_LEVELS = 50

# kubectl keeps a copy of the manifest there, with the values of its variables.
_DROPPED_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
_ORDINARY_ANNOTATIONS = "kubectl.kubernetes.io/"
_ORDINARY_RESOURCES = ("cpu", "memory", "ephemeral-storage", "hugepages-")
# The API server gives these to every pod (DefaultTolerationSeconds).
_ORDINARY_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def list_pod_privileges(manifest: Mapping[str, Any], image: str, *, root: bool) -> list[Privilege]:
    """List the privileges that a pod asks for.

    Args:
        manifest: the pod from an image, as made by `strip_pod` and `make_copy`.
        image: the image's own name; every other image is a privilege.
        root: whether the image's configuration has its programs run as root; then asking for that is no privilege.

    Raises:
        ImageError: a value is not of the type that it has in Kubernetes.
    """
    _require_shallow(manifest, _MOST_LEVELS)
    return list(_pod(image, root=root)(manifest, ""))


def _require_shallow(value: Any, levels: int) -> None:
    if not levels:
        raise ImageError(f"the pod in the image is not understood: it is nested more than {_MOST_LEVELS} levels deep")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _require_shallow(inner, levels - 1)


def make_recorded_pod(manifest: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """Return the manifest to create, in the caller's namespace; its privileges have been allowed."""
    made: dict[str, Any] = {key: _without_nulls(manifest[key]) for key in ("metadata", "spec")}
    metadata = made["metadata"]
    metadata["namespace"] = namespace
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {key: value for key, value in annotations.items() if key not in _DROPPED_ANNOTATIONS}
    return {"apiVersion": "v1", "kind": "Pod", **made}


def _without_nulls(value: Any) -> Any:
    """Return a copy without null values, which count as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


# Rules


def _plain(value: Any, path: str) -> Iterator[Privilege]:
    """Accept any value."""
    del value, path
    return iter(())


def _expect(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, kind):
        name = "a mapping" if kind is dict else "a list" if kind is list else "a string"
        raise ImageError(f"the pod in the image is not understood: {path or 'it'} is not {name}")
    return value


def _fields(rules: Mapping[str, Rule]) -> Rule:
    """Judge a mapping with these fields. Null is the same as absent, for the API server too."""

    def rule(value: Any, path: str) -> Iterator[Privilege]:
        for key, inner in _expect(value, dict, path).items():
            at = f"{path}.{key}" if path else key
            if inner is None:
                continue
            if key in rules:
                yield from rules[key](inner, at)
            else:
                yield Privilege(Kind.FIELD, at, "this field is not known to be harmless")

    return rule


def _each(inner: Rule) -> Rule:
    """Judge a list; its items are identified by their names, if any."""

    def rule(value: Any, path: str) -> Iterator[Privilege]:
        for number, item in enumerate(_expect(value, list, path)):
            name = item.get("name") if isinstance(item, dict) else None
            yield from inner(item, f"{path}[{name if isinstance(name, str) else number}]")

    return rule


def _flag(kind: Kind) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Privilege]:
        if value is not False:
            yield Privilege(kind, why=f"{path} is true")

    return rule


def _named(kind: Kind, why: str = "", *, ordinary: Collection[str] = ()) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Privilege]:
        name = _expect(value, str, path)
        if name and name not in ordinary:
            yield Privilege(kind, name, f"{path}{why}")

    return rule


def _pairs(kind: Kind, why: str) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Privilege]:
        for key, text in _expect(value, dict, path).items():
            yield Privilege(kind, f"{key}={text}", why)

    return rule


def _annotations(value: Any, path: str) -> Iterator[Privilege]:
    for key in _expect(value, dict, path):
        if not key.startswith(_ORDINARY_ANNOTATIONS):
            yield Privilege(Kind.ANNOTATION, key, "runtimes, networks and admission webhooks obey annotations")


def _port(value: Any, path: str) -> Iterator[Privilege]:
    if value:
        yield Privilege(Kind.HOST_PORT, str(value), f"{path} is a port of the node")


def _amounts(value: Any, path: str) -> Iterator[Privilege]:
    for name in _expect(value, dict, path):
        if not name.startswith(_ORDINARY_RESOURCES):
            yield Privilege(Kind.RESOURCE, name, f"{path} asks for a device of the node")


def _capabilities(value: Any, path: str) -> Iterator[Privilege]:
    for name in _expect(value, list, path):
        if (capability := name_capability(_expect(name, str, path))) not in ORDINARY_CAPABILITIES:
            yield Privilege(Kind.CAPABILITY, capability, path)


def _texts(value: Any, path: str) -> Iterator[Privilege]:
    for name in _expect(value, list, path):
        _expect(name, str, path)
    return iter(())


def _profile(kind: Kind) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Privilege]:
        profile = _expect(value, dict, path)
        kept = str(profile.get("type"))
        if kept != "RuntimeDefault":
            where = f"/{profile['localhostProfile']}" if profile.get("localhostProfile") else ""
            yield Privilege(kind, kept + where, path)

    return rule


def _selinux(value: Any, path: str) -> Iterator[Privilege]:
    label = _expect(value, dict, path)
    if label:
        yield Privilege(
            Kind.SELINUX, ":".join(str(label.get(key, "")) for key in ("user", "role", "type", "level")), path
        )


def _affinity_to_nodes(value: Any, path: str) -> Iterator[Privilege]:
    required = _expect(value, dict, path).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        for term in _expect(_expect(required, dict, path).get("nodeSelectorTerms"), list, path):
            _expect(term, dict, path)
    if value:
        yield Privilege(Kind.NODE_AFFINITY, why=f"{path} chooses nodes")


def _toleration(value: Any, path: str) -> Iterator[Privilege]:
    toleration = _expect(value, dict, path)
    key = toleration.get("key")
    if key not in _ORDINARY_TOLERATIONS or toleration.get("effect") != "NoExecute":
        yield Privilege(Kind.TOLERATION, str(key or "*"), f"{path}: nodes may be reserved for others by it")


def _token(value: Any, path: str) -> Iterator[Privilege]:
    audience = _expect(value, dict, path).get("audience")
    yield Privilege(Kind.TOKEN, str(audience or "kubernetes"), f"{path} is a token of the service account")


def _other_image(image: str, why: str) -> Rule:
    return _named(Kind.IMAGE, why, ordinary={image})


def _volume(image: str) -> Rule:
    named = {
        "hostPath": _fields({"path": _named(Kind.HOST_PATH, " is a path of the node"), "type": _plain}),
        "secret": _fields({"secretName": _named(Kind.SECRET), **dict.fromkeys(_MODES, _plain)}),
        "configMap": _fields({"name": _named(Kind.CONFIG_MAP), **dict.fromkeys(_MODES, _plain)}),
        "persistentVolumeClaim": _fields({"claimName": _named(Kind.CLAIM), "readOnly": _plain}),
        "image": _fields({"reference": _other_image(image, " is another image"), "pullPolicy": _plain}),
        "projected": _fields({"defaultMode": _plain, "sources": _each(_SOURCE)}),
        **dict.fromkeys(("name", "emptyDir", "downwardAPI"), _plain),
    }

    def rule(value: Any, path: str) -> Iterator[Privilege]:
        volume = _expect(value, dict, path)
        yield from _fields(named)({key: inner for key, inner in volume.items() if key in named}, path)
        for key in volume.keys() - named.keys():
            if volume[key] is not None:
                yield Privilege(Kind.VOLUME, key, f"{path} is a volume of this type")

    return rule


_MODES = ("items", "defaultMode", "optional")
_REFERENCE = ("key", "optional")
_SECRET_KEY = _fields({"name": _named(Kind.SECRET), **dict.fromkeys(_REFERENCE, _plain)})
_CONFIG_KEY = _fields({"name": _named(Kind.CONFIG_MAP), **dict.fromkeys(_REFERENCE, _plain)})
_SOURCE = _fields(
    {
        "secret": _fields({"name": _named(Kind.SECRET), **dict.fromkeys(_MODES, _plain)}),
        "configMap": _fields({"name": _named(Kind.CONFIG_MAP), **dict.fromkeys(_MODES, _plain)}),
        "serviceAccountToken": _token,
        **dict.fromkeys(("downwardAPI", "clusterTrustBundle"), _plain),
    }
)
_ENV = _fields(
    {
        "name": _plain,
        "value": _plain,
        "valueFrom": _fields(
            {
                "secretKeyRef": _SECRET_KEY,
                "configMapKeyRef": _CONFIG_KEY,
                **dict.fromkeys(("fieldRef", "resourceFieldRef", "fileKeyRef"), _plain),
            }
        ),
    }
)
_ENV_FROM = _fields({"prefix": _plain, "secretRef": _SECRET_KEY, "configMapRef": _CONFIG_KEY})
_RESOURCES = _fields(
    {
        "limits": _amounts,
        "requests": _amounts,
        "claims": _each(_fields({"name": _named(Kind.RESOURCE_CLAIM), "request": _plain})),
    }
)
_RESOURCE_CLAIM = _fields(
    {
        "name": _named(Kind.RESOURCE_CLAIM),
        "resourceClaimName": _named(Kind.RESOURCE_CLAIM),
        "resourceClaimTemplateName": _named(Kind.RESOURCE_CLAIM),
    }
)
_HOST = _named(Kind.PROBE_HOST, ": the kubelet would ask this host")
_HANDLER = {
    "httpGet": _fields({"host": _HOST, **dict.fromkeys(("path", "port", "scheme", "httpHeaders"), _plain)}),
    "tcpSocket": _fields({"host": _HOST, "port": _plain}),
    **dict.fromkeys(("exec", "grpc", "sleep"), _plain),
}
_PROBE = _fields(
    {
        **_HANDLER,
        **dict.fromkeys(
            (
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
                "terminationGracePeriodSeconds",
            ),
            _plain,
        ),
    }
)
_LIFECYCLE = _fields({"postStart": _fields(_HANDLER), "preStop": _fields(_HANDLER), "stopSignal": _plain})
_MOUNT = _fields(
    {
        "mountPropagation": _named(Kind.MOUNT_PROPAGATION, ordinary={"None", "HostToContainer"}),
        **dict.fromkeys(("name", "mountPath", "readOnly", "recursiveReadOnly", "subPath", "subPathExpr"), _plain),
    }
)


def _root(*, ordinary: bool) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Privilege]:
        if value == 0 and not ordinary:
            yield Privilege(Kind.ROOT, why=f"{path} is 0")

    return rule


def _context(*, root: bool) -> dict[str, Rule]:
    """Return the rules for fields that security contexts of pods and containers share."""
    return {
        "runAsUser": _root(ordinary=root),
        "seccompProfile": _profile(Kind.SECCOMP),
        "appArmorProfile": _profile(Kind.APPARMOR),
        "seLinuxOptions": _selinux,
        **dict.fromkeys(("runAsGroup", "runAsNonRoot"), _plain),
    }


def _container(image: str, *, root: bool) -> Rule:
    context = _fields(
        {
            **_context(root=root),
            "privileged": _flag(Kind.PRIVILEGED),
            "allowPrivilegeEscalation": _flag(Kind.PRIVILEGE_ESCALATION),
            "capabilities": _fields({"add": _capabilities, "drop": _texts}),
            "procMount": _named(Kind.PROC_MOUNT, ordinary={"Default"}),
            "readOnlyRootFilesystem": _plain,
        }
    )
    return _fields(
        {
            "image": _other_image(image, " is another image"),
            "env": _each(_ENV),
            "envFrom": _each(_ENV_FROM),
            "ports": _each(
                _fields({"hostPort": _port, **dict.fromkeys(("name", "containerPort", "hostIP", "protocol"), _plain)})
            ),
            "resources": _RESOURCES,
            "volumeMounts": _each(_MOUNT),
            "lifecycle": _LIFECYCLE,
            "securityContext": context,
            **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe"), _PROBE),
            **dict.fromkeys(_PLAIN_OF_CONTAINERS, _plain),
        }
    )


def _containers(image: str, *, root: bool) -> Rule:
    """Return the rule for the restored container and the others; the users of their images are unknown here."""
    own, other = _container(image, root=root), _container(image, root=False)

    def rule(value: Any, path: str) -> Iterator[Privilege]:
        return (own if _expect(value, dict, path).get("image") == image else other)(value, path)

    return rule


# A block device is a claim, and is judged as a volume.
_PLAIN_OF_CONTAINERS = (
    "name",
    "command",
    "args",
    "workingDir",
    "imagePullPolicy",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "stdin",
    "stdinOnce",
    "tty",
    "restartPolicy",
    "restartPolicyRules",
    "resizePolicy",
    "volumeDevices",
)
# Processes that share their ids are those of one pod, and whether a pod has a user namespace can only restrict it.
_PLAIN_OF_PODS = (
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostUsers",
    "hostname",
    "os",
    "overhead",
    "readinessGates",
    "restartPolicy",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
)


def _spec(image: str, *, root: bool) -> Rule:
    context = _fields(
        {
            **_context(root=root),
            "sysctls": _each(_fields({"name": _named(Kind.SYSCTL), "value": _plain})),
            **dict.fromkeys(
                (
                    "fsGroup",
                    "fsGroupChangePolicy",
                    "supplementalGroups",
                    "supplementalGroupsPolicy",
                    "seLinuxChangePolicy",
                ),
                _plain,
            ),
        }
    )
    containers = _each(_containers(image, root=root))
    near = {"nodeAffinity": _affinity_to_nodes, **dict.fromkeys(("podAffinity", "podAntiAffinity"), _plain)}
    return _fields(
        {
            "containers": containers,
            "initContainers": containers,
            "volumes": _each(_volume(image)),
            "securityContext": context,
            "hostNetwork": _flag(Kind.HOST_NETWORK),
            "hostPID": _flag(Kind.HOST_PID),
            "hostIPC": _flag(Kind.HOST_IPC),
            "serviceAccountName": _named(Kind.SERVICE_ACCOUNT, ordinary={"default"}),
            "serviceAccount": _named(Kind.SERVICE_ACCOUNT, ordinary={"default"}),
            "imagePullSecrets": _each(_fields({"name": _named(Kind.PULL_SECRET)})),
            "nodeName": _named(Kind.NODE),
            "nodeSelector": _pairs(Kind.NODE_SELECTOR, "it chooses nodes"),
            "affinity": _fields(near),
            "tolerations": _each(_toleration),
            "priorityClassName": _named(Kind.PRIORITY_CLASS, ": others may be evicted for it"),
            "runtimeClassName": _named(Kind.RUNTIME_CLASS),
            "schedulerName": _named(Kind.SCHEDULER, ordinary={"default-scheduler"}),
            "resources": _RESOURCES,
            "resourceClaims": _each(_RESOURCE_CLAIM),
            **dict.fromkeys(_PLAIN_OF_PODS, _plain),
        }
    )


def _pod(image: str, *, root: bool) -> Rule:
    return _fields(
        {
            **dict.fromkeys(("apiVersion", "kind"), _plain),
            "metadata": _fields(
                {
                    # The namespace is replaced by the caller's.
                    **dict.fromkeys(("name", "namespace"), _plain),
                    "labels": _pairs(Kind.LABEL, "Services, NetworkPolicies and controllers select pods by labels"),
                    "annotations": _annotations,
                }
            ),
            "spec": _spec(image, root=root),
        }
    )
