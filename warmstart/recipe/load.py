"""A recipe from its file: read, overridden from the command line, checked as a whole, and made into the model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from warmstart.core.errors import RecipeError, input_errors_as
from warmstart.core.yaml_document import Document, KeyPath, Problem, read_document, summarize
from warmstart.recipe.beside import arrange
from warmstart.recipe.checks import find_problems
from warmstart.recipe.command_line import settle_command_line
from warmstart.recipe.complete import complete_document
from warmstart.recipe.construct import make_recipe
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.objects import read_objects
from warmstart.recipe.overrides import apply_overrides, apply_tag
from warmstart.recipe.pods import list_at
from warmstart.recipe.reading import STDIN as STDIN
from warmstart.recipe.reading import read_input as read_input
from warmstart.recipe.secret_files import find_secret_names, read_secret_files, read_values
from warmstart.recipe.sources import Sources
from warmstart.recipe.warnings import list_warnings

_PROPOSED = "the recipe"
SCHEMA_HINT = "Run `warmstart schema` to see the keys of a recipe."


def load_recipe(
    path: Path, *, overrides: Sequence[str] = (), tag: str | None = None, secrets: Sequence[str] = ()
) -> Recipe:
    """The recipe in a YAML file, or on standard input when the path is `-`.

    Args:
        path: the file. It stands in messages as it is given.
        overrides: values of the form `container.env[0].value=prod`, put in before the recipe is checked.
        tag: the tag of the image to make, or a whole name for it if there is a `/` or a `:` in it.
        secrets: files with values of Secrets for the build, as NAME.KEY=FILE.

    Raises:
        RecipeError: the file cannot be read, or the recipe is wrong; then `details` has a line for each mistake, with
            the line of the file, or the override, that it is in.
    """
    name = "<stdin>" if path == STDIN else str(path)
    with input_errors_as(RecipeError):
        data = read_input(path)
    document = read_document(data, name)
    if isinstance(document.value, dict):
        _refuse_manifest(document.value, name)
        apply_overrides(document, overrides)
        if tag is not None:
            apply_tag(document, tag)
    directory = Path() if path == STDIN else path.parent
    recipe = _make(document, name, directory, secrets)
    return replace(recipe, source=None if path == STDIN else path)


def parse_recipe(text: str, name: str, *, secrets: Sequence[str] = ()) -> Recipe:
    """The recipe in a text, such as the one that an image carries.

    It must be complete in itself. One of an earlier version that does not name its restorers means the runtime.

    Args:
        text: the recipe.
        name: stands for it in messages.
        secrets: files with values of Secrets, as NAME.KEY=FILE.

    Raises:
        RecipeError: the recipe is wrong, or a file cannot be read.
    """
    document = read_document(text.encode(), name)
    if isinstance(document.value, dict):
        document.value.setdefault("restore", [str(Restorer.RUNTIME)])
    return _make(document, name, None, secrets)


def find_mistakes(text: str, directory: Path) -> list[str]:
    """Return the mistakes of a recipe that would be in a directory, without their places in it; none if it is right."""
    try:
        _make(read_document(text.encode(), _PROPOSED), _PROPOSED, directory, ())
    except RecipeError as error:
        lines = [line for line in error.details if line and not line.startswith(("build:", " "))]
        found = lines or [error.brief]
        return [re.sub(rf"^{_PROPOSED}:[0-9]+: ", "", detail) for detail in found]
    return []


def with_restorers(recipe: Recipe, restorers: Sequence[Restorer]) -> Recipe:
    """Return a recipe with these restorers only, in its document too."""
    document = json.dumps({**json.loads(recipe.document), "restore": [str(one) for one in restorers]})
    return replace(recipe, restore=tuple(restorers), document=document)


def with_ports(recipe: Recipe, ports: Sequence[int]) -> Recipe:
    """Return a recipe that says, in its document too, on which ports a restored container listens.

    A recipe with a probe is returned as it is.
    """
    settled = recipe.container.settled
    if settled is None:
        return recipe
    document = json.loads(recipe.document)
    document["build"]["settled"]["ports"] = list(ports)
    container = replace(recipe.container, settled=replace(settled, ports=tuple(ports)))
    return replace(recipe, container=container, document=json.dumps(document))


def _make(document: Document, name: str, directory: Path | None, secrets: Sequence[str]) -> Recipe:
    """Check a document and make the recipe."""
    objects = read_objects(_list_entries(document.value), directory, name)
    warnings = arrange(document, objects, directory)
    problems = find_problems(document)
    if problems:
        raise recipe_error(name, problems)
    value = document.value

    def report(path: KeyPath, message: str) -> None:
        problems.append(Problem(document.place(path), path, message))

    files = read_secret_files(secrets, find_secret_names(value))
    sources = Sources(value["name"], objects, value.get("build", {}), files, report)
    recipe = settle_command_line(make_recipe(value, sources, report), warnings.append, report)
    if problems:
        raise recipe_error(name, sorted(problems, key=lambda one: one.place.order), sources.missing.stanza())
    recipe = _settle_restorers(recipe, warnings)
    recipe = _read_real_values(recipe, value.get("secrets", {}).get("files", []), directory)
    text, blanked = complete_document(value, recipe, sources)
    found = [*warnings, *blanked, *list_warnings(document, recipe, sources)]
    return replace(recipe, document=text, warnings=tuple(found))


def _read_real_values(recipe: Recipe, files: Sequence[str], directory: Path | None) -> Recipe:
    """Return a recipe with the values of files that must not be in the image."""
    real = list(recipe.secret_search.real)
    with input_errors_as(RecipeError):
        for file in files:
            real += read_values((directory or Path()) / file)
    return replace(recipe, secret_search=replace(recipe.secret_search, real=tuple(real)))


def _list_entries(value: Any) -> list[Any]:
    """The entries of `build.objects`; none if they are not what the schema wants."""
    entries = list_at(value, "build", "objects")
    return entries if all(isinstance(entry, str | dict) for entry in entries) else []


def _settle_restorers(recipe: Recipe, warnings: list[str]) -> Recipe:
    """Return a recipe without `self` if it was not asked for, and cannot be."""
    if not recipe.restore_is_default or recipe.needs_self or not recipe.container.security_context.privileged:
        return recipe
    warnings.append("the image will not restore itself, because container.securityContext.privileged is true")
    return replace(recipe, restore=(Restorer.RUNTIME,))


def recipe_error(name: str, problems: Sequence[Problem], stanza: Sequence[str] = ()) -> RecipeError:
    """One error of all the problems of a recipe, with the lines of YAML that would help."""
    brief, details = summarize(name, problems)
    if not stanza:
        return RecipeError(brief, details=details, hint=SCHEMA_HINT)
    hint = "add these lines to the recipe, with your values; secrets need none"
    return RecipeError(brief, details=[*details, "", *stanza], hint=hint)


def _refuse_manifest(value: dict[str, object], name: str) -> None:
    if "kind" in value and "container" not in value:
        raise RecipeError(
            f"{name} is a Kubernetes manifest, not a recipe",
            hint="Run `warmstart init` to make a recipe from a manifest.",
        )
