"""The environment that a manifest gives a container, as far as the manifest and its objects show it. Pure.

Values of Secrets are never read, and nothing shows a value: only names, and where values come from. The order is that
of the kubelet: first `envFrom`, then `env`, and of one name the last
(`makeEnvironmentVariables` in pkg/kubelet/kubelet_pods.go of kubernetes/kubernetes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.quantity import parse_quantity
from warmstart.core.yaml_document import KeyPath
from warmstart.recipe.pods import Block, blocks_at, list_at, mapping_at
from warmstart.recipe.variables import expand, list_references

CONFIG_MAP, SECRET = "ConfigMap", "Secret"
# Fields whose stand-ins a pod may have too (warmstart.recipe.sources).
_FIELDS = {"metadata.namespace": "default", "spec.serviceAccountName": "default"}
# Keys of a reference to an object, and its kind.
_KEY_REFS = {"configMapKeyRef": CONFIG_MAP, "secretKeyRef": SECRET}
_OBJECT_REFS = {"configMapRef": CONFIG_MAP, "secretRef": SECRET}


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: ConfigMap, Secret, `field`, `resource`, `file`, `variable`; empty for a value in the manifest itself.
        name: the object, path or variable.
        key: key of the object.
    """

    kind: str = ""
    name: str = ""
    key: str = ""

    def __str__(self) -> str:
        if self.kind == "variable":
            return f"it refers to $({self.name})"
        return f"from the {self.kind} {self.name}" if self.kind else "a value in the manifest"


@dataclass(frozen=True)
class Variable:
    """A variable of a container.

    Attributes:
        value: the value; None if the manifest and its objects do not show it.
        origin: where it comes from.
        path: where it stands in the container.
    """

    value: str | None
    origin: Origin
    path: KeyPath


@dataclass(frozen=True)
class Source:
    """An object in `envFrom` whose keys are not known, and where it stands in the container."""

    origin: Origin
    path: KeyPath


@dataclass
class Objects:
    """ConfigMaps and the keys of Secrets by kind and name, and values of fields by their paths.

    A value is None if it is a Secret's or binary.
    """

    data: dict[tuple[str, str], dict[str, str | None]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, manifests: Iterable[Any]) -> None:
        """Add the ConfigMaps and Secrets of manifests, those in Lists too."""
        for one in manifests:
            if not isinstance(one, dict):
                continue
            items = one.get("items")
            self.add(items if isinstance(items, list) else ())
            kind, name = one.get("kind"), mapping_at(one, "metadata").get("name")
            if kind in (CONFIG_MAP, SECRET) and isinstance(name, str):
                self.data[(kind, name)] = dict(_read_data(one, secret=kind == SECRET))


def _read_data(manifest: Block, *, secret: bool) -> Iterator[tuple[str, str | None]]:
    for block in ("binaryData", "data", "stringData"):
        for key, value in mapping_at(manifest, block).items():
            yield key, None if secret or block == "binaryData" or value is None else str(value)


def read_stand_ins(build: Mapping[str, Any]) -> Objects:
    """Return the objects and fields of a recipe's `build`."""
    block = dict(build)
    objects = Objects(fields=_FIELDS | {key: str(value) for key, value in mapping_at(block, "fields").items()})
    objects.add(blocks_at(block.get("objects")))
    for name, keys in mapping_at(block, "secrets").items():
        known = objects.data.setdefault((SECRET, name), {})
        known |= dict.fromkeys(keys if isinstance(keys, dict) else ())
    return objects


