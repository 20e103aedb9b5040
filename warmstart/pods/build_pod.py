"""The pod of a build in a cluster, and the parts of a recipe that such a build cannot do. No I/O.

The pod has the values of the build, as every build: never those of the ConfigMaps, Secrets and claims in the cluster
that have the recipe's names. Values that the recipe does not spell out are in a Secret beside the pod, not in its
manifest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.errors import RecipeError
from warmstart.core.reference import Transport
from warmstart.core.yaml_document import dotted, walk
from warmstart.kube.manifests import make_pod_spec
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.complete import BLANKED
from warmstart.recipe.model import Hooks, OnDifference, Recipe, Restorer, Signal, Volume, VolumeKind, VolumeMount
from warmstart.recipe.pods import Block, blocks_at

# Of all values of a Secret together (`MaxSecretSize` in pkg/apis/core/types.go of kubernetes/kubernetes).
LIMIT_BYTES = 1 << 20
# Keys of the recipe's container that are replaced by the values of the build.
_REPLACED = frozenset({"env", "envFrom", "volumeMounts"})


@dataclass
class BuildPod:
    """The specification of a build's pod, and the values of the Secret that it refers to, in base64."""

    spec: Block
    secret: dict[str, str] = field(default_factory=dict)


def make_build_spec(recipe: Recipe, image: str, name: str) -> BuildPod:
    """Return the specification of the build's pod, which restored pods must match.

    Args:
        recipe: one that `check_recipe` accepts.
        image: the base image.
        name: the pod's name, which is also that of its Secret.
    """
    document = json.loads(recipe.document)
    secret: dict[str, str] = {}
    block = document["container"]
    container = {key: value for key, value in block.items() if key not in _REPLACED}
    container["env"] = [
        one if "value" in one else _refer(one["name"], value, name, secret)
        for one, value in _list_variables(recipe, block)
    ]
    mounts = recipe.container.volume_mounts
    container["volumeMounts"] = [_make_mount(mount) for mount in mounts]
    volumes = {mount.volume.name: mount.volume for mount in mounts}
    words = {
        "volumes": [_make_volume(volume, document, name, secret) for volume in volumes.values()],
        "securityContext": document.get("securityContext"),
    }
    container = {key: value for key, value in container.items() if value != []}
    return BuildPod(make_pod_spec(BuildInfo(recipe.name, image, container, pod=words)), secret)


def check_recipe(recipe: Recipe, kind: Transport) -> None:
    """See that a recipe can be built on a cluster.

    Raises:
        RecipeError: it cannot; `details` has a line for each reason, with the key and the remedy.
    """
    if problems := list(_find_problems(recipe, kind)):
        raise RecipeError("the recipe cannot be built on a cluster:", details=problems)


def _find_problems(recipe: Recipe, kind: Transport) -> Iterator[str]:
    if kind is not Transport.REGISTRY:
        yield (
            f"container.image: {recipe.container.image} is not in a registry:"
            " push it to a registry that the cluster can pull from"
        )
    yield from _find_self(recipe)
    if not isinstance(recipe.hooks, Hooks):
        yield "hooks: only a build on this machine calls them: delete hooks"
    if recipe.services:
        names = ", ".join(service.name for service in recipe.services)
        yield f"build.services: run {names} in the cluster yourself, set `tcp: close`, and delete build.services"
    if recipe.init:
        names = ", ".join(init.name for init in recipe.init)
        yield f"build.init: do the work of {names} in the cluster yourself, and delete build.init"
    document = json.loads(recipe.document)
    container = {key: value for key, value in document["container"].items() if key not in _REPLACED}
    for path in [path for path, value in walk(container, ("container",)) if value == BLANKED]:
        yield f"{dotted(path)}: it has the value of a secret, which everyone would read in the pod: use $(NAME)"
    pod = make_build_spec(recipe, "image", "pod")
    size_bytes = sum(len(base64.b64decode(data)) for data in pod.secret.values())
    if size_bytes > LIMIT_BYTES:
        yield f"volumes: the files and variables of the build have {size_bytes} bytes: use at most {LIMIT_BYTES}"


def _find_self(recipe: Recipe) -> Iterator[str]:
    """An image that restores itself also has the files that the application changed.

    Here these are only had with a checkpoint. Of an application below the launcher there is none: CRIU says "Can't dump
    nested time namespace".
    """
    if Restorer.SELF not in recipe.restore:
        return
    if not recipe.restore_is_default:
        yield "restore: it supports only the restorer runtime: set `restore: [runtime]`"
    asked = {
        "late": recipe.late,
        "onDifference": recipe.on_difference is OnDifference.WARN,
        "afterRestore": any(isinstance(step, Signal) for step in recipe.after_restore),
    }
    for key, wanted in asked.items():
        if wanted:
            part = "the signal" if key == "afterRestore" else key
            yield f"{key}: only an image that restores itself does this: delete {part}"


def _list_variables(recipe: Recipe, block: Block) -> Iterator[tuple[Block, str]]:
    """Yield the variables of the build: the entry for the pod, without a value unless the recipe spells it out."""
    written = {one["name"]: one for one in blocks_at(block.get("env"))}
    for name, value in recipe.container.env:
        text = written.get(name, {"valueFrom": {}})
        literal = str(text.get("value", ""))
        # The kubelet reads $$ as $; a reference to another variable may lead to a secret.
        plain = "valueFrom" not in text and literal in (value, value.replace("$", "$$"))
        yield {"name": name, **({"value": literal} if plain else {})}, value


def _refer(variable: str, value: str, name: str, secret: dict[str, str]) -> Block:
    key = _put(value.encode(), secret)
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _put(data: bytes, secret: dict[str, str]) -> str:
    """Put a value into the Secret; return its key."""
    key = f"v{len(secret)}"
    secret[key] = base64.b64encode(data).decode()
    return key


def _make_mount(mount: VolumeMount) -> Block:
    made: Block = {"name": mount.volume.name, "mountPath": mount.path}
    if mount.read_only:
        made["readOnly"] = True
    if mount.sub_path:
        made["subPath"] = mount.sub_path
    return made


def _make_volume(volume: Volume, document: Mapping[str, Any], name: str, secret: dict[str, str]) -> Block:
    if volume.kind is VolumeKind.FILES and volume.files:
        items = [{"key": _put(file.data, secret), "path": file.path, "mode": file.mode} for file in volume.files]
        return {"name": volume.name, "secret": {"secretName": name, "items": items}}
    written = next((one for one in blocks_at(document.get("volumes")) if one.get("name") == volume.name), {})
    # A Secret without items would be the whole Secret; a claim is not the build's to write to.
    return {"name": volume.name, "emptyDir": written.get("emptyDir") or {}}
