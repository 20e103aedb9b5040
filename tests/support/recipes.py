"""Build each shipped recipe once for all tests."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from support.once import MakeOnce

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe

TOP = Path(__file__).parents[2]
RECORD = "record.json"
# A Java application keeps all processors busy for most of a minute until it is.
STEADY_S = 2


@dataclass(frozen=True)
class RecipeBuild:
    """The build of a recipe.

    Attributes:
        restorers: restorers of its verified restores.
        warnings: warnings of its steps.
        hooks: runtimes of the processes with hooks.
        pages_bytes: memory of the dump.
        mapped_bytes: as much of it as is mapped from the image.
    """

    restorers: list[str]
    warnings: list[str]
    hooks: list[str]
    pages_bytes: int
    mapped_bytes: int


def build_once(make_once: MakeOnce, recipe: Path, cache: Path) -> tuple[Path, RecipeBuild]:
    """Return the layout of a recipe's image and the record of its build."""
    made = make_once("-".join(recipe.relative_to(TOP).with_suffix("").parts), partial(_build, recipe, cache))
    return made / "image", RecipeBuild(**json.loads((made / RECORD).read_text()))


def load_quick(recipe: Path) -> Recipe:
    """Load a recipe, but wait no longer than STEADY_S until its application is as fast as it gets."""
    return load_recipe(recipe, overrides=limit_warmup(recipe))


def limit_warmup(recipe: Path) -> list[str]:
    """Return the overrides of `load_quick`."""
    steps = enumerate(load_recipe(recipe).warmup)
    return [f"warmup[{index}].limitSeconds={STEADY_S}" for index, step in steps if step.steady_limit_s]


def _build(recipe: Path, cache: Path, path: Path) -> None:
    assert (TOP / "build/images" / f"{recipe.parent.name}.tar").exists(), "make images"
    path.mkdir()
    steps = Progress(SilentListener())
    built = build_image(load_quick(recipe), BuildOptions(cache, Output(Transport.OCI, path / "image")), steps)
    record = RecipeBuild(
        [restore.restorer for restore in built.restores],
        steps.warnings,
        [one.runtime for one in built.hooks],
        built.dump.pages_bytes,
        built.dump.memory.size_bytes,
    )
    (path / RECORD).write_text(json.dumps(asdict(record)))
