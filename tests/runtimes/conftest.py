"""One self-restoring image, and the runtimes that it is started under."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.builds import build, write_recipe
from support.go_tools import CONTAINERD, ensure_go_tool
from support.runtime_tree import ensure_runtime_tree
from support.runtimes import IMAGE, Runc, Runtime, open_containerd, open_crio, open_podman

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.cli.context import default_cache
from warmstart.core.reference import Transport
from warmstart.core.workspace import open_workspace
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree

FILL_MB = 64
SETTINGS = {
    "env": [{"name": "FILL_MB", "value": str(FILL_MB)}],
    "securityContext": {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    },
}


@dataclass(frozen=True)
class SelfRestoring:
    """An image: its OCI archive, and the identity of the process that it restores."""

    archive: Path
    identity: str


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where trees are kept."""
    if os.geteuid() != 0:
        pytest.skip("the embedded node needs root")
    return Path(os.environ.get("WARMSTART_CACHE") or default_cache())


@pytest.fixture(scope="session")
def tree(cache) -> Path:
    """The tools directory."""
    return ensure_tree(cache, print)


@pytest.fixture(scope="session")
def make_image(cache, tree, tmp_path_factory) -> Callable[..., SelfRestoring]:
    """Build an image of the server of tests/support/server.c; its memory is mapped as the recipe has it."""
    directory = tmp_path_factory.mktemp("images")
    base = directory / "base.tar"
    with open_workspace("base") as workspace, enter(tree, workspace) as session:
        make_base_archive(session, base)

    def make(mapped: str) -> SelfRestoring:
        archive = directory / f"{mapped}.tar"
        recipe = write_recipe(
            directory / f"{mapped}.json", base, IMAGE, SETTINGS, restore=["self"], memory={"mapped": mapped}
        )
        built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI_ARCHIVE, archive)))
        return SelfRestoring(archive, built.provenance.identity)

    return make


@pytest.fixture(scope="session")
def image(make_image) -> SelfRestoring:
    """An image whose memory is mapped."""
    return make_image("all")


@pytest.fixture(scope="session")
def identity(image) -> str:
    """Of the process that is restored."""
    return image.identity


@pytest.fixture(scope="session")
def containerd(cache) -> Path:
    """The program, as released."""
    return ensure_go_tool(cache, CONTAINERD, print)


@pytest.fixture(scope="module")
def session(cache, containerd, image) -> Iterator[Session]:
    """A place that has Podman and containerd, and the image."""
    runtimes, binds = ensure_runtime_tree(cache, print), [Bind(str(containerd.parent))]
    with open_workspace("runtimes") as workspace, enter(runtimes, workspace, binds=binds) as session:
        shutil.copy(image.archive, workspace / "image.tar")
        yield session


@pytest.fixture(scope="module")
def crio_session(tree, image) -> Iterator[Session]:
    """A place that has CRI-O, and the image."""
    with open_workspace("runtimes") as workspace, enter(tree, workspace) as session:
        shutil.copy(image.archive, workspace / "image.tar")
        yield session


@contextlib.contextmanager
def open_runc(session: Session, archive: Path) -> Iterator[Runc]:
    with open_podman(session, archive, "runc") as podman:
        yield Runc(podman)


# From the session, the archive of the image, and containerd's program.
OPEN: dict[str, Callable[[Session, Path, Path], AbstractContextManager[Runtime]]] = {
    "podman-runc": lambda session, archive, _: open_podman(session, archive, "runc"),
    "podman-crun": lambda session, archive, _: open_podman(session, archive, "crun"),
    "containerd": open_containerd,
    "crio": lambda session, archive, _: open_crio(session, archive),
    "runc": lambda session, archive, _: open_runc(session, archive),
}


@pytest.fixture(scope="module", params=list(OPEN))
def runtime(request) -> Iterator[Runtime]:
    """Each of the runtimes in turn, with the image."""
    session = request.getfixturevalue("crio_session" if request.param == "crio" else "session")
    containerd = request.getfixturevalue("containerd")
    with OPEN[request.param](session, session.workspace / "image.tar", containerd) as runtime:
        yield runtime
