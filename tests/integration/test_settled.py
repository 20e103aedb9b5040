"""A container without a probe: it is awaited until it has settled, and its ports are asked after a restore."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import AppError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Restorer

pytestmark = pytest.mark.node

IMAGE = Path(__file__).parents[2] / "build/images/python.tar"
BUSY_S = 3
WORKER = f"""
import socket, time
end = time.monotonic() + {BUSY_S}
while time.monotonic() < end:
    sum(range(10_000))
own = socket.create_server(("0.0.0.0", 9000))
while True:
    time.sleep(1)
"""


def write_worker(tmp_path: Path, script: str, settled: str) -> Path:
    recipe = tmp_path / "recipe.yaml"
    text = f"""\
        apiVersion: warmstart/v1alpha1
        name: worker
        container:
          image: oci-archive:{IMAGE}
          command: [python3, -c]
          args: [{script!r}]
        build: {{settled: {settled}}}
        restore: [runtime, self]
        image: {{name: "localhost/tests/worker:warm"}}
        """
    recipe.write_text(
        textwrap.dedent(text).replace(repr(script), '"' + script.replace('"', "'").replace("\n", "\\n") + '"')
    )
    return recipe


@pytest.fixture(autouse=True)
def base_image():
    if not IMAGE.exists():
        pytest.skip("the base images of the recipes are not built: make images")


def test_a_worker_is_restored_with_its_ports(cache, tmp_path):
    recipe = load_recipe(write_worker(tmp_path, WORKER, "{quietSeconds: 2}"))
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"))
    built = build_image(recipe, options, Progress(SilentListener()))
    assert built.cold_s >= BUSY_S - 0.5
    assert [one.restorer for one in built.restores] == [Restorer.RUNTIME] * 2 + [Restorer.SELF] * 2
    # The machine may be busy, but not each time.
    assert min(one.first_success_s for one in built.restores) < BUSY_S
    settled = parse_recipe(built.provenance.recipe, "the image").container.settled
    assert settled is not None
    assert settled.ports == (9000,)


def test_a_worker_that_never_rests(cache, tmp_path):
    recipe = load_recipe(write_worker(tmp_path, "while True: pass", "{quietSeconds: 1, timeoutSeconds: 4}"))
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"))
    with pytest.raises(AppError, match="the container did not settle within 4 s: in its last"):
        build_image(recipe, options, Progress(SilentListener()))
    assert not (tmp_path / "out").exists()
