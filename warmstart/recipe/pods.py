"""The containers in Kubernetes manifests: in objects of any kind that has a pod or a template of one, and in Lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmstart.core.errors import ManifestError, input_errors_as
from warmstart.core.yaml_document import Document, Problem, read_documents, shown, summarize

Block = dict[str, Any]

# Where kubectl keeps a copy of what it applied.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# Objects that hold values, and where.
_WITH_DATA = ("Secret", "ConfigMap")
_DATA = ("data", "stringData", "binaryData")

#: Of a pod's security context, the words that concern the pod alone.
OF_POD = ("fsGroup", "fsGroupChangePolicy")

#: Where an object has the specification of a pod: workloads, CronJobs, PodTemplates, Pods.
POD_SPECS = (
    ("spec", "template", "spec"),
    ("spec", "jobTemplate", "spec", "template", "spec"),
    ("template", "spec"),
    ("spec",),
)


@dataclass(frozen=True)
class PodContainer:
    """A container, its object, and the specification of its pod at `pod_path` in that object."""

    manifest: Block
    pod_path: tuple[str, ...]
    pod: Block
    block: Block

    @property
    def kind(self) -> str:
        """The object's kind; may be empty."""
        return str(self.manifest.get("kind", ""))

    @property
    def owner(self) -> str:
        """The object's name; may be empty."""
        return str(mapping_at(self.manifest, "metadata").get("name", ""))

    @property
    def name(self) -> str:
        """The container's name; may be empty."""
        return str(self.block.get("name", ""))

    def is_selected_by(self, selector: Mapping[str, Any]) -> bool:
        """Whether its pod has all labels of a Service's selector; an empty one selects none."""
        labels = mapping_at(self.manifest, *self.pod_path[:-1], "metadata", "labels")
        return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


class SeveralContainersError(ManifestError):
    """A manifest has several containers, and none was chosen."""


def read_manifest(data: bytes, name: str) -> list[Document]:
    """Read all documents of a manifest.

    Raises:
        ManifestError: it is not YAML in UTF-8, or is too large.
    """
    with input_errors_as(ManifestError):
        return read_documents(data, name)


def manifest_error(name: str, problems: Sequence[Problem]) -> ManifestError:
    """Return one error for all the problems of a manifest."""
    brief, details = summarize(name, problems)
    return ManifestError(brief, details=details)


