"""Settings of a pod that a restored container ignores. No change of the pod helps, so the user is warned. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from warmstart.core.privileges import list_options
from warmstart.core.yaml_document import shown
from warmstart.kube.after_restore import list_after_restore_warnings
from warmstart.kube.match import list_withheld
from warmstart.kube.mounts import list_mount_warnings
from warmstart.kube.probes import list_probe_warnings
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.pods import Block, list_at, mapping_at

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
    yield from list_mount_warnings(build, pod, container)
    yield from _list_of_container(container, build)
    yield from _list_privileges(build, pod, container)
    had = mapping_at(build.container, "resources", "limits")
    if others := [shown(name) for name in mapping_at(container, "resources", "limits") if name not in had]:
        yield f"resources.limits: the build had none of {', '.join(others)}, and the application started without"
    yield from list_probe_warnings(container)
    yield from list_after_restore_warnings(build, container)


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


def _list_of_container(container: Block, build: BuildInfo) -> Iterator[str]:
    if container.get("workingDir") and container["workingDir"] != build.container.get("workingDir"):
        yield "workingDir: a restored container goes on with what the build was started with"
    for key in ("stdin", "tty"):
        if container.get(key):
            yield f"{key}: the build had none, and a restored container has none either"


def _list_privileges(build: BuildInfo, pod: Block, container: Block) -> Iterator[str]:
    context = {**mapping_at(pod, "securityContext"), **mapping_at(container, "securityContext")}
    had: dict[str, Any] = {**mapping_at(build.container, "securityContext")}
    groups = {*map(str, [*list_at(had.get("supplementalGroups")), build.fs_group])} - {"None"}
    group = context.get("fsGroup")
    if group is not None and str(group) not in groups:
        yield f"securityContext.fsGroup: the build was not in the group {group}, and {_say_groups(build)}"
    others = {*map(str, list_at(context.get("supplementalGroups")))} - {str(group)}
    if others and not groups:
        yield f"securityContext.supplementalGroups: the build was in no such group, and {_say_groups(build)}"
    if not build.by_runtime:
        return
    if not any(mapping_at(had, "capabilities").values()):
        had.pop("capabilities", None)
    if build.user is not None:
        had["runAsUser"], had["runAsGroup"] = build.user
    for key, default in _PRIVILEGES.items():
        if key in context and key not in had and context[key] != default:
            yield f"securityContext.{key}: a restored process has it as in the build, and the recipe does not say it"
    for key, kind in (("seccompProfile", "filter"), ("appArmorProfile", "profile")):
        if mapping_at(context, key).get("type") in ("Unconfined", "Localhost"):
            yield f"securityContext.{key}: a restored process keeps the {kind} of the build, the runtime's default"


def _say_groups(build: BuildInfo) -> str:
    return "what is restored is not either" if build.by_runtime else "an image that restores itself starts cold"
