"""While an application is warmed up until it is steady, its waits are interrupted, as by a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import parse_recipe

pytestmark = pytest.mark.node

IMAGE = Path(__file__).parents[2] / "build/images/python.tar"
# Python would begin the wait anew by itself (PEP 475).
WAITING = """
import ctypes, pathlib
libc = ctypes.CDLL(None)
waiting = libc.epoll_create1(0)
while libc.epoll_wait(waiting, ctypes.create_string_buffer(12), 1, -1) == -1:
    pathlib.Path("/tmp/interrupted").touch()
"""


@pytest.mark.parametrize("restorer", ["runtime", "self"])
def test_a_wait_is_interrupted_before_the_checkpoint(cache, tmp_path, restorer):
    if not IMAGE.exists():
        pytest.skip("the base images of the recipes are not built: make images")
    container = {"image": f"oci-archive:{IMAGE}", "command": ["python3", "-c", WAITING]}
    recipe = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "waiting",
        "container": container,
        "build": {"settled": {"quietSeconds": 1}},
        "warmup": [{"exec": {"command": ["true"]}, "until": "steady", "repeat": 10, "limitSeconds": 2}],
        # The build fails if this does.
        "beforeCheckpoint": [{"exec": {"command": ["test", "-e", "/tmp/interrupted"]}}],
        "restore": [restorer],
        "image": {"name": "localhost/tests/waiting:warm"},
    }
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "warm"))
    assert build_image(parse_recipe(json.dumps(recipe), "recipe"), options, Progress(SilentListener())).restores