def mapping_at(value: Any, *keys: str) -> Block:
    """The mapping at this path; an empty one if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def list_at(value: Any, *keys: str) -> list[Any]:
    """The list at this path, or the value itself without a path; an empty one if there is none."""
    found = mapping_at(value, *keys[:-1]).get(keys[-1]) if keys else value
    return found if isinstance(found, list) else []


def blocks_at(value: Any, *keys: str) -> list[Block]:
    """The mappings in the list at this path; none if there is no list."""
    return [item for item in list_at(value, *keys) if isinstance(item, dict)]


def merge_contexts(pod: Block, container: Block) -> Block:
    """Return a container's security context, completed with the words of its pod's that concern containers."""
    of_pod = mapping_at(pod, "securityContext")
    rest = {key: value for key, value in of_pod.items() if key not in OF_POD}
    return {**rest, **mapping_at(container, "securityContext")}


def list_claims(manifest: Block) -> list[Block]:
    """Return the volumes that a StatefulSet makes for each pod, in the words of a pod."""
    return [
        {"name": name, "persistentVolumeClaim": {"claimName": name}}
        for claim in blocks_at(manifest, "spec", "volumeClaimTemplates")
        if isinstance(name := mapping_at(claim, "metadata").get("name"), str)
    ]


def list_others(pod: Block, container: Block) -> list[str]:
    """Return the names of the other containers of a pod, with init containers."""
    blocks = [*blocks_at(pod, "initContainers"), *blocks_at(pod, "containers")]
    return [str(block.get("name")) for block in blocks if block is not container]


def hide_values(document: Any, hidden: str) -> Any:
    """Return a manifest or a recipe with `hidden` in place of the values of variables, headers, Secrets and ConfigMaps.

    Copies of the manifest are treated alike. Names stay, and keys. Everything below `env` and `httpHeaders` counts,
    wherever they are, so that unusual structures are hidden too, as do a recipe's `build.secrets`.
    """
    if isinstance(document, list):
        return [hide_values(item, hidden) for item in document]
    if not isinstance(document, dict):
        return document
    of_object = document.get("kind") in _WITH_DATA
    return {
        key: _hide_all(value, hidden) if of_object and key in _DATA else _hide_entry(key, value, hidden)
        for key, value in document.items()
    }


def _hide_all(value: Any, hidden: str) -> Any:
    """Hide all values, but not the keys."""
    return {key: _hide_all(inner, hidden) for key, inner in value.items()} if isinstance(value, dict) else hidden


def _hide_entry(key: Any, value: Any, hidden: str) -> Any:
    if key == _APPLIED:
        return hidden
    if key == "secrets" and isinstance(value, dict):
        return _hide_all(value, hidden)
    if key not in ("env", "httpHeaders"):
        return hide_values(value, hidden)
    if not isinstance(value, list):
        return hidden
    # References to values stay, and nothing else.
    return [
        {inner: kept if inner in ("name", "valueFrom") else hidden for inner, kept in item.items()}
        if isinstance(item, dict)
        else hidden
        for item in value
    ]


def find_containers(manifest: Any) -> Iterator[PodContainer]:
    """The containers of a manifest, or of the items of a List; none where it is not an object of Kubernetes."""
    if not isinstance(manifest, dict):
        return
    if isinstance(manifest.get("items"), list):
        for item in manifest["items"]:
            yield from find_containers(item)
    for path in POD_SPECS:
        pod = mapping_at(manifest, *path)
        for block in blocks_at(pod, "containers"):
            yield PodContainer(manifest, path, pod, block)


def choose_container(found: Sequence[PodContainer], wanted: str | None, name: str) -> PodContainer:
    """Return the container with a name.

    Args:
        found: all containers of a file. If an object is given twice, the last one counts, as for kubectl.
        wanted: its name, OBJECT/NAME or KIND/OBJECT/NAME; None if there is only one, not counting hooks of a chart.
        name: name of the file in messages.

    Raises:
        SeveralContainersError: there are several.
        ManifestError: there is no such container.
    """
    found = _without_replaced(found)
    if wanted is None:
        matches = [one for one in found if not _is_hook(one)] or found
    else:
        matches = [one for one in found if wanted in _list_names(one)]
    if len(matches) == 1:
        return matches[0]
    short, long = ([_list_names(one)[i] for one in matches or found] for i in (1, 2))
    names = list(map(shown, short if len(set(short)) == len(short) else long))
    if not found:
        raise ManifestError(f"{name} has no container", hint="Use the manifest of a workload, such as a Deployment.")
    if not matches:
        raise ManifestError(f"{name} has no container named {shown(str(wanted))}; its containers are:", details=names)
    raise SeveralContainersError(f"{name} has {len(matches)} containers to choose from:", details=names)


def _without_replaced(found: Sequence[PodContainer]) -> list[PodContainer]:
    """Leave out the containers of objects that a later one with the same kind, name and namespace replaces."""

    def key_of(one: PodContainer) -> tuple[str, ...]:
        return one.kind, one.owner, str(mapping_at(one.manifest, "metadata").get("namespace") or "")

    last = {key_of(one): one.manifest for one in found}
    return [one for one in found if not one.owner or last[key_of(one)] is one.manifest]


def _is_hook(one: PodContainer) -> bool:
    """Tell whether it is a Helm hook, such as the test of each new chart (helm.sh/docs, Chart Hooks)."""
    return "helm.sh/hook" in mapping_at(one.manifest, "metadata", "annotations")


def _list_names(one: PodContainer) -> tuple[str, str, str]:
    """Return possible names of a container, from short to unique."""
    return one.name, f"{one.owner}/{one.name}", f"{one.kind.lower()}/{one.owner}/{one.name}"
