"""Secrets on the command line: an image that restores itself has it in its config, for everyone to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from warmstart.core.yaml_document import KeyPath, dotted
from warmstart.recipe.complete import holds
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.sources import Report

_WHY = "an image that restores itself has its command line for everyone to read, and this has the value of the secret"
_FIX = "let the program read the variable, or a shell, as in [sh, -c, 'exec app --password=\"$DB_PASSWORD\"']"


def settle_command_line(recipe: Recipe, warn: Callable[[str], object], report: Report) -> Recipe:
    """Return a recipe without `self` if its command line has a secret, and `self` was not asked for.

    Args:
        recipe: the recipe.
        warn: takes a warning if `self` is left out.
        report: takes the path and the message of each problem if it was asked for.
    """
    found = find_published(recipe) if Restorer.SELF in recipe.restore else {}
    if found and recipe.restore_is_default and not recipe.needs_self:
        path, name = next(iter(found.items()))
        warn(f"the image will not restore itself, because {dotted(path)} has the value of the secret {name}: {_FIX}")
        return replace(recipe, restore=(Restorer.RUNTIME,))
    for path, name in found.items():
        report(path, f"{_WHY} {name}: {_FIX}")
    return recipe


def find_published(recipe: Recipe) -> dict[KeyPath, str]:
    """Return the words of the command line that have the value of a secret: their paths, and the secret's name."""
    words = {
        ("container", key, index): word.encode(errors="surrogateescape")
        for key, line in (("command", recipe.container.command), ("args", recipe.container.args))
        for index, word in enumerate(line)
    }
    hidden = [secret for secret in recipe.secrets if secret.is_hidden]
    return {path: one.name for path, word in words.items() for one in hidden if holds(word, one.value)}
