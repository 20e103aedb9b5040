"""Settings that a pod needs to be restored from an image, derived from the build. Pure.

The influence of runtime and pod on a restored container was tested with CRI-O (docs/how-to/deploy.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from warmstart.core.privileges import ALL, ORDINARY_CAPABILITIES, Kind, Privilege, list_refused, name_capability
from warmstart.core.quantity import parse_quantity
from warmstart.kube.after_restore import list_after_restore_changes
from warmstart.kube.mounts import list_mount_changes
from warmstart.kube.probes import list_delay_changes, with_known_ports, without_delays
from warmstart.kube.recorded import list_pod_privileges
from warmstart.kube.settings import TERMINATION_LOG, TOKEN, TOKEN_MOUNT, BuildInfo, Setting
from warmstart.recipe.pods import Block, list_at, list_others, mapping_at

#: Prefix of Node Feature Discovery for a feature of the processor.
CPU_LABEL_PREFIX = "feature.node.kubernetes.io/cpu-cpuid."

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
_VOLUMES = "the volumes of the build were this group's, and the restored process is in it"
_PROBE = "the pod has none, and counts as ready before it is"


def list_settings(build: BuildInfo, fs_group: int | None = None) -> Iterator[Setting]:
    """Return all settings that a pod needs to be restored from the image.

    Args:
        build: the image.
        fs_group: group of the pod's volumes, if it is another one than the build's.
    """
    by_runtime = build.by_runtime
    if by_runtime and TOKEN_MOUNT not in build.mounts:
        yield Setting((TOKEN,), False, _NO_TOKEN, of_pod=True)
    if build.architecture:
        yield Setting(("nodeSelector", "kubernetes.io/arch"), build.architecture, _ARCHITECTURE, of_pod=True)
    for feature in build.cpu_features:
        yield Setting(("nodeSelector", CPU_LABEL_PREFIX + feature), "true", _CPU, of_pod=True)
    yield Setting(("image",), build.image, _BY_NAME if by_runtime else _BY_DIGEST)
    if build.by_itself:
        yield Setting(("command",), None, _ENTRYPOINT, by_default=True)
    yield from _list_groups(build, fs_group)
    yield from _list_privileges(build)
    for name, limit in mapping_at(build.container, "resources", "limits").items():
        yield Setting(("resources", "limits", name), limit, _SIZED)
    if by_runtime:
        yield Setting(("terminationMessagePath",), TERMINATION_LOG, _LOG_MOUNT, by_default=True)
    for probe in ("startupProbe", "readinessProbe"):
        if probe in build.container:
            yield Setting((probe,), build.container[probe], _PROBE, or_other=True)


def _list_groups(build: BuildInfo, fs_group: int | None) -> Iterator[Setting]:
    """A process is in the group of its volumes as well, so that the pod need not name it again."""
    if build.fs_group is not None:
        yield Setting(("securityContext", "fsGroup"), build.fs_group, _VOLUMES, of_pod=True, or_other=True)
    given = build.fs_group if fs_group is None else fs_group
    named = mapping_at(build.container, "securityContext").get("supplementalGroups") or ()
    if groups := [group for group in named if group != given]:
        reason = _GROUPS if build.by_runtime else _SAME_USER
        yield Setting(("securityContext", "supplementalGroups"), groups, reason, of_pod=True)


def _list_privileges(build: BuildInfo) -> Iterator[Setting]:
    """A runtime restores all of them; an image that restores itself has those of its pod, but must be the same user."""
    context = dict(mapping_at(build.container, "securityContext"))
    context.pop("supplementalGroups", None)
    if build.user is not None:
        context["runAsUser"], context["runAsGroup"] = build.user
    for key, value in context.items():
        if key == "capabilities" and not _canonical((key,), value):
            # It says nothing, and the pod may well drop some.
            continue
        if build.by_runtime or key in ("runAsUser", "runAsGroup"):
            yield Setting(("securityContext", key), value, _PRIVILEGES if build.by_runtime else _SAME_USER)


def find_changes(build: BuildInfo, pod: Block, container: Block) -> list[Setting]:
    """Return the values that a pod lacks to be restored from an image, and ready at once.

    Pods with other containers keep the token of their service account, because it belongs to all of them. If the build
    had none, the restored container does not see it.

    A change that would give the pod a privilege because the image asks for it is left out: see `list_withheld`.

    Args:
        build: the image.
        pod: the pod's specification.
        container: the container to restore.

    Raises:
        ManifestError: a pod cannot do the recipe's steps after a restore.
    """
    found = _list_differences(build, pod, container)
    refused = [change for change in found if _refuse(build, pod, container, change)]
    volumes = {change.value["name"] for change in refused if change.keys == ("volumes",)}
    changes = [
        _fit(build, container, change)
        for change in found
        if change not in refused and not (change.keys == ("volumeMounts",) and change.value["name"] in volumes)
    ]
    if list_others(pod, container):
        changes = [change for change in changes if change.keys != (TOKEN,)]
    limits = {change.keys[-1]: change.value for change in changes if change.keys[:2] == ("resources", "limits")}
    for name, request in mapping_at(container, "resources", "requests").items():
        if name in limits and _is_more(request, limits[name]):
            changes.append(Setting(("resources", "requests", name), limits[name], _REQUEST))
    return changes


def _fit(build: BuildInfo, container: Block, change: Setting) -> Setting:
    """Return a change that means the same in another container."""
    key = change.keys[-1]
    if key in ("startupProbe", "readinessProbe"):
        probe = with_known_ports(change.value, build.container.get("ports"), container.get("ports"))
        return replace(change, value=without_delays({key: probe})[key])
    return change


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
    group = mapping_at(pod, "securityContext").get("fsGroup")
    return [
        *(setting for setting in list_settings(build, group) if not _has(pod, container, setting)),
        *list_mount_changes(build, pod, container),
        *list_delay_changes(container),
        *list_after_restore_changes(build, container),
    ]


def _refuse(build: BuildInfo, pod: Block, container: Block, setting: Setting) -> tuple[Privilege, ...]:
    if build.allowed is None:
        return ()
    context = {**mapping_at(pod, "securityContext"), **mapping_at(container, "securityContext")}
    return list_refused(list_gains(context, setting), build.allowed)


def list_gains(context: Mapping[str, Any], setting: Setting) -> Iterator[Privilege]:
    """List the privileges that a setting gives to a container with this security context."""
    key, value, why = setting.keys[-1], setting.value, ".".join(setting.keys)
    if setting.keys[0] != "securityContext":
        yield from _list_other_gains(setting)
    elif key == "capabilities":
        had = list_capabilities(context.get(key))
        for name in sorted(list_capabilities(value) - had) if ALL not in had else ():
            yield Privilege(Kind.CAPABILITY, name, why)
    elif key == "supplementalGroups":
        own = {*map(str, list_at(context.get(key))), str(context.get("fsGroup"))}
        yield from (Privilege(Kind.GROUP, str(one), why) for one in sorted(map(int, value)) if str(one) not in own)
    elif key == "fsGroup":
        yield Privilege(Kind.GROUP, str(value), why)
    elif key in _LOOSE:
        loose, default, privilege = _LOOSE[key]
        if value == loose and context.get(key, default) != value:
            yield replace(privilege, why=why)


def _list_other_gains(setting: Setting) -> Iterator[Privilege]:
    """List the objects of a volume, and other hosts that the kubelet would ask."""
    if setting.keys == ("volumes",):
        yield from list_pod_privileges({"spec": {"volumes": [setting.value]}}, "", root=False)
    for handler in ("httpGet", "tcpSocket"):
        if host := mapping_at(setting.value, handler).get("host"):
            yield Privilege(Kind.PROBE_HOST, str(host), ".".join(setting.keys))


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
        {name_capability(str(name)) for name in list_at(mapping_at({"": changes}, "").get(key))}
        for key in ("add", "drop")
    )
    return frozenset((set() if ALL in dropped else ORDINARY_CAPABILITIES - dropped) | added)


def _has(pod: Block, container: Block, setting: Setting) -> bool:
    *path, key = setting.keys
    found = mapping_at(pod if setting.of_pod else container, *path).get(key)
    if found is None and path == ["securityContext"]:
        found = mapping_at(pod, *path).get(key)
    if found is None:
        return setting.by_default
    if key == "supplementalGroups" and isinstance(found, list):
        found = [group for group in found if group != mapping_at(pod, *path).get("fsGroup")]
    return setting.or_other or _canonical(setting.keys, found) == _canonical(setting.keys, setting.value)


def _canonical(keys: Sequence[str], value: Any) -> Any:
    """Return a canonical form: equal for values that mean the same."""
    if keys[0] == "resources":
        return _amount(value)
    if keys[-1] == "capabilities" and isinstance(value, dict):
        named = {key: {name_capability(str(name)) for name in list_at(names)} for key, names in value.items()}
        return {key: {ALL} if ALL in names else names for key, names in named.items() if names}
    return sorted(map(str, value)) if isinstance(value, list) else value


def _is_more(one: Any, other: Any) -> bool:
    try:
        return parse_quantity(one) > parse_quantity(other)
    except ValueError:
        return False


def _amount(value: Any) -> Any:
    """Return the value of a quantity; text that is none stays as it is, and the API server refuses it."""
    try:
        return parse_quantity(value)
    except ValueError:
        return value
