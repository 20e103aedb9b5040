"""Cached layers of base images in real image stores are shared and complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from warmstart.core.workspace import open_workspace
from warmstart.engine.local import start_engine
from warmstart.image.cache.layers import LayerCache, find_ids
from warmstart.image.cache.prune import prune
from warmstart.image.layout import read_image
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import find_store
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter
from warmstart.probe.readiness import wait_first_success
from warmstart.recipe.model import Container, Probe, TcpSocket

NAME = "localhost/tests/base:1"
PROBE = Probe(TcpSocket(8080))
OpenNode = Callable[..., AbstractContextManager[Session]]

# Adds the layers of a layout, and is killed when the store has been filled to a part, or goes on to the end.
ADD = """
import os, signal, sys, time
from pathlib import Path
from warmstart.core.workspace import open_workspace
from warmstart.image.cache.layers import LayerCache
from warmstart.image.layout import read_image
sys.path.insert(0, sys.argv[5])
from integration.test_layer_cache import unpack

tree, cache, layout, kill = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
layers = LayerCache(cache)
assert layers.prepare()

def unpack_some(store, present):
    if kill == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    unpack(tree, layers, layout, store, present)
    if kill == "after":
        os.kill(os.getpid(), signal.SIGKILL)

layers.add(read_image(layout).config.diff_ids, unpack_some)
"""


def unpack(tree: Path, layers: LayerCache, layout: Path, store: Path, present: Sequence[Path]) -> None:
    binds = [Bind(str(layout)), Bind(str(layers.directory)), Bind(str(store), writable=True)]
    with open_workspace("test") as workspace, enter(tree, workspace, binds=binds) as session:
        target = find_store(store, workspace / "runroot", present)
        copy_image(session, f"oci:{layout}", f"{target}{NAME}", own_layout=True)


@pytest.fixture
def layers(area) -> LayerCache:
    layers = LayerCache(Path(tempfile.mkdtemp(prefix="cache-", dir=area)))
    assert layers.prepare()
    return layers


@pytest.fixture(scope="module")
def layout(open_node, base_archive, area) -> Path:
    target = area / "cached-base"
    with open_node(Bind(str(base_archive)), Bind(str(area), writable=True)) as session:
        copy_image(session, f"oci-archive:{base_archive}", f"oci:{target}")
    return target


def add(tree: Path, layers: LayerCache, layout: Path, kill: str = "never") -> subprocess.Popen[bytes]:
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", ADD, tree, layers.directory.parent, layout, kill, tests]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tests)})


def names(layers: LayerCache) -> set[str]:
    return {path.name for path in layers.directory.iterdir()}


def test_an_engine_runs_an_image_whose_layers_are_all_in_the_cache(tree, layers, layout, open_node):
    diff_ids = read_image(layout).config.diff_ids
    layers.add(diff_ids, lambda store, present: unpack(tree, layers, layout, store, present))
    with layers.hold(diff_ids) as stores, open_node(Bind(str(layers.directory)), Bind(str(layout))) as session:
        assert [store.name for store in stores] == find_ids(diff_ids)
        with start_engine(session, "shared", subnet="10.77.0.0/24", stores=stores) as engine:
            assert NAME not in engine.cri.list_images()
            engine.import_image(layout, NAME)
            assert not any((engine.root / "overlay" / layer_id).exists() for layer_id in find_ids(diff_ids))
            container = Container(image=NAME, readiness_probe=PROBE)
            with engine.cri.start(container, NAME, "app") as running:
                wait_first_success(running, PROBE, limit_s=60)
                (engine.proc / str(running.pid) / "root" / "written").touch()
            engine.cri.remove_image(NAME)
            assert NAME not in engine.cri.list_images()
        written = [path for store in stores for path in store.glob("overlay/*/diff/written")]
        assert written == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_that_is_killed_leaves_whole_layers_only(tree, layers, layout, moment):
    assert add(tree, layers, layout, moment).wait() == -signal.SIGKILL
    diff_ids = read_image(layout).config.diff_ids
    assert not layers.holds(diff_ids)
    assert add(tree, layers, layout).wait() == 0
    assert names(layers) == set(find_ids(diff_ids))


def test_commands_side_by_side_make_each_layer_once(tree, layers, layout):
    adding = [add(tree, layers, layout) for _ in range(3)]
    assert [one.wait() for one in adding] == [0, 0, 0]
    diff_ids = read_image(layout).config.diff_ids
    assert names(layers) == set(find_ids(diff_ids))
    with layers.hold(diff_ids) as stores:
        assert len(stores) == len(diff_ids)
    assert prune(layers.directory.parent, 0) > 0
    assert names(layers) == set()
