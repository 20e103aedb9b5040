"""An image for lazy pulling, and a registry for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.base_image import make_base_archive
from support.builds import build, get, write_recipe
from support.lazy_pulling import PullingNode
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
from warmstart.node.session import Session, enter

REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/tests/lazy:1"
UNUSED = os.urandom(24 << 20)
COPY_S = 60.0


@dataclass(frozen=True)
class LazyImage:
    """An image called IMAGE, whose base image has a large file that is not needed: /data/unused.

    Attributes:
        layout: its layout.
        size_bytes: size of its layers.
        identity: identity of the process that it restores.
    """

    layout: Path
    size_bytes: int
    identity: str

    def push(self, session: Session) -> None:
        """Push the image to the registry of the session."""
        layout = session.workspace / "layout"
        shutil.copytree(self.layout, layout)
        command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{IMAGE}"]
        session.run(command, timeout_s=COPY_S)

    @contextlib.contextmanager
    def start(self, node: PullingNode, name: str, *, by_runtime: bool = False) -> Iterator[tuple[CriContainer, Path]]:
        """Start the image, see that its process is restored, and yield the container and its root directory."""
        proc, container = node.engine.proc, replace(CONTAINER, image=IMAGE)
        with node.engine.start(container, IMAGE, name) as running:
            if not by_runtime:
                wait_for_line(CriStarted(container, running), r"warmstart: restored in \d+ ms")
            assert get(running, "/ready", timeout_s=30)[0] == 200
            application = find_application(proc, running.pid)
            assert read_identity(proc, application) == self.identity
            yield running, proc / str(application) / "root"


def build_lazy_image(
    cache: Path, tree: Path, directory: Path, container: Mapping[str, object], lazily: str, restore: Sequence[str]
) -> LazyImage:
    """Build an image of the server of tests/support/server.c.

    Args:
        cache: cache directory.
        tree: tools directory.
        directory: empty directory for it.
        container: additional fields of the container in its recipe.
        lazily: format of its layers.
        restore: its restorers.
    """
    archive, layout = directory / "base.tar", directory / "layout"
    with open_workspace("base") as workspace, enter(tree, workspace) as session:
        make_base_archive(session, archive, {"unused": UNUSED})
    more = {"restore": list(restore), "memory": {"mapped": "all"}}
    recipe = write_recipe(directory / "recipe.json", archive, IMAGE, container, lazy=lazily, **more)
    with pytest.MonkeyPatch.context() as patch:
        # The base image has a layer of its own for each file then.
        patch.setattr(lazy, "PART_BYTES", 1)
        built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, layout)))
    made = read_image(layout)
    assert sum(not maker.startswith(CREATED_BY) for maker in made.makers) == 2
    return LazyImage(layout, sum(layer.size_bytes for layer in made.manifest.layers), built.provenance.identity)


@contextlib.contextmanager
def run_registry(session: Session) -> Iterator[None]:
    """Run a registry in the session, at REGISTRY."""
    config, log = session.workspace / "registry.json", session.workspace / "registry.log"
    storage = {"filesystem": {"rootdirectory": str(session.workspace / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": REGISTRY, "secret": "tests"}}))
    log.unlink(missing_ok=True)  # of an earlier run
    with session.background(["docker-registry", "serve", config], log_file=log) as running:
        wait_for(lambda: "listening on" in log.read_text(), running, log)
        yield
