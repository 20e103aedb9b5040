"""Read a workload from a cluster, with the objects that a build needs stand-ins for. Secrets are never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from warmstart.core.errors import ClusterError
from warmstart.kube.answer import Answer, drop_nulls
from warmstart.kube.client import Cluster
from warmstart.kube.refusal import RefusedError
from warmstart.recipe.init.inputs import Inputs, make_inputs
from warmstart.recipe.init.needs import list_uses
from warmstart.recipe.init.services import find_needed
from warmstart.recipe.pods import Block, PodContainer, blocks_at, find_containers, mapping_at

_CORE, _APPS, _BATCH = "/api/v1", "/apis/apps/v1", "/apis/batch/v1"
# Names that kubectl takes, by kind: the path of the API, the plural, and short names.
_KINDS = {
    "Deployment": (_APPS, "deployments", "deploy"),
    "StatefulSet": (_APPS, "statefulsets", "sts"),
    "DaemonSet": (_APPS, "daemonsets", "ds"),
    "ReplicaSet": (_APPS, "replicasets", "rs"),
    "Job": (_BATCH, "jobs", "job"),
    "CronJob": (_BATCH, "cronjobs", "cj"),
    "Pod": (_CORE, "pods", "po"),
}
# Workloads that provide the services of others.
_PROVIDERS = ("Deployment", "StatefulSet")
# The server's own, of no use outside of it.
_OF_THE_SERVER = (
    "managedFields",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "annotations",
    "selfLink",
)


@dataclass(frozen=True)
class WorkloadName:
    """The kind and the name of an object with a pod, as in `deployment/shop`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def parse_workload(text: str) -> WorkloadName | None:
    """Parse KIND/NAME, with a kind as kubectl takes it; None if it is something else."""
    word, slash, name = text.partition("/")
    if not slash or not name or set(name) & set("/:@"):
        return None
    plain = word.partition(".")[0]
    for kind, (_, plural, short) in _KINDS.items():
        if plain in (kind.lower(), plural, short) and word in (plain, f"{plain}.apps", f"{plain}.batch"):
            return WorkloadName(kind, name)
    return None


def read_workload(cluster: Cluster, wanted: WorkloadName) -> Inputs:
    """Read a workload of the cluster's namespace, its ConfigMaps, and the services that its pods refer to.

    A kind of object that the user may not list is left out with a note.

    Raises:
        ClusterError: the workload cannot be read.
    """
    name = f"the namespace {cluster.namespace}"
    path, plural, _ = _KINDS[wanted.kind]
    where = f"{path}/namespaces/{quote(cluster.namespace, safe='')}/{plural}/{quote(wanted.name, safe='')}"
    workload = _clean(cluster.request("GET", where), wanted.kind)
    containers = list(find_containers(workload))
    if not containers:
        raise ClusterError(f"{wanted} in {name} has no container")
    notes: list[str] = []
    objects = [workload, *_config_maps(cluster, [workload], notes)]
    for kind, base, plural in (
        ("Service", _CORE, "services"),
        *((kind, *_KINDS[kind][:2]) for kind in _PROVIDERS),
    ):
        listed = _list(cluster, base, plural, kind, notes)
        objects += [one for one in listed if (one["kind"], _name(one)) != (wanted.kind, wanted.name)]
    inputs = make_inputs(name, objects)
    providers = _providers(containers, inputs)
    known = {_name(one) for one in objects if one["kind"] == "ConfigMap"}
    more = [one for one in _config_maps(cluster, providers, notes) if _name(one) not in known]
    used = {id(one) for one in providers}
    kept = [one for one in objects if one is workload or one["kind"] not in _PROVIDERS or id(one) in used]
    return make_inputs(name, [*kept, *more], dict.fromkeys(notes), chosen=workload)


def _providers(containers: Iterable[PodContainer], inputs: Inputs) -> list[Block]:
    """The workloads behind the services that the containers need."""
    found: dict[int, Block] = {}
    for container in containers:
        for service in find_needed(container, blocks_at(container.pod, "initContainers"), inputs).found:
            found[id(service.provider.manifest)] = service.provider.manifest
    return list(found.values())


def _config_maps(cluster: Cluster, workloads: Iterable[Block], notes: list[str]) -> Iterator[Block]:
    """Read the ConfigMaps that the pods of workloads refer to; those that are not there are left out."""
    names: dict[str, None] = {}
    for workload in workloads:
        for container in find_containers(workload):
            pod, volumes = container.pod, blocks_at(container.pod, "volumes")
            for block in (container.block, *blocks_at(pod, "initContainers")):
                names |= {use.name: None for use in list_uses(block, volumes) if use.kind == "ConfigMap"}
    for name in names:
        path = f"{_CORE}/namespaces/{quote(cluster.namespace, safe='')}/configmaps/{quote(name, safe='')}"
        try:
            yield _clean(cluster.request("GET", path), "ConfigMap")
        except RefusedError as refusal:
            if refusal.status != 404:
                notes.append(f"ConfigMap/{name} cannot be read: {refusal.brief}")


def _list(cluster: Cluster, base: str, plural: str, kind: str, notes: list[str]) -> list[Block]:
    path = f"{base}/namespaces/{quote(cluster.namespace, safe='')}/{plural}"
    try:
        return [_clean(item, kind) for item in cluster.list_items(path)]
    except RefusedError as refusal:
        notes.append(f"the {plural} of the namespace cannot be read: {refusal.brief}")
        return []


def _clean(answer: Answer, kind: str) -> Block:
    """Return an object without the parts that belong to the server."""
    answer.check_depth()
    value: Block = drop_nulls(dict(answer.members()))
    metadata = {key: item for key, item in mapping_at(value, "metadata").items() if key not in _OF_THE_SERVER}
    value.pop("status", None)
    return {**value, "kind": kind, "metadata": metadata}


def _name(value: Block) -> Any:
    return mapping_at(value, "metadata").get("name")
