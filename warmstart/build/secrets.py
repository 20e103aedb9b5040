"""Search a new image for the values of the build's secrets, before anyone else can.

In memory and files they are expected: a warning names them, and the image records them. In documents that everybody
reads, such as the config of the image, they are an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.build.base import BaseImage
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress
from warmstart.image.annotations import PREFIX, SECRETS
from warmstart.image.compose import add_annotations
from warmstart.image.layout import read_document, read_image
from warmstart.image.secrets.documents import find_in_document, walk_strings
from warmstart.image.secrets.finder import Finder
from warmstart.image.secrets.forms import SHORTEST_BYTES, list_forms
from warmstart.image.secrets.record import FoundSecret, write_record
from warmstart.image.secrets.search import search_layers
from warmstart.recipe.model import Container, Recipe, Secret

_HELD = "the image holds build-only secrets: "
_NOT_SOUGHT = "the image is not searched for "
_WORD = re.compile(rb"[A-Za-z]+")
_HINT = (
    "nothing was published: take the value out of labels, names and command lines of the recipe,"
    " or give the secret another value in build.secrets"
)


def search_secrets(recipe: Recipe, layout: Path, base: BaseImage, progress: Progress) -> tuple[FoundSecret, ...]:
    """Search a new image for the secrets of its build, warn of those that it holds, and record them in the image.

    Args:
        recipe: the recipe.
        layout: layout of the image; the record becomes an annotation of it.
        base: its base image, whose own layers and documents are not searched.
        progress: progress reporter.

    Raises:
        ImageError: a secret is in the manifest or the config; or the image is broken.
    """
    if not _list_secrets(recipe):
        return ()
    with progress.step("search for secrets"):
        sought = _choose(recipe, base, progress)
        in_documents = _search_documents(sought, _read_documents(layout), _list_strings(base))
        found = search_layers(layout, base.layers, sought)
        found = _merge(found, in_documents)
        add_annotations(layout, {PREFIX + SECRETS: write_record(found)})
        if found:
            progress.warn(_HELD + ", ".join(map(str, found)))
    return found


def check_report(recipe: Recipe, base: BaseImage, report: Mapping[str, Any]) -> None:
    """Check that no secret is in a build report.

    Raises:
        ImageError: one is.
    """
    if sought := [secret for secret in _list_secrets(recipe) if not _is_public(secret, recipe, base)]:
        own = [text for text in report["warnings"] if text.startswith((_HELD, _NOT_SOUGHT))]
        _search_documents(sought, {"report": report}, own)


def _list_secrets(recipe: Recipe) -> list[Secret]:
    return [one for one in recipe.secrets if one.is_hidden]


def _choose(recipe: Recipe, base: BaseImage, progress: Progress) -> list[Secret]:
    """Choose the secrets to search for, and warn of the others."""
    secrets = _list_secrets(recipe)
    short = [one for one in secrets if not list_forms(one.value)]
    public = [one for one in secrets if one not in short and _is_public(one, recipe, base)]
    if short:
        _warn_of(short, f"shorter than {SHORTEST_BYTES} bytes", progress)
    if public:
        _warn_of(public, "also part of a name in the recipe", progress)
    return [one for one in secrets if one not in short and one not in public]


def _warn_of(left_out: Sequence[Secret], why: str, progress: Progress) -> None:
    names = ", ".join(sorted({one.name for one in left_out}))
    values = "a value that is" if len(left_out) == 1 else "values that are"
    progress.warn(f"{_NOT_SOUGHT}{names}: {values} {why}")


def _is_public(secret: Secret, recipe: Recipe, base: BaseImage) -> bool:
    """Whether a value is part of a name that everybody reads anyway, such as the user `shop` of the image `shop:1`."""
    value = secret.value.strip()
    return any(value in name.encode() for name in _list_names(recipe, base))


def _list_names(recipe: Recipe, base: BaseImage) -> Iterator[str]:
    yield from (recipe.name, str(recipe.image), base.source.label, *recipe.labels)
    yield from (secret.name for secret in recipe.secrets)
    yield from _list_names_of(recipe.container)
    for service in recipe.services:
        yield from (service.name, *service.aliases, *_list_names_of(service.container))
    for init in recipe.init:
        yield from (init.name, *_list_names_of(init.container))


def _list_names_of(container: Container) -> Iterator[str]:
    yield container.image
    yield from (name for name, _ in container.env)
    yield from (port.name for port in container.ports)
    yield from (mount.volume.name for mount in container.volume_mounts)


def _read_documents(layout: Path) -> dict[str, Any]:
    """Read the documents of an image that name its parts; the layers are not among them."""
    manifest = read_image(layout).manifest
    return {
        "manifest": json.loads(read_document(layout, manifest.descriptor)),
        "config": json.loads(read_document(layout, manifest.config)),
    }


def _list_strings(base: BaseImage) -> set[str]:
    documents = _read_documents(base.layout)
    return {text for _, text in walk_strings(documents)}


def _search_documents(
    sought: Sequence[Secret], documents: Mapping[str, Any], left_out: Sequence[str] | set[str]
) -> dict[str, list[str]]:
    """Search documents that everybody reads.

    Returns:
        The documents that hold a value by chance, for each such secret: a single word, such as `localhost`.

    Raises:
        ImageError: a document holds another value.
    """
    finder, words, bad = Finder(sought), {one.name for one in sought if _WORD.fullmatch(one.value.strip())}, []
    by_chance: dict[str, list[str]] = {}
    for name, document in documents.items():
        for secret, paths in find_in_document(document, finder, name, left_out).items():
            if secret in words:
                by_chance.setdefault(secret, []).append(name)
            else:
                bad.append(FoundSecret(secret, tuple(paths)))
    if bad:
        names = ", ".join(sorted({one.name for one in bad}))
        brief = f"the value of a secret would be published with the image: {names}"
        raise ImageError(brief, details=[f"{one.name}: {path}" for one in bad for path in one.places], hint=_HINT)
    return by_chance


def _merge(found: Sequence[FoundSecret], more: Mapping[str, Sequence[str]]) -> tuple[FoundSecret, ...]:
    places = {one.name: one.places for one in found}
    for name, others in more.items():
        places[name] = (*places.get(name, ()), *others)
    return tuple(FoundSecret(name, where) for name, where in sorted(places.items()))
