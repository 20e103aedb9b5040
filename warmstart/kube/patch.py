"""Change only necessary values in a manifest written by a person; every other character of the file stays."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from warmstart.core.errors import InputError, ManifestError
from warmstart.core.yaml_document import Document, KeyPath, read_documents, walk
from warmstart.core.yaml_editing import append_item, delete_key, set_value, split_documents
from warmstart.kube.frozen import compare_frozen, list_frozen_warnings, list_variable_changes, refuse_frozen
from warmstart.kube.manifests import make_patch, put_settings
from warmstart.kube.match import find_changes
from warmstart.kube.mismatch import list_warnings
from warmstart.kube.settings import BuildInfo, Setting
from warmstart.recipe.checks import without_transport
from warmstart.recipe.pods import Block, PodContainer, choose_container, find_containers, manifest_error, read_manifest

_CONTEXT_LINES = 2
# Keys that a new key of a pod or of a container stands before or after.
_BEFORE, _AFTER = "containers", "image"
_BOM = "\ufeff"


@dataclass(frozen=True)
class Patched:
    """A manifest, changed to match a build.

    Attributes:
        text: the file, changed.
        diff: the changes as a unified diff with reasons; empty for no change.
        warnings: settings that a restored container ignores.
        patch: the changes as a strategic merge patch; None for nothing.
    """

    text: str
    diff: str
    warnings: tuple[str, ...]
    patch: Block | None


def patch_manifest(
    data: bytes, name: str, container: str | None, build: BuildInfo, accepted: Collection[str] = ()
) -> Patched:
    """Change a manifest so that its pod is restored from an image.

    Args:
        data: the file, YAML or JSON: one or more documents, Lists among them.
        name: name of the file in messages and in the diff.
        container: its name, as for `choose_container`; needed if there are several, unless only one has the image of
            the build.
        build: the image.
        accepted: names of frozen values that may stay as in the build; see `refuse_frozen`.

    Raises:
        ManifestError: it is not YAML, has no such container, the container cannot be changed alone, or it has frozen
            values that differ from the build's.
    """
    documents = read_manifest(data, name)
    values = [document.value for document in documents]
    found = [one for value in values for one in find_containers(value)]
    chosen = _choose(found, container, name, build)
    number, path = _find_path(documents, chosen.block)
    document = documents[number]
    if problems := [problem for problem in document.problems if not problem.repeats]:
        raise manifest_error(name, problems)
    _refuse_merge_keys(chosen.block, document, path, name)
    frozen = compare_frozen(build, chosen, values)
    refuse_frozen(build, frozen, accepted, document, path, name)
    changes = [*find_changes(build, chosen.pod, chosen.block), *list_variable_changes(build, frozen)]
    texts = _apply(data.decode("utf-8"), name, number, path, changes)
    _require_same_beside(texts[-1], name, values, found.index(chosen), changes)
    return Patched(
        text=texts[-1],
        diff="".join(_diff(texts, name, changes)),
        warnings=(
            *(f"{problem}; the last one counts" for problem in document.problems),
            *list_frozen_warnings(build, frozen, accepted),
            *list_warnings(build, chosen.pod, chosen.block),
        ),
        patch=make_patch(chosen, changes) if changes else None,
    )


def _choose(found: Sequence[PodContainer], wanted: str | None, name: str, build: BuildInfo) -> PodContainer:
    """Return the container to restore: unless it is named, the only one with the build's image, cold or warm."""
    images = {build.image, without_transport(str(build.container.get("image")))}
    same = [one for one in found if str(one.block.get("image")) in images]
    return same[0] if wanted is None and len(same) == 1 else choose_container(found, wanted, name)


def _refuse_merge_keys(value: Any, document: Document, path: KeyPath, name: str) -> None:
    """Refuse a container that has values from elsewhere, which are not read here."""
    for at, _ in walk(value, path):
        if at[-1:] == ("<<",):
            raise ManifestError(
                f"{name}: the restored container has a merge key (<<)",
                details=[f"{document.place(at).label}: it takes values from another mapping"],
                hint="write the values out in the restored container",
            )


def _find_path(documents: Sequence[Document], block: Block) -> tuple[int, KeyPath]:
    """Return the number of the document with a container, and the container's path in it."""
    for number, document in enumerate(documents):
        for path, value in walk(document.value):
            if value is block:
                return number, path
    raise AssertionError("the container is of these documents")


def _apply(text: str, name: str, number: int, path: KeyPath, changes: Sequence[Setting]) -> list[str]:
    """Return the text, and the text with one more change each time. Line ends stay as they are."""
    mark, text = text[: text.startswith(_BOM)], text.removeprefix(_BOM)
    windows = "\r\n" in text and text.count("\r\n") == text.count("\n")
    try:
        head, *parts = split_documents(text.replace("\r\n", "\n") if windows else text)
        states = [parts[number]]
        for change in changes:
            states.append(_change(states[-1], path, change))
    except InputError as error:
        raise _shared(name) from error
    texts = ["".join([mark, head, *parts[:number], state, *parts[number + 1 :]]) for state in states]
    return [one.replace("\n", "\r\n") for one in texts] if windows else texts


def _change(text: str, container: KeyPath, change: Setting) -> str:
    """Return the document with a change. The pod is two levels above its container."""
    path = (*(container[:-2] if change.of_pod else container), *change.keys)
    if change.value is None:
        return delete_key(text, path)
    edit = append_item if change.item else set_value
    return edit(text, path, change.value, after=_AFTER, before=_BEFORE if change.of_pod and not change.item else "")


def _shared(name: str) -> ManifestError:
    return ManifestError(
        f"{name}: a value that must change has an anchor (&) and is used in several places",
        hint="write the value out in the restored container, without the anchor or alias (*)",
    )


def _require_same_beside(text: str, name: str, before: list[Any], index: int, changes: list[Setting]) -> None:
    """Refuse to change a part that is used several times, by aliases or merge keys."""
    expected = [_plain(value) for value in before]
    target = [one for value in expected for one in find_containers(value)][index]
    put_settings(target.pod, target.block, changes)
    try:
        found = [document.value for document in read_documents(text.removeprefix(_BOM), name)]
    except InputError as error:
        raise _shared(name) from error
    if _plain(expected) != _plain(found):
        raise _shared(name)


def _plain(value: Any) -> Any:
    """Return a copy without aliases and without keys that have no value."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _diff(texts: list[str], name: str, changes: list[Setting]) -> Iterator[str]:
    if changes:
        yield f"--- {name}\n+++ {name}, restored\n"
    lines = [text.splitlines() for text in texts]
    for (before, after), change in zip(pairwise(lines), changes, strict=True):
        for line in list(difflib.unified_diff(before, after, n=_CONTEXT_LINES, lineterm=""))[2:]:
            yield f"{line} {change.reason}\n" if line.startswith("@@") else f"{line}\n"
