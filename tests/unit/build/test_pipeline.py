"""The order of a build's steps; integration tests cover the builds themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image, list_volume_warnings
from warmstart.build.publish import Output
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.pods.build import build_in_cluster
from warmstart.recipe.model import (
    Container,
    InitContainer,
    Recipe,
    Restorer,
    Service,
    Volume,
    VolumeKind,
    VolumeMount,
)

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


def with_volume(name: str, *, in_memory: bool = True) -> Container:
    volume = Volume(name, VolumeKind.EMPTY_DIR, in_memory=in_memory)
    return Container(image="base:1", volume_mounts=(VolumeMount(volume, "/a"), VolumeMount(volume, "/b")))


def test_all_volumes_in_memory_that_the_hosts_runtime_has_on_disk_are_named_once():
    recipe = replace(
        RECIPE,
        container=with_volume("cache"),
        init=(InitContainer("fill", with_volume("cache")), InitContainer("key", with_volume("keys"))),
        services=(Service("db", with_volume("data")), Service("queue", with_volume("disk", in_memory=False))),
    )
    names = ["cache", "keys", "data of the service db"]
    why = "is on the disk during the build, on the host's runtime"
    assert list_volume_warnings(recipe) == [f"the volume {name} {why}" for name in names]
