"""Settings of a pod that a restored container ignores. No change of the pod helps, so the user is warned. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from warmstart.core.privileges import list_options
from warmstart.core.yaml_document import shown
from warmstart.kube.match import KUBELET_MOUNTS, TOKEN, BuildInfo, list_withheld
from warmstart.recipe.model import Restorer
from warmstart.recipe.pods import Block, list_others, mapping_at

_NAMESPACES = {
    "hostNetwork": "a network of its own",
    "hostPID": "process ids of its own",
    "hostIPC": "System V IPC of its own",
    "shareProcessNamespace": "process ids of its own",
}
# Keys of a security context that a restored process has from the build, and their defaults.
_PRIVILEGES = {
    "runAsUser": None,
    "runAsGroup": None,
    "capabilities": None,
    "privileged": False,
    "readOnlyRootFilesystem": False,
    "allowPrivilegeEscalation": True,
}


def list_warnings(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    """Describe settings of the pod that a restored container ignores, a sentence each.

    Args:
        build: the image.
        pod: the pod's specification.
        container: the container to restore.
    """
    yield from _list_withheld(build, pod, container)
    yield from _list_of_pod(pod)
    yield from _list_mounts(build, pod, container)
    yield from _list_command(build, container)
    yield from _list_environment(build, container)
    yield from _list_privileges(build, pod, container)
    had = mapping_at(build.container, "resources", "limits")
    if others := [shown(name) for name in mapping_at(container, "resources", "limits") if name not in had]:
        yield f"resources.limits: the build had none of {', '.join(others)}, and the application started without"
    if delay := mapping_at(container, "readinessProbe").get("initialDelaySeconds"):
        yield f"readinessProbe.initialDelaySeconds: a restored container, ready at once, waits {delay} s to be asked"


def _list_withheld(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    for setting, refused in list_withheld(build, pod, container):
        key, value, options = ".".join(setting.keys), shown(json.dumps(setting.value)), " ".join(list_options(refused))
        yield f"{key}: the image asks for {value}; set it yourself if it may have that, or add {options}"


def _list_of_pod(pod: Block) -> Iterator[str]:
    for key, had in _NAMESPACES.items():
        if pod.get(key):
            yield f"{key}: the build had {had}, and a restored container must have, too"
    if pod.get("hostUsers") is False:
        yield "hostUsers: the build had no user namespace of its own, and a restored container must have none either"
    if handler := pod.get("runtimeClassName"):
        yield f"runtimeClassName: {shown(str(handler))} must restore what runc dumped"


def _list_mounts(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    if Restorer.RUNTIME not in build.restorers:
        return
    mounts = container.get("volumeMounts")
    wanted = [str(mount.get("mountPath")) for mount in mounts if isinstance(mount, Mapping)] if mounts else []
    for path in wanted:
        if path.rstrip("/") not in build.mounts:
            yield f"volumeMounts: {shown(path)} is not there in a restored container: the build had no such mount"
    for path in build.mounts:
        if path not in {*KUBELET_MOUNTS, *(path.rstrip("/") for path in wanted)}:
            yield f"volumeMounts: {shown(path)} is missing: the build had this mount, and is not restored without it"
    if pod.get(TOKEN) is not False and (others := list_others(pod, container)):
        names = shown(", ".join(others))
        yield f"{TOKEN}: a restored container sees no token; set it to false if {names} can do without one, too"
    if container.get("volumeDevices"):
        yield "volumeDevices: the build had no block device, and a restored container sees none"


def _list_command(build: BuildInfo, container: Block) -> Iterator[str]:
    for key in ("command", "args", "workingDir"):
        if container.get(key) and container[key] != build.container.get(key):
            yield f"{key}: a restored container goes on with what the build was started with"
            if key == "args" and Restorer.SELF in build.restorers:
                yield "args: other ones than the build's make an image that restores itself start cold"
    for key in ("stdin", "tty"):
        if container.get(key):
            yield f"{key}: the build had none, and a restored container has none either"


def _list_environment(build: BuildInfo, container: Block) -> Iterator[str]:
    """Show only names: values may be secrets."""
    if container.get("envFrom"):
        yield "envFrom: a restored container has the environment of the build, without these"
    had = {variable["name"]: variable.get("value", "") for variable in build.container.get("env") or ()}
    others = [name for name, value in _variables(container) if name not in had or value != had[name]]
    if others:
        names = shown(", ".join(others), 400)
        yield f"env: a restored container has the environment of the build; not heeded: {names}"


def _variables(container: Block) -> Iterator[tuple[str, str | None]]:
    for variable in container.get("env") or ():
        if isinstance(variable, Mapping):
            value = variable.get("value")
            yield str(variable.get("name")), None if "valueFrom" in variable else "" if value is None else str(value)


def _list_privileges(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    context = {**mapping_at(pod, "securityContext"), **mapping_at(container, "securityContext")}
    had: dict[str, Any] = {**mapping_at(build.container, "securityContext")}
    group = context.get("fsGroup")
    if group is not None and group not in had.get("supplementalGroups", ()):
        yield f"securityContext.fsGroup: the build was not in the group {group}, and what is restored is not either"
    if Restorer.RUNTIME not in build.restorers:
        return
    if build.user is not None:
        had["runAsUser"], had["runAsGroup"] = build.user
    for key, default in _PRIVILEGES.items():
        if key in context and key not in had and context[key] != default:
            yield f"securityContext.{key}: a restored process has it as in the build, and the recipe does not say it"
    if mapping_at(context, "seccompProfile").get("type") in ("Unconfined", "Localhost"):
        yield "securityContext.seccompProfile: a restored process keeps the filter of the build, the runtime's default"
