"""The OCI runtimes of CRI-O: a checkpoint of either is restored by both."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from support.builds import build, get, read_state, write_recipe

import warmstart.build.container
from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport
from warmstart.engine.local import start_engine
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

SUBNET = "10.77.0.0/24"
IMAGE = "localhost/tests/runtimes:1"
SETTINGS = {"env": [{"name": "FILL_MB", "value": "8"}]}


@pytest.mark.parametrize("builder", ["runc", "crun"])
def test_an_image_restores_under_the_other_one_too(builder, base_archive, cache, open_node, tmp_path, monkeypatch):
    # The pipeline itself verifies under runc, whatever it builds with.
    monkeypatch.setattr(warmstart.build.container, "start_engine", partial(start_engine, runtime=builder))
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, IMAGE, SETTINGS, memory={"mapped": "all"})
    built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
    assert len(built.restores) == 2

    container = load_recipe(recipe).container
    with open_node() as session:
        layout = Path(shutil.move(tmp_path / "out", session.workspace / "layout"))
        with start_engine(session, "other", subnet=SUBNET, runtime="crun") as engine:
            engine.import_image(layout, IMAGE)
            with engine.cri.start(container, IMAGE, "pod") as running:
                assert running.restored
                assert get(running, "/check")[0] == 200
                assert int(read_state(running)["requests"]) > 1
