"""A recipe that names no restorer gets an image for both, or for the one that can restore it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.evaluator import make_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.image.layout import read_image
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Restorer

pytestmark = pytest.mark.node

NAME = "localhost/tests/restorers:1"
BOTH = [Restorer.RUNTIME] * 2 + [Restorer.SELF] * 2
# System V semaphores that an image cannot restore by itself.
SYSTEM_V = "import ctypes; ctypes.CDLL(None).semget(0, 1, 0o600 | 0o1000)"
# An eventfd that the runtime would restore without EFD_SEMAPHORE.
SEMAPHORE = "import ctypes; ctypes.CDLL(None).eventfd(3, 1)"
OPEN = "kept = open('/data/kept', 'w')"
VOLUME = {
    "container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    "volumes": [{"name": "data", "emptyDir": {}}],
}


@pytest.mark.parametrize(
    ("begin", "more", "restorers", "warning"),
    [
        ("", {}, BOTH, ""),
        (SYSTEM_V, {}, BOTH[:2], "the image will not restore itself, only the runtime restores it: "),
        (SEMAPHORE, {}, BOTH[2:], "the runtime will not restore the image, it restores itself: "),
    ],
    ids=["both", "not itself", "not the runtime"],
)
def test_the_build_goes_on_with_the_restorer_that_can(cache, tmp_path, begin, more, restorers, warning):
    progress, output = Progress(SilentListener()), Output(Transport.OCI, tmp_path / "out")
    recipe = make_recipe(NAME, begin=begin, restore=["runtime", "self"], **more)
    built = build_image(replace(recipe, restore_is_default=True), BuildOptions(cache, output), progress)
    assert [restore.restorer for restore in built.restores] == restorers
    assert [one for one in progress.warnings if one.startswith(warning)] if warning else not progress.warnings
    # The recipe in the image says so.
    recipe = parse_recipe(built.provenance.recipe, "the image")
    assert list(recipe.restore) == list(dict.fromkeys(restorers))
    annotations = json.dumps(read_image(output.path).manifest.annotations)
    assert ("checkpoint.name" in annotations) == (Restorer.RUNTIME in restorers)


@pytest.mark.parametrize(("begin", "more"), [(SYSTEM_V, {}), (OPEN, VOLUME)], ids=["not itself", "not the runtime"])
def test_a_recipe_that_names_both_is_not_built_for_one(cache, tmp_path, begin, more):
    recipe = make_recipe(NAME, begin=begin, restore=["runtime", "self"], **more)
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"))
    with pytest.raises(PreflightError):
        build_image(recipe, options, Progress(SilentListener()))
