"""Settings that a pod needs to be restored from an image, derived from the build. Pure.

The influence of runtime and pod on a restored container was tested with CRI-O (docs/how-to/deploy.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warmstart.core.privileges import ALL, ORDINARY_CAPABILITIES, Kind, Privilege, list_refused, name_capability
from warmstart.core.quantity import parse_quantity
from warmstart.recipe.model import Restorer
from warmstart.recipe.pods import Block, list_others, mapping_at

TERMINATION_LOG = "/dev/termination-log"
#: Mounts that the kubelet gives to every container.
KUBELET_MOUNTS = frozenset({"/etc/hosts", TERMINATION_LOG})

#: Prefix of Node Feature Discovery for a feature of the processor.
CPU_LABEL_PREFIX = "feature.node.kubernetes.io/cpu-cpuid."

TOKEN = "automountServiceAccountToken"  # noqa: S105 - no password
_NO_TOKEN = "the build has no mount of a token, and a restored container would not see one"  # noqa: S105 - no password
_BY_NAME = "the runtime looks the image up by the name that it was built with"
_BY_DIGEST = "the image restores itself, and a digest cannot be moved"
_ARCHITECTURE = "a checkpoint is of one architecture"
_CPU = "the processor of the build has it, and the application may have chosen it at its start"
_SIZED = "the application sized itself by it when it was built"
_REQUEST = "a request may not be above the limit"
_PRIVILEGES = "the restored process has it from the build, whatever the pod says"
_GROUPS = "the restored process is in these groups of the build, whatever the pod says"
_SAME_USER = "the image restores itself only as the user of the build"
_ENTRYPOINT = "this would replace the image's entrypoint, and so the restore"
_LOG_MOUNT = "the build has this mount at its default place, and is not restored without it"
_PROBE = "the pod has none, and counts as ready before it is"


@dataclass(frozen=True)
class BuildInfo:
    """The build of an image, as far as pods must match it.

    Attributes:
        name: the recipe's name.
        image: the image in the pod's manifest.
        container: the recipe's `container`, in the words of Kubernetes.
        restorers: who restores the image.
        user: user id and group id of the process in the checkpoint; None when only the recipe is known.
        mounts: mount points of the checkpoint, without those of every container.
        architecture: of the checkpoint, in Go's words; empty when only the recipe is known.
        cpu_features: features that nodes need, named as by Node Feature Discovery.
        allowed: privileges that the image may give a pod; None for the user's own recipe, where all are allowed.
    """

    name: str
    image: str
    container: Mapping[str, Any]
    restorers: tuple[str, ...] = (Restorer.RUNTIME,)
    user: tuple[int, int] | None = None
    mounts: tuple[str, ...] = ()
    architecture: str = ""
    cpu_features: tuple[str, ...] = ()
    allowed: tuple[Privilege, ...] | None = None


@dataclass(frozen=True)
class Setting:
    """A value that a pod must have.

    Attributes:
        keys: path, from the container, or from the pod's specification.
        value: the value; None if there must be none.
        reason: the reason.
        of_pod: whether it is the pod's, not the container's.
        by_default: whether it is the default of a pod.
        or_other: whether any other value is fine.
    """

    keys: tuple[str, ...]
    value: Any
    reason: str
    of_pod: bool = False
    by_default: bool = False
    or_other: bool = False


def list_settings(build: BuildInfo) -> Iterator[Setting]:
    """Return all settings that a pod needs to be restored from the image."""
    by_runtime = Restorer.RUNTIME in build.restorers
    if by_runtime:
        yield Setting((TOKEN,), False, _NO_TOKEN, of_pod=True)
    if build.architecture:
        yield Setting(("nodeSelector", "kubernetes.io/arch"), build.architecture, _ARCHITECTURE, of_pod=True)
    for feature in build.cpu_features:
        yield Setting(("nodeSelector", CPU_LABEL_PREFIX + feature), "true", _CPU, of_pod=True)
    yield Setting(("image",), build.image, _BY_NAME if by_runtime else _BY_DIGEST)
    if Restorer.SELF in build.restorers:
        yield Setting(("command",), None, _ENTRYPOINT, by_default=True)
    yield from _list_privileges(build)
    for name, limit in mapping_at(build.container, "resources", "limits").items():
        yield Setting(("resources", "limits", name), limit, _SIZED)
    if by_runtime:
        yield Setting(("terminationMessagePath",), TERMINATION_LOG, _LOG_MOUNT, by_default=True)
    for probe in ("startupProbe", "readinessProbe"):
        if probe in build.container:
            yield Setting((probe,), build.container[probe], _PROBE, or_other=True)


def _list_privileges(build: BuildInfo) -> Iterator[Setting]:
    """A runtime restores all of them; an image that restores itself has those of its pod, but must be the same user."""
    by_runtime = Restorer.RUNTIME in build.restorers
    context = dict(mapping_at(build.container, "securityContext"))
    if groups := context.pop("supplementalGroups", None):
        yield Setting(
            ("securityContext", "supplementalGroups"), groups, _GROUPS if by_runtime else _SAME_USER, of_pod=True
        )
    if build.user is not None:
        context["runAsUser"], context["runAsGroup"] = build.user
    for key, value in context.items():
        if by_runtime or key in ("runAsUser", "runAsGroup"):
            yield Setting(("securityContext", key), value, _PRIVILEGES if by_runtime else _SAME_USER)


def find_changes(build: BuildInfo, pod: Block, container: Block) -> list[Setting]:
    """Return the settings of `list_settings` that a pod lacks.

    Pods with other containers keep the token of their service account, because it belongs to all of them. If the build
    had none, the restored container does not see it.

    A change that would give the pod a privilege because the image asks for it is left out: see `list_withheld`.

    Args:
        build: the image.
        pod: the pod's specification.
        container: the container to restore.
    """
    changes = [
        setting for setting in _list_differences(build, pod, container) if not _refuse(build, pod, container, setting)
    ]
    if list_others(pod, container):
        changes = [change for change in changes if change.keys != (TOKEN,)]
    limits = {change.keys[-1]: change.value for change in changes if change.keys[:2] == ("resources", "limits")}
    for name, request in mapping_at(container, "resources", "requests").items():
        if name in limits and _amount(request) > _amount(limits[name]):
            changes.append(Setting(("resources", "requests", name), limits[name], _REQUEST))
    return changes


def list_withheld(build: BuildInfo, pod: Block, container: Block) -> list[tuple[Setting, tuple[Privilege, ...]]]:
    """Return the settings of `list_settings` that a pod lacks and may not have.

    Args:
        build: the image.
        pod: the pod's specification.
        container: the container to restore.

    Returns:
        The settings, and the privileges that the user has not allowed.
    """
    found = [(one, _refuse(build, pod, container, one)) for one in _list_differences(build, pod, container)]
    return [(setting, refused) for setting, refused in found if refused]


def _list_differences(build: BuildInfo, pod: Block, container: Block) -> list[Setting]:
    return [setting for setting in list_settings(build) if not _has(pod, container, setting)]


def _refuse(build: BuildInfo, pod: Block, container: Block, setting: Setting) -> tuple[Privilege, ...]:
    if build.allowed is None:
        return ()
    context = {**mapping_at(pod, "securityContext"), **mapping_at(container, "securityContext")}
    return list_refused(list_gains(context, setting), build.allowed)


def list_gains(context: Mapping[str, Any], setting: Setting) -> Iterator[Privilege]:
    """List the privileges that a setting gives to a container with this security context."""
    key, value, why = setting.keys[-1], setting.value, ".".join(setting.keys)
    if setting.keys[0] != "securityContext":
        for handler in ("httpGet", "tcpSocket"):
            if host := mapping_at({key: value}, key, handler).get("host"):
                yield Privilege(Kind.PROBE_HOST, str(host), why)
    elif key == "capabilities":
        had = list_capabilities(context.get(key))
        for name in sorted(list_capabilities(value) - had) if ALL not in had else ():
            yield Privilege(Kind.CAPABILITY, name, why)
    elif key == "supplementalGroups":
        for group in sorted({*map(int, value)} - {*context.get(key, ())}):
            yield Privilege(Kind.GROUP, str(group), why)
    elif key in _LOOSE:
        loose, default, privilege = _LOOSE[key]
        if value == loose and context.get(key, default) != value:
            yield replace(privilege, why=why)


# The value of a key that is less strict than others, the key's default, and the privilege.
_LOOSE: dict[str, tuple[Any, Any, Privilege]] = {
    "privileged": (True, False, Privilege(Kind.PRIVILEGED)),
    "allowPrivilegeEscalation": (True, True, Privilege(Kind.PRIVILEGE_ESCALATION)),
    "readOnlyRootFilesystem": (False, False, Privilege(Kind.WRITABLE_ROOT)),
    "runAsUser": (0, None, Privilege(Kind.ROOT)),
    "runAsGroup": (0, None, Privilege(Kind.GROUP, "0")),
    "runAsNonRoot": (False, False, Privilege(Kind.ROOT)),
}


def list_capabilities(changes: Any) -> frozenset[str]:
    """Return the capabilities of a container with these changes to the ordinary ones."""
    added, dropped = (
        {name_capability(str(name)) for name in mapping_at({"": changes}, "").get(key) or ()} for key in ("add", "drop")
    )
    return frozenset((set() if ALL in dropped else ORDINARY_CAPABILITIES - dropped) | added)


def _has(pod: Block, container: Block, setting: Setting) -> bool:
    *path, key = setting.keys
    found = mapping_at(pod if setting.of_pod else container, *path).get(key)
    if found is None and path == ["securityContext"]:
        found = mapping_at(pod, *path).get(key)
    if found is None:
        return setting.by_default
    return setting.or_other or _canonical(setting.keys, found) == _canonical(setting.keys, setting.value)


def _canonical(keys: Sequence[str], value: Any) -> Any:
    """Return a canonical form: equal for values that mean the same."""
    if keys[0] == "resources":
        return _amount(value)
    if keys[-1] == "capabilities" and isinstance(value, dict):
        return {key: sorted(map(str, names or ())) for key, names in value.items() if names}
    return sorted(map(str, value)) if isinstance(value, list) else value


def _amount(value: Any) -> Any:
    """Return the value of a quantity; text that is none stays as it is, and the API server refuses it."""
    try:
        return parse_quantity(value)
    except ValueError:
        return value
