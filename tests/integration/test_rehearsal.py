"""While an application is warmed up until it is steady, it meets what a restore does to its waits and connections."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from support.evaluator import IMAGES, REDIS

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import parse_recipe

pytestmark = pytest.mark.node

IMAGE = IMAGES / "python.tar"
# Python would begin the wait anew by itself (PEP 475).
WAITING = """
import ctypes, pathlib, time
libc = ctypes.CDLL(None)
waiting = libc.epoll_create1(0)
while True:
    end = time.monotonic() + 1
    if libc.epoll_wait(waiting, ctypes.create_string_buffer(12), 1, 1000) == -1:
        pathlib.Path("/tmp/late" if time.monotonic() > end else "/tmp/early").touch()
"""


# It connects again, as pools do.
CONNECTED = """
import pathlib, socket
server = socket.create_server(("127.0.0.1", 0))
while True:
    client, (peer, _) = socket.create_connection(server.getsockname()), server.accept()
    if client.recv(1) == b"":
        pathlib.Path("/tmp/closed").touch()
"""

# It finds the service by its name each time.
MOVED = """
import pathlib, socket
addresses = set()
while True:
    client = socket.create_connection(("redis", 6379))
    addresses.add(client.getpeername())
    if len(addresses) > 1:
        pathlib.Path("/tmp/moved").touch()
    client.recv(1)
"""


def build_rehearsed(cache, tmp_path, script: str, made: Sequence[str], restorer: str, **more: object) -> None:
    """Build an image of a script, which must have made files in /tmp before its checkpoint."""
    if not IMAGE.exists():
        pytest.skip("the base images of the recipes are not built: make images")
    recipe = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "waiting",
        "container": {"image": f"oci-archive:{IMAGE}", "command": ["python3", "-c", script]},
        "build": {"settled": {"quietSeconds": 1}},
        "warmup": [{"exec": {"command": ["true"]}, "until": "steady", "repeat": 10, "limitSeconds": 2}],
        # The build fails if one of these does.
        "beforeCheckpoint": [{"exec": {"command": ["test", "-e", f"/tmp/{name}"]}} for name in made],
        "restore": [restorer],
        "image": {"name": "localhost/tests/waiting:warm"},
        **more,
    }
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "warm"))
    assert build_image(parse_recipe(json.dumps(recipe), "recipe"), options, Progress(SilentListener())).restores


@pytest.mark.parametrize("restorer", ["runtime", "self"])
def test_waits_end_early_and_late_before_the_checkpoint(cache, tmp_path, restorer):
    build_rehearsed(cache, tmp_path, WAITING, ["early", "late"], restorer)


def test_connections_are_closed_before_the_checkpoint(cache, tmp_path):
    build_rehearsed(cache, tmp_path, CONNECTED, ["closed"], "self", tcp="close")


def test_services_move_before_the_checkpoint(cache, tmp_path):
    build = {"settled": {"quietSeconds": 1}, "services": [{"name": "redis", "container": REDIS}]}
    build_rehearsed(cache, tmp_path, MOVED, ["moved"], "self", tcp="close", build=build)
