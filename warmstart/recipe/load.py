"""A recipe from its file: read, overridden from the command line, checked as a whole, and made into the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from warmstart.core.errors import InputError, RecipeError, input_errors_as
from warmstart.core.yaml_document import LARGEST_BYTES, Problem, read_document, summarize
from warmstart.recipe.checks import find_problems
from warmstart.recipe.construct import make_recipe
from warmstart.recipe.model import Recipe
from warmstart.recipe.overrides import apply_overrides, apply_tag

STDIN = Path("-")
SCHEMA_HINT = "Run `warmstart schema` to see the keys of a recipe."


def load_recipe(path: Path, *, overrides: Sequence[str] = (), tag: str | None = None) -> Recipe:
    """The recipe in a YAML file, or on standard input when the path is `-`.

    Args:
        path: the file. It stands in messages as it is given.
        overrides: values of the form `container.env[0].value=prod`, put in before the recipe is checked.
        tag: the tag of the image to make, or a whole name for it if there is a `/` or a `:` in it.

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
    problems = find_problems(document)
    if problems:
        raise recipe_error(name, problems)
    return make_recipe(document.value, source=None if path == STDIN else path)


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe in a text, such as the one that an image carries; `name` stands for it in messages.

    Raises:
        RecipeError: the recipe is wrong.
    """
    document = read_document(text.encode(), name)
    problems = find_problems(document)
    if problems:
        raise recipe_error(name, problems)
    return make_recipe(document.value, source=None)


def read_input(path: Path) -> bytes:
    """The content of a file, or of standard input when the path is `-`: at most a byte more than is allowed.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(LARGEST_BYTES + 1)
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory", hint="Name a file.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {str(path)!r}: {reason}") from error


def recipe_error(name: str, problems: Sequence[Problem]) -> RecipeError:
    """One error of all the problems of a recipe."""
    brief, details = summarize(name, problems)
    return RecipeError(brief, details=details, hint=SCHEMA_HINT)


def _refuse_manifest(value: dict[str, object], name: str) -> None:
    if "kind" in value and "container" not in value:
        raise RecipeError(
            f"{name} is a Kubernetes manifest, not a recipe",
            hint="Run `warmstart init` to make a recipe from a manifest.",
        )
