"""The containers in Kubernetes manifests: in objects of any kind that has a pod or a template of one, and in Lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import shown

Block = dict[str, Any]

HIDDEN = "(hidden; --show-env shows it)"
# Where kubectl keeps a copy of what it applied.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

#: Where an object has the specification of a pod: workloads, CronJobs, PodTemplates, Pods.
POD_SPECS = (
    ("spec", "template", "spec"),
    ("spec", "jobTemplate", "spec", "template", "spec"),
    ("template", "spec"),
    ("spec",),
)


@dataclass(frozen=True)
class PodContainer:
    """A container, the object that it belongs to, and the specification of its pod, which is at `pod_path` of that."""

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


def mapping_at(value: Any, *keys: str) -> Block:
    """The mapping at this path; an empty one if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def list_others(pod: Block, container: Block) -> list[str]:
    """The names of what else runs in a pod, init containers too."""
    lists = [pod[key] for key in ("initContainers", "containers") if isinstance(pod.get(key), list)]
    others = [block for blocks in lists for block in blocks if block is not container]
    return [str(block.get("name")) for block in others if isinstance(block, dict)]


def hide_values(document: Any) -> Any:
    """A manifest or a recipe without what may be secret: values of variables and headers, and copies of the manifest.

    Names stay. What is below `env` and `httpHeaders` in any place counts, so that what is not as in Kubernetes is
    hidden, too.
    """
    if isinstance(document, list):
        return [hide_values(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {
        key: HIDDEN if key == _APPLIED else _hide(value) if key in ("env", "httpHeaders") else hide_values(value)
        for key, value in document.items()
    }


def _hide(value: Any) -> Any:
    """A list of names and values without its values; references to values stay, and nothing else."""
    if not isinstance(value, list):
        return HIDDEN
    return [
        {key: inner if key in ("name", "valueFrom") else HIDDEN for key, inner in item.items()}
        if isinstance(item, dict)
        else HIDDEN
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
        blocks = pod.get("containers")
        for block in blocks if isinstance(blocks, list) else []:
            if isinstance(block, dict):
                yield PodContainer(manifest, path, pod, block)


def choose_container(found: Sequence[PodContainer], wanted: str | None, name: str) -> PodContainer:
    """The container that is meant.

    Args:
        found: all of a file.
        wanted: its name, OBJECT/NAME or KIND/OBJECT/NAME; None where there is only one, but for the hooks of a chart.
        name: of the file, for messages.

    Raises:
        ManifestError: there is no such container, or several may be meant.
    """
    if wanted is None:
        matches = [one for one in found if not _is_hook(one)] or list(found)
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
    hint = "Choose one with --container."
    raise ManifestError(f"{name} has {len(matches)} containers to choose from:", details=names, hint=hint)


def _is_hook(one: PodContainer) -> bool:
    """Whether Helm runs it beside a release, such as the test that each new chart has (helm.sh/docs, Chart Hooks)."""
    return "helm.sh/hook" in mapping_at(one.manifest, "metadata", "annotations")


def _list_names(one: PodContainer) -> tuple[str, str, str]:
    """What a container may be called, from short to unmistakable."""
    return one.name, f"{one.owner}/{one.name}", f"{one.kind.lower()}/{one.owner}/{one.name}"
