"""The pod of a build in a cluster, and the parts of a recipe that such a build cannot do. No I/O.

The pod has the values of the build, as every build: never those of the ConfigMaps, Secrets and claims in the cluster
that have the recipe's names. Values that the recipe does not spell out are in a Secret beside the pod, not in its
manifest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.errors import RecipeError
from warmstart.core.reference import Transport
from warmstart.core.yaml_document import KeyPath, dotted, walk
from warmstart.engine.cri_messages import Host
from warmstart.kube.manifests import make_pod_spec
from warmstart.kube.settings import TOKEN, BuildInfo
from warmstart.recipe.complete import BLANKED
from warmstart.recipe.model import Container, Hooks, Recipe, Restorer, Volume, VolumeKind, VolumeMount
from warmstart.recipe.pods import Block, blocks_at, mapping_at

# Of all values of a Secret together (`MaxSecretSize` in pkg/apis/core/types.go of kubernetes/kubernetes).
LIMIT_BYTES = 1 << 20
# Keys of a container that are replaced by the values of the build.
_REPLACED = frozenset({"env", "envFrom", "volumeMounts"})
# Keys of a container that have no use beside the build's own, where nothing is restarted.
_USELESS = frozenset({"lifecycle", "livenessProbe", "startupProbe", "readinessProbe", "stdin", "stdinOnce", "tty"})
# Attempts of a service's probe, one per second: the build gives it up before.
_ATTEMPTS = 100_000


@dataclass
class BuildPod:
    """The specification of a pod of a build, and the values of the Secret that it refers to, in base64.

    `name` is the name of both.
    """

    name: str
    spec: Block = field(default_factory=dict)
    secret: dict[str, str] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        """Put a value into the Secret; return its key."""
        key = f"v{len(self.secret)}"
        self.secret[key] = base64.b64encode(data).decode()
        return key


def make_build_spec(recipe: Recipe, name: str, images: Mapping[str, str], hosts: Sequence[Host] = ()) -> BuildPod:
    """Return the specification of the build's pod, which restored pods must match, with its init containers.

    Args:
        recipe: one that `check_recipe` accepts.
        name: the pod's name.
        images: the names of images for the cluster; an image that is not in it keeps its name.
        hosts: other hosts that it knows by name.
    """
    document, pod = json.loads(recipe.document), BuildPod(name)
    written = blocks_at(document.get("volumes"))
    init = [_make_init(pod, one.container, block, images) for one, block in _list_init(recipe, document)]
    containers = [recipe.container, *(one.container for one in recipe.init)]
    words = {
        "volumes": _make_volumes(pod, containers, written),
        "securityContext": document.get("securityContext"),
        "initContainers": init,
    }
    container = _make_container(pod, recipe.container, document["container"])
    image = images.get(recipe.container.image, recipe.container.image)
    pod.spec = {**make_pod_spec(BuildInfo(recipe.name, image, container, pod=words)), **_make_aliases(hosts)}
    return pod


def make_service_spec(
    recipe: Recipe, index: int, name: str, images: Mapping[str, str], hosts: Sequence[Host] = ()
) -> BuildPod:
    """Return the specification of the pod of the service at this index; arguments as for `make_build_spec`."""
    service, pod = recipe.services[index], BuildPod(name)
    block = json.loads(recipe.document)["build"]["services"][index]
    container = {
        **_make_companion(pod, service.container, block["container"], images),
        "name": service.name,
        "readinessProbe": _make_patient(block["container"]),
    }
    context = dict(mapping_at(block, "securityContext"))
    if groups := mapping_at(container, "securityContext").pop("supplementalGroups", None):
        context["supplementalGroups"] = groups
    pod.spec = {
        TOKEN: False,
        "containers": [container],
        "volumes": _make_volumes(pod, [service.container], blocks_at(block.get("volumes"))),
        **({"securityContext": context} if context else {}),
        **_make_aliases(hosts),
    }
    return pod


def _list_init(recipe: Recipe, document: Block) -> list[tuple[Any, Block]]:
    return list(zip(recipe.init, blocks_at(document.get("initContainers")), strict=True))


def _make_init(pod: BuildPod, container: Container, block: Block, images: Mapping[str, str]) -> Block:
    made = _make_companion(pod, container, block, images)
    # The groups are the pod's, from the container of the build.
    mapping_at(made, "securityContext").pop("supplementalGroups", None)
    return made


def _make_companion(pod: BuildPod, container: Container, block: Block, images: Mapping[str, str]) -> Block:
    made = _make_container(pod, container, {key: value for key, value in block.items() if key not in _USELESS})
    return {**made, "image": images.get(container.image, container.image)}


def _make_container(pod: BuildPod, container: Container, block: Block) -> Block:
    """Return a container of the recipe with the values of the build."""
    made = {key: value for key, value in block.items() if key not in _REPLACED}
    made["env"] = [
        one if "value" in one else _refer(one["name"], value, pod) for one, value in _list_variables(container, block)
    ]
    made["volumeMounts"] = [_make_mount(mount) for mount in container.volume_mounts]
    return {key: value for key, value in made.items() if value != []}


def _make_patient(block: Block) -> Block:
    """Return the probe that tells when a service is ready: it begins at once, and its first success counts."""
    probe = block.get("readinessProbe") or block["startupProbe"]
    left = {key: value for key, value in probe.items() if key not in ("initialDelaySeconds", "successThreshold")}
    return {**left, "periodSeconds": 1, "failureThreshold": _ATTEMPTS}


def _make_aliases(hosts: Sequence[Host]) -> Block:
    return {"hostAliases": [{"ip": host.address, "hostnames": list(host.names)} for host in hosts]} if hosts else {}


def check_recipe(recipe: Recipe, kinds: Mapping[str, Transport]) -> None:
    """See that a recipe can be built on a cluster.

    Args:
        recipe: the recipe.
        kinds: where each of its images is.

    Raises:
        RecipeError: it cannot; `details` has a line for each reason, with the key and the remedy.
    """
    if problems := list(_find_problems(recipe, kinds)):
        raise RecipeError("the recipe cannot be built on a cluster:", details=problems)


def _find_watching(recipe: Recipe) -> Iterator[str]:
    """Find what would need a look into the node."""
    if recipe.container.settled:
        yield "build.settled: the activity of a pod is not visible here; give container.readinessProbe, and delete it"
    for index, step in enumerate(recipe.warmup):
        if step.steady_limit_s is not None:
            yield f"warmup[{index}].until: the processor time of a pod is not visible here: set repeat, and delete it"


def _find_problems(recipe: Recipe, kinds: Mapping[str, Transport]) -> Iterator[str]:
    yield from _find_watching(recipe)
    if not isinstance(recipe.hooks, Hooks) and Restorer.SELF not in recipe.restore:
        yield "hooks: in a cluster, they need an image that restores itself: add self to restore, or delete hooks"
    document = json.loads(recipe.document)
    blocks: list[tuple[KeyPath, Container, Block]] = [(("container",), recipe.container, document["container"])]
    for index, service in enumerate(recipe.services):
        path: KeyPath = ("build", "services", index, "container")
        blocks.append((path, service.container, document["build"]["services"][index]["container"]))
    for index, (one, block) in enumerate(_list_init(recipe, document)):
        blocks.append((("initContainers", index), one.container, block))
    for path, container, _ in blocks:
        if kinds[container.image] is not Transport.REGISTRY:
            yield (
                f"{dotted((*path, 'image'))}: {container.image} is not in a registry:"
                " push it to a registry that the cluster can pull from"
            )
    for path, _, block in blocks:
        kept = {key: value for key, value in block.items() if key not in _REPLACED}
        for found in [found for found, value in walk(kept, path) if value == BLANKED]:
            yield f"{dotted(found)}: it has the value of a secret, which everyone would read in the pod: use $(NAME)"
    yield from _find_sizes(recipe)


def _find_sizes(recipe: Recipe) -> Iterator[str]:
    pods = {"volumes": make_build_spec(recipe, "pod", {})}
    for index, service in enumerate(recipe.services):
        pods[f"build.services[{index}].volumes"] = make_service_spec(recipe, index, service.name, {})
    for key, pod in pods.items():
        size_bytes = sum(len(base64.b64decode(data)) for data in pod.secret.values())
        if size_bytes > LIMIT_BYTES:
            yield f"{key}: the files and variables of the build have {size_bytes} bytes: use at most {LIMIT_BYTES}"


def _list_variables(container: Container, block: Block) -> Iterator[tuple[Block, str]]:
    """Yield the variables of the build: the entry for the pod, without a value unless the recipe spells it out."""
    written = {one["name"]: one for one in blocks_at(block.get("env"))}
    for name, value in container.env:
        text = written.get(name, {"valueFrom": {}})
        literal = str(text.get("value", ""))
        # The kubelet reads $$ as $; a reference to another variable may lead to a secret.
        plain = "valueFrom" not in text and literal in (value, value.replace("$", "$$"))
        yield {"name": name, **({"value": literal} if plain else {})}, value


def _refer(variable: str, value: str, pod: BuildPod) -> Block:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": pod.name, "key": pod.put(value.encode())}}}


def _make_mount(mount: VolumeMount) -> Block:
    made: Block = {"name": mount.volume.name, "mountPath": mount.path}
    if mount.read_only:
        made["readOnly"] = True
    if mount.sub_path:
        made["subPath"] = mount.sub_path
    return made


def _make_volumes(pod: BuildPod, containers: Sequence[Container], written: Sequence[Block]) -> list[Block]:
    volumes = {mount.volume.name: mount.volume for one in containers for mount in one.volume_mounts}
    return [_make_volume(volume, pod, written) for volume in volumes.values()]


def _make_volume(volume: Volume, pod: BuildPod, written: Sequence[Block]) -> Block:
    if volume.kind is VolumeKind.FILES and volume.files:
        items = [{"key": pod.put(file.data), "path": file.path, "mode": file.mode} for file in volume.files]
        return {"name": volume.name, "secret": {"secretName": pod.name, "items": items}}
    block = next((one for one in written if one.get("name") == volume.name), {})
    # A Secret without items would be the whole Secret; a claim is not the build's to write to.
    return {"name": volume.name, "emptyDir": block.get("emptyDir") or {}}
