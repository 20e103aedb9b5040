"""Kubernetes objects that stand in for a cluster: ConfigMaps, names of the keys of Secrets, Services, workloads.

Values of Secrets are never used: a manifest with Secrets may be production's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core.errors import RecipeError, input_errors_as
from warmstart.core.yaml_document import Document, KeyPath, Place, shown
from warmstart.recipe.pods import Block, PodContainer, blocks_at, find_containers, mapping_at, read_manifest
from warmstart.recipe.reading import MANIFEST_SUFFIXES, is_recipe, list_files, read_input

#: The ConfigMap that every namespace has, and service account volumes use: the cluster's certificate.
ROOT_CA = "kube-root-ca.crt"

# Keys become names of files (IsConfigMapKey in k8s.io/apimachinery, pkg/util/validation).
_KEY = re.compile(r"\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*", re.ASCII)
_MOST_FILES = 1000
_MOST_DETAILS = 50


@dataclass(frozen=True)
class ConfigMap:
    """A ConfigMap. `data` has all its keys; `texts` are those of its `data`, which variables can have."""

    name: str
    data: Mapping[str, bytes]
    texts: Mapping[str, str]
    place: str

    def to_block(self) -> Block:
        """Return the object, without anything but its name and its data."""
        binary = {key: value for key, value in self.data.items() if key not in self.texts}
        block: Block = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.name}}
        if self.texts:
            block["data"] = dict(self.texts)
        if binary:
            block["binaryData"] = {key: base64.b64encode(value).decode() for key, value in binary.items()}
        return block


@dataclass(frozen=True)
class SecretKeys:
    """The names of the keys of a Secret."""

    name: str
    keys: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class ServiceObject:
    """A Service: the labels of the pods that it selects, and its ports as (port, target port)."""

    name: str
    namespace: str
    selector: Mapping[str, str]
    ports: tuple[tuple[int, int | str], ...] = ()


@dataclass(frozen=True)
class FoundContainer:
    """A container of a workload, with the document that it is in."""

    container: PodContainer
    document: Document


@dataclass
class Objects:
    """The objects of one or more files."""

    config_maps: dict[str, ConfigMap] = field(default_factory=dict)
    secrets: dict[str, SecretKeys] = field(default_factory=dict)
    services: list[ServiceObject] = field(default_factory=list)
    containers: list[FoundContainer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, document: Document) -> None:
        """Add the objects of a document, and of the Lists in it. Other kinds are left out."""
        # Of a key that is given twice, kubectl takes the last one too.
        self.problems += [str(problem) for problem in document.problems if not problem.repeats]
        for path, block in _list_objects(document.value, ()):
            self._add(block, document, path)
        self.containers += [FoundContainer(one, document) for one in find_containers(document.value)]

    def _add(self, block: Block, document: Document, path: KeyPath) -> None:
        kind, place = block.get("kind"), document.place(path).label
        name = mapping_at(block, "metadata").get("name")
        if not isinstance(name, str):
            return
        if kind == "ConfigMap":
            self._add_config_map(name, block, place)
        elif kind == "Secret":
            keys = [*mapping_at(block, "data"), *mapping_at(block, "stringData")]
            self._refuse_keys(keys, f"the Secret {shown(name)}", place)
            known = self.secrets[name].keys if name in self.secrets else ()
            self.secrets[name] = SecretKeys(name, tuple(dict.fromkeys([*known, *keys])), place)
        elif kind == "Service":
            self.services.append(_make_service(name, block))

    def _add_config_map(self, name: str, block: Block, place: str) -> None:
        subject = f"the ConfigMap {shown(name)}"
        texts: dict[str, str] = {}
        for key, value in mapping_at(block, "data").items():
            if isinstance(value, str):
                texts[key] = value
            else:
                self.problems.append(f"{place}: {subject}: expected a string for {shown(key)}: quote it")
        data = {key: value.encode(errors="replace") for key, value in texts.items()}
        for key, value in mapping_at(block, "binaryData").items():
            try:
                data[key] = base64.b64decode("".join(value.split()), validate=True)
            except (AttributeError, ValueError, binascii.Error):
                self.problems.append(f"{place}: {subject}: expected base64 for {shown(key)} in binaryData")
        self._refuse_keys(data, subject, place)
        before = self.config_maps.get(name)
        if before is not None and before.data != data:
            self.problems.append(
                f"{place}: {subject} is also at {before.place}, with other data: name only one of them in build.objects"
            )
        self.config_maps[name] = ConfigMap(name, data, texts, place)

    def _refuse_keys(self, keys: Iterable[str], subject: str, place: str) -> None:
        for key in keys:
            if not _KEY.fullmatch(key) or len(key) > 253:
                self.problems.append(f"{place}: {subject}: {shown(key)} is not a key: use letters, digits, -, _ and .")


def read_objects(entries: Sequence[Any], directory: Path | None, name: str) -> Objects:
    """Read the entries of `build.objects`: files, directories, and objects themselves.

    Args:
        entries: checked by the schema.
        directory: where relative paths start; None to refuse all paths.
        name: stands for the recipe in messages.

    Raises:
        RecipeError: a file cannot be read, or an object is wrong.
    """
    objects = Objects()
    for index, entry in enumerate(entries):
        if isinstance(entry, str):
            for path in _list_files(find_path(entry, directory, f"{name}: build.objects[{index}]")):
                for document in read_file(path):
                    objects.add(document)
        else:
            objects.add(Document(entry, {(): Place(f"{name}: build.objects[{index}]", 0)}))
    if objects.problems:
        raise RecipeError(f"the objects of {name} have mistakes", details=objects.problems[:_MOST_DETAILS])
    return objects


def read_file(path: Path) -> list[Document]:
    """Read all documents of a file of objects.

    Raises:
        RecipeError: it cannot be read, or is not YAML.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RecipeError(f"{path} is neither a file nor a directory")
    with input_errors_as(RecipeError):
        return [document for document in read_manifest(read_input(path), str(path)) if not is_recipe(document.value)]


def find_path(text: str, directory: Path | None, where: str) -> Path:
    """Return the path that a recipe names at `where`; relative ones start at the directory.

    Raises:
        RecipeError: there is no directory, because the recipe must be complete in itself.
    """
    if directory is None:
        raise RecipeError(f"{where} names the file {shown(text)}, and this recipe must be complete in itself")
    return directory / text


def _list_files(path: Path) -> list[Path]:
    with input_errors_as(RecipeError):
        files = list_files(path, MANIFEST_SUFFIXES)
    if not files:
        raise RecipeError(f"there is no YAML file in the directory {path}", hint="subdirectories are not searched")
    if len(files) > _MOST_FILES:
        raise RecipeError(f"there are more than {_MOST_FILES} YAML files in the directory {path}")
    return files


def _list_objects(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Block]]:
    if not isinstance(value, dict):
        return
    yield path, value
    if isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            yield from _list_objects(item, (*path, "items", index))


def _make_service(name: str, block: Block) -> ServiceObject:
    spec, ports = mapping_at(block, "spec"), []
    for port in blocks_at(spec, "ports"):
        number = port.get("port")
        if isinstance(number, int):
            target = port.get("targetPort", number)
            ports.append((number, target if isinstance(target, int | str) else number))
    selector = {str(key): str(value) for key, value in mapping_at(spec, "selector").items()}
    namespace = mapping_at(block, "metadata").get("namespace")
    return ServiceObject(name, namespace if isinstance(namespace, str) else "", selector, tuple(ports))
