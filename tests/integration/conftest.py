"""Fixtures of the tests on the embedded node: the tools directory, a base image, a private registry, new nodes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, islice
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.builds import PASSWORD, PASSWORD_HASH, USER, PrivateRegistry

from warmstart.bench.memory import read_available_bytes
from warmstart.cli.context import default_cache
from warmstart.core.workspace import open_workspace, workspace_parent
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree

# A file system in memory, and the room that the tests need there: they use up to 3 GiB, with four processes.
MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 << 30
# The tests that take longest.
LONG = (
    "test_replicas_differ",
    "test_an_error_at_any_step_leaves_nothing",
    "test_no_trait_is_lost_unseen",
    "test_an_image_copes_with_other_services_than_those_of_its_build",
    "test_it_builds_and_restores",
    "test_a_signal_in_the_middle_of_every_other_step_leaves_nothing",
    "test_measured_containers_have_services",
    "test_pools_are_empty_at_the_checkpoint_and_use_the_pods_services",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, in each of the parts that pytest-xdist gives its processes.

    A process that is idle takes tests from the end of another's part. At the end of all, these are short ones.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    names = [item.name.partition("[")[0] for item in items]
    long = [item for name in LONG for item, own in zip(items, names, strict=True) if own == name]
    others = iter([item for item, name in zip(items, names, strict=True) if name not in LONG])
    size = len(items) // processes
    parts = [[*own, *islice(others, max(0, size - len(own)))] for own in (long[k::processes] for k in range(processes))]
    items[:] = [*chain.from_iterable(parts), *others]


@pytest.fixture(scope="session")
def cache() -> Path:
    """Return the cache directory."""
    return Path(os.environ.get("WARMSTART_CACHE") or default_cache())


@pytest.fixture(scope="session")
def tree(cache) -> Path:
    """Return the tools directory, and create it if it is missing (some minutes)."""
    if os.geteuid() != 0:
        pytest.skip("the embedded node needs root")
    return ensure_tree(cache, print)


@pytest.fixture(scope="session")
def area(builds_in_memory) -> Iterator[Path]:
    """Return a directory with a path short enough for sockets, on a filesystem that supports overlay mounts."""
    directory = Path(tempfile.mkdtemp(prefix="ws-test-", dir=workspace_parent()))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session", autouse=True)
def builds_in_memory() -> Iterator[None]:
    """Let builds have their workspaces in memory, if this machine has enough of it.

    Each build makes and removes thousands of files. Users' disks are in the tests on a cluster.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "WARMSTART_TMPDIR" not in os.environ and has_room(MEMORY):
            patch.setenv("WARMSTART_TMPDIR", str(MEMORY))
        yield


def has_room(directory: Path) -> bool:
    """Tell whether a directory in memory has room for the builds of these tests."""
    if not directory.is_dir():
        return False
    return min(shutil.disk_usage(directory).free, read_available_bytes()) > ROOM_BYTES


@pytest.fixture(scope="session")
def open_node(tree) -> Callable[..., AbstractContextManager[Session]]:
    """Open a node without any images, with additional bind mounts of this machine."""

    @contextmanager
    def open_one(*binds: Bind) -> Iterator[Session]:
        with open_workspace("test") as workspace, enter(tree, workspace, binds=binds) as session:
            yield session

    return open_one


@pytest.fixture(scope="session")
def base_archive(open_node, area, make_once) -> Path:
    """Return the OCI archive of an image with the server of tests/support/server.c."""

    def make(path: Path) -> None:
        with open_node() as session:
            make_base_archive(session, path)

    # Not in /tmp, where a test must not find it.
    return Path(shutil.copy(make_once("base.tar", make), area / "base.tar"))


@pytest.fixture(scope="session")
def private_registry(tree, start_registry, area) -> PrivateRegistry:
    """Return a registry that requires a password for everything."""
    passwords = area / "htpasswd"
    passwords.write_text(f"{USER}:{PASSWORD_HASH}\n")
    host = start_registry(auth={"htpasswd": {"realm": "tests", "path": str(passwords)}})
    auth = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (area / "auth.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return PrivateRegistry(host, area / "auth.json")


@pytest.fixture(scope="session")
def pushed_base(private_registry, open_node, base_archive) -> str:
    """Push the base image to the registry, in the format that Docker pushes, and return its name."""
    name = f"{private_registry.host}/tests/base:1"
    command = ["skopeo", "copy", "--format", "v2s2", "--dest-creds", f"{USER}:{PASSWORD}", "--dest-tls-verify=false"]
    with open_node() as session:
        shutil.copy(base_archive, session.workspace)
        archive = session.workspace / base_archive.name
        session.run([*command, f"oci-archive:{archive}", f"docker://{name}"], host_network=True, timeout_s=60)
    return name
