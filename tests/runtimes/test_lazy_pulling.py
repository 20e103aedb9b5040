"""Images that containerd starts before it has pulled them, with the real stargz snapshotter."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.builds import build, get, write_recipe
from support.go_tools import ensure_go_tool
from support.lazy_pulling import STARGZ, PullingNode, count_received, open_stargz, open_whole
from support.runtime_tree import ensure_runtime_tree
from support.runtimes import CONTAINER, CriStarted, find_application, wait_for, wait_for_line

from warmstart.build import lazy
from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport
from warmstart.core.workspace import open_workspace
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.engine.cri import CriContainer
from warmstart.image.compose import CREATED_BY
from warmstart.image.layout import read_image
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter

from .conftest import SETTINGS

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(600)]

REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/tests/lazy:1"
UNUSED = os.urandom(24 << 20)
FETCHED_S = 120.0
NO_BACKGROUND = {"no_background_fetch": True}


@dataclass(frozen=True)
class LazyImage:
    """An image in a registry whose base image has a large file that is not needed.

    Attributes:
        session: a session with containerd and the registry's program.
        size_bytes: size of its layers.
        identity: identity of the process that it restores.
        run_registry: runs the registry that has it, at REGISTRY.
        containerd: containerd's program.
        stargz: the snapshotter's.
    """

    session: Session
    size_bytes: int
    identity: str
    run_registry: Callable[[], AbstractContextManager[object]]
    containerd: Path
    stargz: Path

    @contextlib.contextmanager
    def start(self, node: PullingNode, name: str) -> Iterator[tuple[CriContainer, Path]]:
        """Start the image, see that its process is restored, and yield the container and its root directory."""
        container = replace(CONTAINER, image=IMAGE)
        with node.engine.start(container, IMAGE, name) as running:
            wait_for_line(CriStarted(container, running), r"warmstart: restored in \d+ ms")
            assert get(running, "/ready", timeout_s=30)[0] == 200
            application = find_application(self.session.proc, running.pid)
            assert read_identity(self.session.proc, application) == self.identity
            yield running, self.session.proc / str(application) / "root"


@pytest.fixture(scope="module", params=["estargz", "zstd-chunked"])
def image(cache, tree, containerd, tmp_path_factory, request) -> Iterator[LazyImage]:
    """An image of each format, pushed to a registry."""
    directory = tmp_path_factory.mktemp("lazy")
    with open_workspace("base") as workspace, enter(tree, workspace) as session:
        make_base_archive(session, directory / "base.tar", {"unused": UNUSED})
    output = Output(Transport.OCI, directory / "layout")
    more = {"restore": ["self"], "memory": {"mapped": "all"}}
    archive = directory / "base.tar"
    recipe = write_recipe(directory / "recipe.json", archive, IMAGE, SETTINGS, lazy=request.param, **more)
    with pytest.MonkeyPatch.context() as patch:
        # The base image has a layer of its own for each file then.
        patch.setattr(lazy, "PART_BYTES", 1)
        built, _ = build(recipe, BuildOptions(cache, output))
    made = read_image(directory / "layout")
    assert sum(not maker.startswith(CREATED_BY) for maker in made.makers) == 2
    size_bytes = sum(layer.size_bytes for layer in made.manifest.layers)
    runtimes, snapshotter = ensure_runtime_tree(cache, print), ensure_go_tool(cache, STARGZ, print)
    binds = [Bind(str(program.parent)) for program in (containerd, snapshotter)]
    with open_workspace("lazy") as workspace, enter(runtimes, workspace, binds=binds) as session:
        shutil.copytree(directory / "layout", workspace / "layout")
        shutil.copy2(tree / "usr/bin/docker-registry", session.root / "usr/local/bin")
        identity = built.provenance.identity
        lazily = LazyImage(session, size_bytes, identity, lambda: run_registry(session), containerd, snapshotter)
        with lazily.run_registry():
            command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
            session.run([*command, f"oci:{workspace}/layout:{IMAGE}", f"docker://{IMAGE}"], timeout_s=60)
        yield lazily


@contextlib.contextmanager
def run_registry(session: Session) -> Iterator[None]:
    """Run a registry in the session."""
    config, log = session.workspace / "registry.json", session.workspace / "registry.log"
    storage = {"filesystem": {"rootdirectory": str(session.workspace / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": REGISTRY, "secret": "tests"}}))
    log.unlink(missing_ok=True)  # of an earlier run
    with session.background(["docker-registry", "serve", config], log_file=log) as running:
        wait_for(lambda: "listening on" in log.read_text(), running, log)
        yield


def open_lazily(image: LazyImage, name: str, **settings: object) -> AbstractContextManager[PullingNode]:
    return open_stargz(image.session, image.containerd, image.stargz, name, REGISTRY, settings)


def test_it_restores_before_the_image_is_there(image):
    before = count_received(image.session, "lo")
    with image.run_registry(), open_lazily(image, "before", **NO_BACKGROUND) as node:
        node.pull(IMAGE)
        with image.start(node, "before") as (_, root):
            received = count_received(image.session, "lo") - before
            assert received < image.size_bytes - len(UNUSED) + (4 << 20)
            assert (root / "data/unused").read_bytes() == UNUSED
            assert count_received(image.session, "lo") - before > received + len(UNUSED)


def test_the_registry_may_go_once_the_rest_has_been_fetched(image):
    before = count_received(image.session, "lo")
    with open_lazily(image, "after") as node:
        with image.run_registry():
            node.pull(IMAGE)
            with image.start(node, "first"):
                await_fetched(image, before)
        with image.start(node, "second") as (_, root):
            assert (root / "data/unused").read_bytes() == UNUSED


def await_fetched(image: LazyImage, before: int) -> None:
    """Wait until the node has received as much as the image has, and nothing more arrives."""
    deadline, last = time.monotonic() + FETCHED_S, -1
    while (received := count_received(image.session, "lo") - before) < image.size_bytes or received > last:
        assert time.monotonic() < deadline, (received, image.size_bytes)
        last = received
        time.sleep(3)


def test_a_registry_that_is_gone_too_early_stops_reads_but_not_the_process(image):
    with open_lazily(image, "early", **NO_BACKGROUND, blob={"max_retries": 1}) as node:
        with image.run_registry():
            node.pull(IMAGE)
            with contextlib.ExitStack() as started:
                running, root = started.enter_context(image.start(node, "early"))
                kept = started.pop_all()
        with kept:
            assert get(running, "/ready")[0] == 200
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                (root / "data/unused").read_bytes()
            with image.run_registry():
                assert (root / "data/unused").read_bytes() == UNUSED


def test_without_a_snapshotter_it_is_an_ordinary_image(image):
    with image.run_registry(), open_whole(image.session, image.containerd, "whole", REGISTRY) as node:
        node.pull(IMAGE)
        with image.start(node, "whole") as (_, root):
            assert (root / "data/unused").read_bytes() == UNUSED