def read_fields(manifest: Block, pod_path: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a pod that its manifest fixes, by their paths."""
    metadata = mapping_at(manifest, *pod_path[:-1], "metadata")
    found = {
        f"metadata.{kind}['{key}']": str(value)
        for kind in ("labels", "annotations")
        for key, value in mapping_at(metadata, kind).items()
    }
    if namespace := mapping_at(manifest, "metadata").get("namespace"):
        found["metadata.namespace"] = str(namespace)
    found["spec.serviceAccountName"] = str(mapping_at(manifest, *pod_path).get("serviceAccountName") or "default")
    return found


def read_environment(container: Mapping[str, Any], objects: Objects) -> tuple[dict[str, Variable], list[Source]]:
    """Return the variables of a container by name, and the objects in `envFrom` whose keys are not known.

    Args:
        container: the container.
        objects: what is known of the objects and fields that it refers to.
    """
    variables: dict[str, Variable] = {}
    unknown = []
    for number, source in enumerate(_list_items(container, "envFrom")):
        for key, kind in _OBJECT_REFS.items():
            if not isinstance(reference := source.get(key), dict):
                continue
            origin, path = Origin(kind, str(reference.get("name"))), ("envFrom", number)
            data = objects.data.get((kind, origin.name))
            if data is None:
                unknown.append(Source(origin, path))
            for name, value in (data or {}).items():
                prefixed = f"{source.get('prefix') or ''}{name}"
                variables[prefixed] = Variable(value, Origin(kind, origin.name, name), path)
    for number, block in enumerate(_list_items(container, "env")):
        name, found = str(block.get("name")), _read_variable(block, number, variables, container, objects)
        if found is not None:
            variables[name] = found
    return variables, unknown


def _list_items(container: Mapping[str, Any], key: str) -> list[Block]:
    """Return the items of a list, with an empty mapping for an item that is none, so that indexes stay right."""
    return [item if isinstance(item, dict) else {} for item in list_at(container.get(key))]


def _read_variable(
    block: Block, number: int, before: Mapping[str, Variable], container: Mapping[str, Any], objects: Objects
) -> Variable | None:
    path = ("env", number)
    source = block.get("valueFrom")
    if not isinstance(source, dict):
        value = block.get("value")
        text, origin = expand_known("" if value is None else str(value), before)
        return Variable(text, origin, path)
    for key, kind in _KEY_REFS.items():
        if isinstance(reference := source.get(key), dict):
            origin = Origin(kind, str(reference.get("name")), str(reference.get("key")))
            data = objects.data.get((kind, origin.name))
            if data is not None and origin.key not in data and reference.get("optional"):
                return None
            return Variable((data or {}).get(origin.key), origin, path)
    if isinstance(reference := source.get("fieldRef"), dict):
        name = str(reference.get("fieldPath"))
        return Variable(objects.fields.get(name), Origin("field", name), path)
    if isinstance(reference := source.get("resourceFieldRef"), dict):
        name, divisor = str(reference.get("resource")), str(reference.get("divisor") or "1")
        return Variable(_find_amount(reference, container), Origin("resource", name, divisor), path)
    reference = mapping_at(source, "fileKeyRef")
    return Variable(None, Origin("file", str(reference.get("path")), str(reference.get("key"))), path)


def _find_amount(reference: Block, container: Mapping[str, Any]) -> str | None:
    """Return a container's own resource as the kubelet does, which takes the limit for a request that is not set."""
    kind, _, resource = str(reference.get("resource")).partition(".")
    limits, requests = (mapping_at(dict(container), "resources", key).get(resource) for key in ("limits", "requests"))
    amount = limits if kind == "limits" or requests is None else requests
    own = (None, container.get("name", reference.get("containerName")))
    if amount is None or reference.get("containerName") not in own:
        return None
    try:
        return str(math.ceil(parse_quantity(amount) / (parse_quantity(reference.get("divisor") or 1) or 1)))
    except ValueError:
        return None


def expand_known(text: str, variables: Mapping[str, Variable]) -> tuple[str | None, Origin]:
    """Replace references `$(NAME)`, as `expand`; None with the reason if a value is not known."""
    for name in list_references(text):
        if name in variables and variables[name].value is None:
            return None, Origin("variable", name)
    return expand(text, {name: variable.value or "" for name, variable in variables.items()}), Origin()
