"""Nodes that pull from a registry, as usual or lazily: with containerd or CRI-O."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri_api.v1 import api_pb2 as cri
from support.containerd import CALL_S, await_socket, make_pause_image, run_containerd
from support.go_tools import GoTool
from support.runtimes import wait_for

from warmstart.engine.cri import CriEngine
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import PAUSE_IMAGE, run_crio
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT

STARGZ = GoTool(
    "stargz",
    "github.com/containerd/stargz-snapshotter/service",
    "v0.19.1",
    Path(__file__).with_name("stargz.go").read_text(),
)
# Its command sets them unless config.toml has others.
DEFAULTS = {"directory_cache": {"direct": True}}
FUSE_MINOR = 229
PULL_S = 300.0
OVERLAYFS = "overlayfs"
SUBNET = "10.74.0.0/24"
REGISTRY_CONFIG = """
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{state}-hosts"
"""
# containerd's transfer service, which pulls by default since 2.1, knows no snapshotter but its own.
SNAPSHOTTER_CONFIG = """
[plugins.'io.containerd.cri.v1.images']
snapshotter = "{name}"
disable_snapshot_annotations = false
use_local_image_pull = true

[proxy_plugins.{name}]
type = "snapshot"
address = "{state}-{name}/socket"
[proxy_plugins.{name}.exports]
root = "{state}-{name}/root"
"""
STORAGE_CONFIG = """\
[storage]
driver = "overlay"
graphroot = "{state}/storage"
runroot = "{state}/runroot"

[storage.options]
additionallayerstores = ["{store}:ref"]
"""
HOSTS = """\
server = "http://{registry}"
[host."http://{registry}"]
capabilities = ["pull", "resolve"]
"""


@dataclass(frozen=True)
class PullingNode:
    """A node that pulls from a registry.

    Attributes:
        engine: its containerd or CRI-O.
    """

    engine: CriEngine

    def pull(self, image: str) -> None:
        """Pull an image, as the kubelet does."""
        self.engine.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=image)), timeout=PULL_S)


@contextlib.contextmanager
def open_whole(
    session: Session, containerd: Path, name: str, registry: str, settings: str = ""
) -> Iterator[PullingNode]:
    """Run containerd, which pulls an image before it starts it.

    Args:
        session: what it runs in.
        containerd: its program, which the session can see.
        name: name of its directory in the workspace.
        registry: HOST:PORT of a registry without TLS.
        settings: more of its configuration, in TOML.
    """
    state = session.workspace / name
    more = _write_hosts(state, registry) + settings
    with _open_engine(session, containerd, state, more, OVERLAYFS) as engine:
        yield PullingNode(engine)


@contextlib.contextmanager
def open_stargz(
    session: Session,
    containerd: Path,
    stargz: Path,
    name: str,
    registry: str,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[PullingNode]:
    """Run containerd with the stargz snapshotter; other arguments as for `open_whole`.

    Args:
        stargz: the snapshotter, which the session can see.
        settings: fields of its configuration, as in its config.toml.
    """
    state = session.workspace / name
    own = session.workspace / f"{name}-stargz"
    _write_settings(own, registry, settings)
    make_fuse_device(session)
    command = [stargz, "snapshotter", own / "settings.json", own / "socket", own / "root"]
    more = _write_hosts(state, registry) + SNAPSHOTTER_CONFIG.format(state=state, name="stargz")
    with session.background(command, log_file=own / "log") as running:
        await_socket(own / "socket", running, own / "log")
        with _open_engine(session, containerd, state, more, "stargz") as engine:
            yield PullingNode(engine)


@contextlib.contextmanager
def open_stargz_store(
    session: Session,
    stargz: Path,
    name: str,
    registry: str,
    settings: Mapping[str, Any] | None = None,
    *,
    subnet: str,
    restore: bool,
) -> Iterator[PullingNode]:
    """Run CRI-O with Stargz Store as its additional layer store; other arguments as for `open_stargz`.

    Args:
        subnet: address range of its pods, of its own in the session: the bridge stays.
        restore: whether CRI-O restores checkpoint images.
    """
    own = session.workspace / f"{name}-store"
    _write_settings(own, registry, settings)
    make_fuse_device(session)
    (own / "mount").mkdir()
    command = [stargz, "store", own / "settings.json", own / "mount", own / "root"]
    storage = STORAGE_CONFIG.format(state=session.workspace / name, store=own / "mount")
    (session.root / "etc/containers/storage.conf").write_text(storage)
    with session.background(command, log_file=own / "log") as running:
        # A file that only the store has.
        wait_for((session.root / str(own / "mount/pool").lstrip("/")).is_symlink, running, own / "log")
        with open_crio(session, name, registry, subnet=subnet, restore=restore) as node:
            yield node


@contextlib.contextmanager
def open_crio(session: Session, name: str, registry: str, *, subnet: str, restore: bool) -> Iterator[PullingNode]:
    """Run CRI-O, which pulls an image before it starts it; arguments as for `open_stargz_store`."""
    registries = session.root / "etc/containers/registries.conf.d/tests.conf"
    registries.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    with (
        run_crio(session, name, subnet=subnet, restore=restore, host_network=False) as crio,
        CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=crio.state / "pods") as engine,
    ):
        copy_image(session, f"oci:{PAUSE_LAYOUT}", crio.store + PAUSE_IMAGE)
        yield PullingNode(engine)


def _write_settings(directory: Path, registry: str, settings: Mapping[str, Any] | None) -> None:
    directory.mkdir()
    mirror = {"host": registry, "insecure": True}
    config = {"resolver": {"host": {registry: {"mirrors": [mirror]}}}, **DEFAULTS, **(settings or {})}
    (directory / "settings.json").write_text(json.dumps(config))


@contextlib.contextmanager
def _open_engine(session: Session, containerd: Path, state: Path, more: str, snapshotter: str) -> Iterator[CriEngine]:
    pause = make_pause_image(session, Path(f"{state}-pause"), PAUSE_IMAGE)
    with run_containerd(session, containerd, state, subnet=SUBNET, pause=PAUSE_IMAGE, more=more) as socket:
        ctr = [containerd.with_name("ctr"), "--address", socket, "--namespace=k8s.io"]
        # Without --local, ctr asks the transfer service, which knows no snapshotter but its own.
        session.run([*ctr, "images", "import", "--local", f"--snapshotter={snapshotter}", pause], timeout_s=CALL_S)
        with CriEngine(
            f"unix://{socket}", proc=session.proc, network=session.network, scratch=state / "pods"
        ) as engine:
            yield engine


def make_fuse_device(session: Session) -> None:
    """Make /dev/fuse, which a session does not have."""
    with contextlib.suppress(FileExistsError):
        os.mknod(session.root / "dev/fuse", stat.S_IFCHR | 0o600, os.makedev(10, FUSE_MINOR))


def _write_hosts(state: Path, registry: str) -> str:
    directory = Path(f"{state}-hosts", registry)
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(HOSTS.format(registry=registry))
    return REGISTRY_CONFIG.format(state=state)


def count_received(session: Session, interface: str) -> int:
    """Return the number of bytes that a network interface of the session has received, with all headers."""
    path = f"/sys/class/net/{interface}/statistics/rx_bytes"
    return int(session.run(["cat", path], timeout_s=60).stdout)
