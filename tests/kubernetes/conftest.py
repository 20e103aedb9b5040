"""Fixtures of the tests on a cluster: the cluster with the tests' base image."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.cluster.cluster import Cluster, open_cluster
from support.cluster.node import Node
from support.cluster_images import make_helper_image, push_image
from support.cluster_user import User

from warmstart.cli.context import default_cache
from warmstart.core.progress import Progress, SilentListener
from warmstart.node.open import open_node

# The files that take longest, in that order. The others follow.
COSTLY = ("engine", "checkpoint", "shop", "migrate", "deploy", "recipes", "migrate_load")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: two clusters then end at about the same time."""
    places = {Path(__file__).with_name(f"test_{name}.py"): place for place, name in enumerate(COSTLY)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def cache() -> Path:
    """Return the cache directory of the tools and Kubernetes."""
    return Path(os.environ.get("WARMSTART_CACHE") or default_cache())


@pytest.fixture(scope="session")
def base_archive(cache, make_once) -> Iterator[Path]:
    """Return the OCI archive of an image with the server of tests/support/server.c."""
    if os.geteuid() != 0:
        pytest.skip("a cluster needs root")

    def make(path: Path) -> None:
        with open_node("test", cache, Progress(SilentListener())) as session:
            make_base_archive(session, path)

    # Not in /tmp, where a test must not find it.
    with tempfile.TemporaryDirectory(prefix="ws-test-", dir="/var/tmp") as directory:
        yield Path(shutil.copy(make_once("base.tar", make), Path(directory) / "base.tar"))


@pytest.fixture(scope="session")
def cluster(cache, base_archive) -> Iterator[Cluster]:
    """Run a cluster of one node."""
    with open_cluster(cache) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def base_image(cluster, cache, base_archive) -> str:
    """Push the base image to the cluster's registry, and return its name, which is also its name on the first node."""
    with open_node("test", cache, Progress(SilentListener())) as session:
        name = push_image(cluster, session, base_archive, "tests/base:1")
    # As a pull would: one under a second name would take this one from it.
    cluster.nodes[0].import_image(f"docker://{name}", name)
    return name


@pytest.fixture(scope="module")
def second_node(cluster) -> Iterator[Node]:
    """Run another node, without images, that the tests of other modules do not see."""
    with cluster.add_node() as node:
        yield node


@pytest.fixture(scope="session")
def user(cluster, cache, base_image) -> User:
    """Return the administrator of the cluster as the user of warmstart, with images in the cluster's registry."""
    with open_node("test", cache, Progress(SilentListener())) as session:
        helper = make_helper_image(cluster, session)
    return User(cluster, cache, base_image, helper)


@pytest.fixture(scope="session")
def virtual_path() -> str:
    """Return a PATH that begins with the directory of this Python's programs, which include warmstart."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"
