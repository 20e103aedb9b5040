"""Search a new image for secrets, before anyone else can: values that the build knows, and others by rules.

What is found in memory and files is warned of, and those of the build are recorded in the image; a value that the
recipe calls real ends the build. In documents that everybody reads, such as the image's config, each value is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.build.base import BaseImage
from warmstart.core.errors import SecretError
from warmstart.core.progress import Progress
from warmstart.image.annotations import PREFIX, SECRETS
from warmstart.image.compose import add_annotations
from warmstart.image.secrets.documents import find_in_document, list_strings, list_texts, read_documents
from warmstart.image.secrets.finder import Finder
from warmstart.image.secrets.judge import OWN_WARNINGS, JudgedFinding, choose_secrets, judge_findings
from warmstart.image.secrets.record import FoundSecret, write_record
from warmstart.image.secrets.search import search_layers
from warmstart.recipe.model import Container, OnSecret, Recipe, Secret

_WORD = re.compile(rb"[A-Za-z]+")
_HINT_OF_FINDING = "fix each, or allow it in secrets.allow of the recipe with a reason"
_HINT = (
    "nothing was published: take the value out of labels, names and command lines of the recipe,"
    " or give the secret another value in build.secrets"
)


@dataclass(frozen=True)
class SecretsFound:
    """The secrets in a new image.

    Attributes:
        record: those of the build, as the image records them.
        judged: all of them.
    """

    record: tuple[FoundSecret, ...] = ()
    judged: tuple[JudgedFinding, ...] = ()


def search_secrets(recipe: Recipe, layout: Path, base: BaseImage, progress: Progress) -> SecretsFound:
    """Search a new image for secrets, warn of those that it holds, and record those of its build in the image.

    Args:
        recipe: the recipe.
        layout: layout of the image; the record becomes an annotation of it.
        base: its base image, whose own layers and documents are not searched.
        progress: progress reporter.

    Raises:
        SecretError: a secret of the build is in the manifest or the config, or one that the recipe refuses is anywhere.
        ImageError: the image is broken.
    """
    has_own = bool(_list_secrets(recipe))
    if recipe.secret_search.on_found is OnSecret.IGNORE and not has_own:
        return SecretsFound()
    with progress.step("search for secrets"):
        sought = choose_secrets(_list_secrets(recipe), progress, lambda one: _is_public(one, recipe, base))
        documents, left_out = read_documents(layout), list_strings(base.layout)
        _search_documents(sought, documents, left_out)
        if recipe.secret_search.on_found is OnSecret.IGNORE:
            return SecretsFound()
        result = search_layers(layout, base.layers, sought, texts=list_texts(documents, left_out))
        if has_own:
            add_annotations(layout, {PREFIX + SECRETS: write_record(result.known)})
        judged = judge_findings(result, recipe.secret_search, progress, _HINT_OF_FINDING)
    return SecretsFound(result.known, judged)


def document_findings(found: SecretsFound) -> list[Mapping[str, Any]]:
    """Return all findings for the build report, without any value."""
    return [one.document for one in found.judged]


def check_report(recipe: Recipe, base: BaseImage, report: Mapping[str, Any]) -> None:
    """Check that no secret is in a build report.

    Raises:
        SecretError: one is.
    """
    if sought := [secret for secret in _list_secrets(recipe) if not _is_public(secret, recipe, base)]:
        own = [text for text in report["warnings"] if text.startswith(OWN_WARNINGS)]
        _search_documents(sought, {"report": report}, own)


def _list_secrets(recipe: Recipe) -> list[Secret]:
    """List the values to search for: the build's own, and those that the recipe calls real."""
    own = [one for one in recipe.secrets if one.is_hidden]
    return list({one.name: one for one in [*own, *recipe.secret_search.real]}.values())


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


def _search_documents(
    sought: Sequence[Secret], documents: Mapping[str, Any], left_out: Sequence[str] | set[str]
) -> None:
    """Search documents that everybody reads. A value that is a single word may be in them by chance.

    Raises:
        SecretError: a document holds another value.
    """
    finder, words, bad = Finder(sought), {one.name for one in sought if _WORD.fullmatch(one.value.strip())}, []
    for name, document in documents.items():
        for secret, paths in find_in_document(document, finder, name, left_out).items():
            if secret not in words:
                bad.append(FoundSecret(secret, tuple(paths)))
    if bad:
        names = ", ".join(sorted({one.name for one in bad}))
        brief = f"the value of a secret would be published with the image: {names}"
        raise SecretError(brief, details=[f"{one.name}: {path}" for one in bad for path in one.places], hint=_HINT)
