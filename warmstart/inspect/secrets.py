"""Search an image or a checkpoint archive of anybody for secrets. Nothing is trusted, and nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from warmstart.core.errors import ImageError
from warmstart.core.reference import Source
from warmstart.core.text import printable
from warmstart.core.workspace import open_workspace
from warmstart.image.annotations import read_provenance
from warmstart.image.compose import CREATED_BY
from warmstart.image.layout import Image
from warmstart.image.manifest import DOCUMENT_LIMIT_BYTES, Descriptor
from warmstart.image.open import OpenedImage, is_packed, open_image, open_packed
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.secrets.documents import walk_strings
from warmstart.image.secrets.search import Finding, SearchResult, Text, search_archive, search_image
from warmstart.image.signatures.check import ANYBODY, Trust
from warmstart.inspect.target import Kind, Target, read_target
from warmstart.recipe.model import Secret
from warmstart.recipe.secret_names import secret_reason

#: The kind of a variable whose name says that it is a secret.
VARIABLE = "environment-variable"


def search_target(
    target: str, values: Sequence[Secret] = (), *, access: RegistryAccess = DEFAULT_ACCESS, signed: Trust = ANYBODY
) -> SearchResult:
    """Search an image or a checkpoint archive, which may be compressed, for secrets.

    Of an image that warmstart made, only what it added to the base image is searched.

    Args:
        target: as for `inspect_target`; also an archive that is compressed with gzip or zstd.
        values: values to search for.
        access: registries without TLS, and the file of credentials.
        signed: the keys that the image must be signed with.

    Raises:
        ArchiveError: the archive cannot be read.
        ImageError: the image or archive is broken.
        InputError: it is a recipe, or a file that does not exist.
        ImageReferenceError: it is neither a path nor the name of an image.
        RegistryError: the registry refused, or could not be reached.
        SignatureError: no trusted key signed it.
    """
    found = read_target(target)
    if found.source is None:
        signed.refuse_file(target)
    result = _search_image(found.source, values, access, signed) if found.source else _search_archive(found, values)
    return SearchResult((*result.findings, *_list_variables(result.environment)), result.is_complete)


def _search_archive(target: Target, values: Sequence[Secret]) -> SearchResult:
    is_archive = target.kind is Kind.CHECKPOINT
    if target.path is None or not (is_archive or (target.kind is Kind.RECIPE and is_packed(target.path))):
        raise target.mismatch("an image or a checkpoint archive")
    with open_packed(target.path) as stream, open_workspace("inspect") as workspace:
        return search_archive(stream, str(target.path), values, workspace=workspace)


def _search_image(source: Source, values: Sequence[Secret], access: RegistryAccess, signed: Trust) -> SearchResult:
    with open_image(source, access=access) as opened, open_workspace("inspect") as workspace:
        signed.require(source, opened.image.manifest, access)
        is_ours = read_provenance(opened.image.manifest.annotations) is not None
        lowest = _find_lowest(opened.image) if is_ours else 0
        texts = [*_list_texts(opened, opened.image.manifest.config, "config"), *_list_annotations(opened.image)]
        result = search_image(opened, lowest, values, texts=texts, is_foreign=not is_ours, workspace=workspace)
        variables = [one.text for one in texts if one.path.startswith("config: config: Env[")]
    return SearchResult(result.findings, result.is_complete, (*result.environment, *variables))


def _find_lowest(image: Image) -> int:
    """Return the index of the first layer that warmstart added."""
    return next((index for index, maker in enumerate(image.makers) if maker.startswith(CREATED_BY)), 0)


def _list_texts(opened: OpenedImage, document: Descriptor, name: str) -> list[Text]:
    with opened.open_content(document) as blob:
        content = blob.read(DOCUMENT_LIMIT_BYTES)
    try:
        return [Text(name, path, text) for path, text in walk_strings(json.loads(content), name)]
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the {name} of the image is not understood: {error}") from error


def _list_annotations(image: Image) -> list[Text]:
    annotations = {"annotations": dict(image.manifest.annotations)}
    return [Text("manifest", path, text) for path, text in walk_strings(annotations, "manifest")]


def _list_variables(environment: Sequence[str]) -> Iterator[Finding]:
    """Yield variables whose names or values say that they are secrets, once each."""
    for name, value in dict.fromkeys(tuple(one.partition("=")[::2]) for one in environment):
        if secret_reason(name, value):
            places = ("environment",)
            yield Finding(VARIABLE, printable(name)[:200], f"… ({len(value)} characters)", 1, places, places)
