"""The order of a build's steps; integration tests cover the builds themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.pods.build import build_in_cluster
from warmstart.recipe.model import Container, Recipe, Restorer

RECIPE = Recipe(
    "app",
    Container(image="base:1"),
    "registry.example.com/app:1-warm",
    document='{"container": {"image": "base:1"}}',
)


def build_here(recipe: Recipe, options: BuildOptions, steps: Progress) -> object:
    return build_image(recipe, options, steps)


def build_there(recipe: Recipe, options: BuildOptions, steps: Progress) -> object:
    return build_in_cluster(replace(recipe, restore=(Restorer.RUNTIME,)), options, cast(Any, None), steps)


@pytest.mark.parametrize("run", [build_here, build_there])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_made(tmp_path, run):
    options, steps = (
        BuildOptions(Path("/nonexistent"), Output(Transport.OCI_ARCHIVE, tmp_path)),
        Progress(SilentListener()),
    )
    with pytest.raises(ImageError, match="cannot be written: it is a directory"):
        run(RECIPE, options, steps)
    assert steps.durations_s == {}
