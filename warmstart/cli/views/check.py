"""Recipes that were only read, as lines and as documents for `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from warmstart.probe.readiness import find_limit_s
from warmstart.recipe.model import Recipe, is_late


def describe_recipe(recipe: Recipe) -> str:
    """Return what a build of the recipe would do, in one line."""
    parts = [
        f"{recipe.image}, restored by {' and '.join(map(str, recipe.restore))}",
        f"ready within {find_limit_s(recipe.container):g} s",
        _name("services", (service.name for service in recipe.services)),
        _name("init containers", (init.name for init in recipe.init)),
        _name("volumes", (f"{mount.path} ({mount.volume.kind})" for mount in recipe.container.volume_mounts)),
        _name("late", recipe.late),
        _name("secrets made up", (secret.name for secret in recipe.secrets if not secret.given)),
    ]
    return "; ".join(part for part in parts if part)


def make_check_document(path: str, recipe: Recipe) -> Mapping[str, Any]:
    """Return the document of a recipe. It names variables, mounts and secrets, and has no value of one."""
    names = list(dict(recipe.container.env))
    late = [name for name in names if is_late(name, recipe.late)]
    return {
        "recipe": path,
        "status": "ok",
        "name": recipe.name,
        "image": str(recipe.image),
        "restore": [str(restorer) for restorer in recipe.restore],
        "readyWithinSeconds": find_limit_s(recipe.container),
        "frozen": [name for name in names if name not in late],
        "late": late,
        "mounts": [
            {"path": mount.path, "volume": mount.volume.name, "kind": str(mount.volume.kind)}
            for mount in recipe.container.volume_mounts
        ],
        "services": [{"name": one.name, "aliases": list(one.aliases)} for one in recipe.services],
        "init": [one.name for one in recipe.init],
        "secrets": [{"name": one.name, "given": one.given} for one in recipe.secrets],
        "warnings": list(recipe.warnings),
    }


def _name(what: str, names: Iterable[str]) -> str:
    found = ", ".join(names)
    return f"{what}: {found}" if found else ""
