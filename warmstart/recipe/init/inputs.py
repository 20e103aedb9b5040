"""The objects that a recipe is made from: those of a file, of a directory, of standard input, or of a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError, ManifestError, input_errors_as
from warmstart.core.yaml_document import Document, Problem, shown
from warmstart.recipe.init.kustomize import generate
from warmstart.recipe.pods import Block, PodContainer, find_containers, mapping_at, read_manifest
from warmstart.recipe.reading import MANIFEST_SUFFIXES, STDIN, is_recipe, list_files, read_input

# Files of a directory that hold no objects of a cluster: they describe how to make or to run them.
_NO_OBJECTS = ("kustomization.yaml", "kustomization.yml", "skaffold.yaml", "Chart.yaml", "values.yaml", "Chart.lock")
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
# A template in place of an image is no YAML without quotes.
_BARE_TEMPLATE = re.compile(rb"^([ \t]*(?:-[ \t]+)?image:[ \t]+)(\{\{[^\r\n]*?)([ \t]*)(?=\r?$)", re.MULTILINE)
_RENDERED = "It looks like a template. Render it first: `helm template CHART | warmstart init -`"


@dataclass(frozen=True)
class InputObject:
    """An object of Kubernetes, and the file it comes from; None for standard input or a cluster.

    `problems` are the mistakes of its document.
    """

    value: Block
    file: Path | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def kind(self) -> str:
        """The object's kind; may be empty."""
        return str(self.value.get("kind", ""))

    @property
    def name(self) -> str:
        """The object's name; may be empty."""
        return str(mapping_at(self.value, "metadata").get("name", ""))

    @property
    def namespace(self) -> str:
        """The object's namespace; may be empty."""
        return str(mapping_at(self.value, "metadata").get("namespace") or "")

    @property
    def containers(self) -> list[PodContainer]:
        """The containers of its pods."""
        return list(find_containers(self.value))


@dataclass(frozen=True)
class Inputs:
    """The objects to make a recipe from.

    Attributes:
        name: the file, directory or cluster in messages.
        objects: the objects, those of Lists one by one.
        notes: remarks on the input as a whole.
        hint: a command that reads more; empty if there is none.
        chosen: the object to make a recipe from; None for any of them.
        from_server: whether a server has filled in defaults.
    """

    name: str
    objects: tuple[InputObject, ...]
    notes: tuple[str, ...] = ()
    hint: str = ""
    chosen: Block | None = None
    from_server: bool = False
    _index: dict[tuple[str, str], InputObject] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for one in self.objects:
            self._index.setdefault((one.kind, one.name), one)

    def find(self, kind: str, name: str) -> InputObject | None:
        """Return the object of this kind and name."""
        return self._index.get((kind, name))

    def of_kind(self, kind: str) -> Iterator[InputObject]:
        """Return the objects of a kind."""
        return (one for one in self.objects if one.kind == kind)

    def owner_of(self, container: PodContainer) -> InputObject:
        """Return the object that a container belongs to."""
        return next(one for one in self.objects if one.value is container.manifest)


def read_inputs(*paths: Path) -> Inputs:
    """Read the objects of files, of the files of directories, and of standard input (`-`).

    Of objects with the same kind and name, the first one counts.

    Raises:
        ManifestError: a file cannot be read or is not YAML, or a directory has none.
    """
    parts = list(map(_read_input, paths))
    if len(parts) == 1:
        return parts[0]
    return Inputs(
        ", ".join(part.name for part in parts),
        tuple(one for part in parts for one in part.objects),
        tuple(note for part in parts for note in part.notes),
    )


def _read_input(path: Path) -> Inputs:
    with input_errors_as(ManifestError):
        if path != STDIN and path.is_dir():
            return _read_directory(path)
        name = "<stdin>" if path == STDIN else str(path)
        file = None if path == STDIN else path
        others = _list_files(path.parent) if file is not None and path.is_file() else []
        hint = f"`warmstart init {shown(str(path.parent))}` reads the other files too" if len(others) > 1 else ""
        objects = tuple(_objects(_read(path, name), file))
        if any(is_recipe(one.value) for one in objects):
            raise InputError(f"{name} is a recipe already", hint="run `warmstart build`, or name a manifest")
        return Inputs(name, objects, hint=hint)


def make_inputs(
    name: str, values: Iterable[Block], notes: Iterable[str] = (), *, chosen: Block | None = None
) -> Inputs:
    """Return the objects of a cluster, with the one to make a recipe from."""
    return Inputs(name, tuple(map(InputObject, values)), tuple(notes), chosen=chosen, from_server=True)


def _read_directory(path: Path) -> Inputs:
    if (path / "Chart.yaml").exists():
        raise InputError(f"{path} is a Helm chart", hint=f"run `helm template {shown(str(path))} | warmstart init -`")
    files = _list_files(path)
    if not files:
        raise InputError(
            f"there is no manifest in the directory {path}",
            hint="a manifest is a file *.yaml, *.yml or *.json; subdirectories are not searched",
        )
    objects, failures = [], []
    for file in [*files, *(path / name for name in _KUSTOMIZATIONS if (path / name).is_file())]:
        try:
            objects += [one for one in _objects(_read(file, str(file)), file) if not is_recipe(one.value)]
        except InputError as error:
            failures.append(error)
    if failures and not any(one.containers for one in objects):
        raise failures[0]
    notes = [f"left out: {': '.join((error.brief, *error.details[:1]))}" for error in failures]
    if any((path / name).exists() for name in _KUSTOMIZATIONS):
        shown_path = shown(str(path))
        notes.append(
            f"{shown_path} has a kustomization; only its generators are read. `kustomize build {shown_path}` applies "
            "all of it"
        )
    return Inputs(str(path), tuple(objects), tuple(notes))


def _list_files(directory: Path) -> list[Path]:
    return [file for file in list_files(directory, MANIFEST_SUFFIXES) if file.name not in _NO_OBJECTS]


def _read(path: Path, name: str) -> list[Document]:
    data = _BARE_TEMPLATE.sub(_quote, read_input(path))
    try:
        return read_manifest(data, name)
    except ManifestError as error:
        if b"{{" in data and not error.hint:
            error.hint = _RENDERED
        raise


def _quote(match: re.Match[bytes]) -> bytes:
    return match[1] + b"'" + match[2].replace(b"'", b"''") + b"'" + match[3]


def _objects(documents: list[Document], file: Path | None) -> Iterator[InputObject]:
    for document in documents:
        for value in _flatten(document.value):
            if value.get("kind") == "Kustomization" or (file is not None and file.name in _KUSTOMIZATIONS):
                yield from map(InputObject, generate(value, file.parent if file else None))
            else:
                yield InputObject(value, file, tuple(document.problems))


def _flatten(value: Any) -> Iterator[Block]:
    """The objects of a document; those of a List, without the List."""
    if not isinstance(value, dict):
        return
    if isinstance(value.get("items"), list):
        for item in value["items"]:
            yield from _flatten(item)
    else:
        yield value
