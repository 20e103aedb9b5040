"""Images that containerd and CRI-O start before they have pulled them, with the real stargz snapshotter and store."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.builds import get
from support.go_tools import ensure_go_tool
from support.lazy_image import IMAGE, REGISTRY, UNUSED, LazyImage, build_lazy_image, run_registry
from support.lazy_pulling import (
    STARGZ,
    PullingNode,
    count_received,
    open_stargz,
    open_stargz_store,
    open_whole,
)
from support.runtime_tree import ensure_runtime_tree

from warmstart.core.workspace import open_workspace
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter

from .conftest import SETTINGS

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(600)]

FETCHED_S = 120.0
NO_BACKGROUND = {"no_background_fetch": True}


@dataclass(frozen=True)
class PushedImage(LazyImage):
    """An image in the registry of a session.

    Attributes:
        session: a session with containerd and the registry's program.
        containerd: containerd's program.
        stargz: the snapshotter's.
    """

    session: Session
    containerd: Path
    stargz: Path


@pytest.fixture(scope="module")
def stargz(cache) -> Path:
    """The program that serves images lazily."""
    return ensure_go_tool(cache, STARGZ, print)


@pytest.fixture(scope="module", params=["estargz", "zstd-chunked"])
def built(cache, tree, tmp_path_factory, request) -> LazyImage:
    """An image of each format, which the runtime restores, or itself."""
    directory = tmp_path_factory.mktemp("lazy")
    return build_lazy_image(cache, tree, directory, SETTINGS, request.param, ["runtime", "self"])


@pytest.fixture(scope="module")
def image(cache, tree, containerd, stargz, built) -> Iterator[PushedImage]:
    """The image, in the registry of a session with containerd."""
    runtimes = ensure_runtime_tree(cache, print)
    binds = [Bind(str(program.parent)) for program in (containerd, stargz)]
    with open_workspace("lazy") as workspace, enter(runtimes, workspace, binds=binds) as session:
        shutil.copy2(tree / "usr/bin/docker-registry", session.root / "usr/local/bin")
        with run_registry(session):
            built.push(session)
        yield PushedImage(built.layout, built.size_bytes, built.identity, session, containerd, stargz)


@pytest.fixture(scope="module")
def with_crio(tree, stargz, built) -> Iterator[Session]:
    """A session with CRI-O, and a registry that has the image."""
    binds = [Bind(str(stargz.parent))]
    with (
        open_workspace("lazy") as workspace,
        enter(tree, workspace, binds=binds) as session,
        run_registry(session),
    ):
        built.push(session)
        yield session


def open_lazily(image: PushedImage, name: str, **settings: object) -> AbstractContextManager[PullingNode]:
    return open_stargz(image.session, image.containerd, image.stargz, name, REGISTRY, settings)


def test_it_restores_before_the_image_is_there(image):
    before = count_received(image.session, "lo")
    with run_registry(image.session), open_lazily(image, "before", **NO_BACKGROUND) as node:
        node.pull(IMAGE)
        with image.start(node, "before") as (_, root):
            received = count_received(image.session, "lo") - before
            assert received < image.size_bytes - len(UNUSED) + (4 << 20)
            assert (root / "data/unused").read_bytes() == UNUSED
            assert count_received(image.session, "lo") - before > received + len(UNUSED)


def test_the_registry_may_go_once_the_rest_has_been_fetched(image):
    before = count_received(image.session, "lo")
    with open_lazily(image, "after") as node:
        with run_registry(image.session):
            node.pull(IMAGE)
            with image.start(node, "first"):
                await_fetched(image, before)
        with image.start(node, "second") as (_, root):
            assert (root / "data/unused").read_bytes() == UNUSED


def await_fetched(image: PushedImage, before: int) -> None:
    """Wait until the node has received as much as the image has, and nothing more arrives."""
    deadline, last = time.monotonic() + FETCHED_S, -1
    while (received := count_received(image.session, "lo") - before) < image.size_bytes or received > last:
        assert time.monotonic() < deadline, (received, image.size_bytes)
        last = received
        time.sleep(3)


def test_a_registry_that_is_gone_too_early_stops_reads_but_not_the_process(image):
    with open_lazily(image, "early", **NO_BACKGROUND, blob={"max_retries": 1}) as node:
        with run_registry(image.session):
            node.pull(IMAGE)
            with contextlib.ExitStack() as started:
                running, root = started.enter_context(image.start(node, "early"))
                kept = started.pop_all()
        with kept:
            assert get(running, "/ready")[0] == 200
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                (root / "data/unused").read_bytes()
            with run_registry(image.session):
                assert (root / "data/unused").read_bytes() == UNUSED


def test_without_a_snapshotter_it_is_an_ordinary_image(image):
    with run_registry(image.session), open_whole(image.session, image.containerd, "whole", REGISTRY) as node:
        node.pull(IMAGE)
        with image.start(node, "whole") as (_, root):
            assert (root / "data/unused").read_bytes() == UNUSED


@pytest.mark.parametrize(("name", "subnet"), [("runtime", "10.75.0.0/24"), ("self", "10.75.1.0/24")])
def test_crio_restores_before_the_image_is_there(built, with_crio, stargz, name, subnet):
    before, by_runtime = count_received(with_crio, "lo"), name == "runtime"
    settings = {"settings": NO_BACKGROUND, "subnet": subnet, "restore": by_runtime}
    with open_stargz_store(with_crio, stargz, name, REGISTRY, **settings) as node:
        node.pull(IMAGE)
        with built.start(node, name, by_runtime=by_runtime) as (_, root):
            received = count_received(with_crio, "lo") - before
            assert received < built.size_bytes - len(UNUSED) + (4 << 20)
            assert (root / "data/unused").read_bytes() == UNUSED
            assert count_received(with_crio, "lo") - before > received + len(UNUSED)
