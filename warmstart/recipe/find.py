"""The recipes that a command line names: files, and all recipes of a directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.core.errors import RecipeError, input_errors_as
from warmstart.core.yaml_document import read_document
from warmstart.recipe.reading import RECIPE_API, STDIN, is_recipe, list_files, read_input

_SUFFIXES = (".yaml", ".yml")


def find_recipes(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files, and for each directory the recipes in it by name; subdirectories are left out.

    A YAML file of a directory is a recipe if its `apiVersion` begins with `warmstart/`; a directory may hold other
    manifests as well.

    Raises:
        RecipeError: a directory has no recipe, a file of it is not YAML, or a file is named twice.
    """
    found = [recipe for path in paths for recipe in (_list_recipes(path) if path.is_dir() else (path,))]
    seen: dict[Path, Path] = {}
    for path in found:
        same = seen.setdefault(path if path == STDIN else path.resolve(), path)
        if same is not path:
            raise RecipeError(f"the recipe {path} is named twice")
    return tuple(found)


def _list_recipes(directory: Path) -> Iterator[Path]:
    with input_errors_as(RecipeError):
        files = list_files(directory, _SUFFIXES)
    recipes = [path for path in files if is_recipe(read_document(read_input(path), str(path)).value)]
    if not recipes:
        hint = f"a recipe is a file *.yaml or *.yml with `apiVersion: {RECIPE_API}...`; subdirectories are not searched"
        raise RecipeError(f"there is no recipe in the directory {directory}", hint=hint)
    yield from recipes
