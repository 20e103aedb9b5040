"""The option `build --check`: read recipes and their objects, and run nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.build.base import find_source
from warmstart.build.batch import find_exit_code
from warmstart.cli.context import Shell
from warmstart.cli.terminal import safe, show_error
from warmstart.cli.views.check import describe_recipe, make_check_document
from warmstart.cli.views.error import make_failure_document
from warmstart.core.errors import WarmstartError
from warmstart.core.privileges import Privilege
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe
from warmstart.recipe.privileges import require_recipe_privileges
from warmstart.recipe.warnings import list_impatient_probes


@dataclass(frozen=True)
class RecipeOptions:
    """Values of the command line for recipes: as for `load_recipe`, and the privileges that they may have."""

    overrides: Sequence[str] = ()
    tag: str | None = None
    secrets: Sequence[str] = ()
    allowed: Sequence[Privilege] = ()


def check_recipes(shell: Shell, paths: Sequence[Path], options: RecipeOptions, *, as_json: bool) -> None:
    """Print a line for each recipe, and exit with the code of the mistakes, if any."""
    checked = [(path, _check(path, options)) for path in paths]
    if as_json:
        documents = [
            make_failure_document(str(path), found)
            if isinstance(found, WarmstartError)
            else make_check_document(str(path), found)
            for path, found in checked
        ]
        shell.print_json({"recipes": documents})
    else:
        for path, found in checked:
            _show(shell, path, found)
    if code := find_exit_code(_list_errors(checked)):
        raise SystemExit(code)


def _check(path: Path, options: RecipeOptions) -> Recipe | WarmstartError:
    try:
        recipe = load_recipe(path, overrides=options.overrides, tag=options.tag, secrets=options.secrets)
        require_recipe_privileges(recipe, options.allowed)
        find_source(recipe)
    except WarmstartError as error:
        return error
    return replace(recipe, warnings=(*recipe.warnings, *list_impatient_probes(recipe.container)))


def _show(shell: Shell, path: Path, found: Recipe | WarmstartError) -> None:
    if isinstance(found, WarmstartError):
        show_error(shell.err, found, debug=shell.debug)
        line = f"{path}: failed ({found.kind}, code {found.exit_code})"
    else:
        for warning in found.warnings:
            shell.progress().warn(warning)
        line = f"{path}: ok: {describe_recipe(found)}"
    shell.out.print(safe(line), highlight=False, soft_wrap=True)


def _list_errors(checked: Sequence[tuple[Path, Recipe | WarmstartError]]) -> Iterator[WarmstartError]:
    return (found for _, found in checked if isinstance(found, WarmstartError))
