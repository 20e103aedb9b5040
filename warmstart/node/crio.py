"""Run a CRI-O in a session, for the length of a `with` block.

It runs in the host's network and reaches registries as the user does. Its pods are on a bridge in the session's
network, invisible to the host.
Configuration: crio.conf(5); CNI: the specification's configuration lists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import EngineError, HostError
from warmstart.core.process import Running
from warmstart.node.cgroup import find_own_hierarchies, limits_processes
from warmstart.node.host_files import HOME_CONFIG
from warmstart.node.session import Session

START_S = 30.0
# Processes and threads of one container, so that a fork bomb does not take the machine down. The kubelet has no limit
# by default, many Kubernetes distributions set 1024 to 4096.
PIDS_LIMIT = 4096
UNLIMITED = -1
SOCKET_PATH_BYTES = 107  # unix(7): sun_path, without the final zero
PAUSE_IMAGE = "localhost/warmstart/pause:1"
CNI_PLUGINS = "/usr/lib/cni"
# CRI-O starts plugins in its own network namespace, the host's; these enter the session's first.
CNI_WRAPPER = """#!/bin/sh
exec nsenter --net=/proc/1/ns/net -- {plugins}/${{0##*/}} "$@"
"""

# This CRI-O pulls no images: we copy them into its store. skopeo has applied the machine's own policy when it fetched
# them; here they have other names, unknown to that policy. The file is in a home directory for CRI-O, because CRI-O
# does not restore with its option signature_policy.
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
POLICY_FILE = f"home/{HOME_CONFIG}/policy.json"

CONFIG = """
[crio]
root = "{state}/storage"
runroot = "{state}/runroot"
storage_driver = "overlay"
storage_option = {storage_options}
log_dir = "{state}/log"
version_file = "{state}/version"
version_file_persist = "{state}/version-persist"
clean_shutdown_file = ""

[crio.api]
listen = "{state}/crio.sock"
stream_address = "127.0.0.1"
stream_port = "0"

[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "/usr/local/bin/pinns"
namespaces_dir = "{state}/ns"
container_exits_dir = "{state}/exits"
container_attach_socket_dir = "{state}/attach"
default_runtime = "{runtime}"
log_level = "warn"
disable_hostport_mapping = true
enable_criu_support = {restore}
pids_limit = {pids_limit}

[crio.runtime.runtimes.{runtime}]
runtime_path = "/usr/bin/{runtime}"
runtime_root = "{state}/{runtime}"
monitor_path = "/usr/bin/conmon"

[crio.image]
pause_image = "{pause}"

[crio.network]
network_dir = "{state}/net.d"
plugin_dirs = ["{state}/cni"]

[crio.nri]
enable_nri = false
"""


@dataclass(frozen=True)
class Crio:
    """A running CRI-O.

    Attributes:
        session: its session.
        state: directory with all of its files, at the same path inside and outside.
        stores: image stores that its own can use layers of.
    """

    session: Session
    state: Path
    stores: tuple[Path, ...] = ()

    @property
    def socket(self) -> Path:
        """The socket that it listens on."""
        return self.state / "crio.sock"

    @property
    def endpoint(self) -> str:
        """The socket as a gRPC target."""
        return f"unix://{self.socket}"

    @property
    def log_file(self) -> Path:
        """The log file."""
        return self.state / "crio.log"

    @property
    def store(self) -> str:
        """The prefix that makes skopeo and buildah use its image store; see containers-transports(5)."""
        return find_store(self.state / "storage", self.state / "runroot", self.stores)


def find_store(root: Path, runroot: Path, stores: Sequence[Path] = ()) -> str:
    """Return the prefix for the names of images in a store; see containers-transports(5).

    Args:
        root: the store's directory.
        runroot: its directory for data that does not outlive a boot.
        stores: additional image stores, read-only.
    """
    options = ",".join(_storage_options(stores))
    return f"containers-storage:[overlay@{root}+{runroot}{':' if options else ''}{options}]"


def _storage_options(stores: Sequence[Path]) -> list[str]:
    return [f"overlay.imagestore={store}" for store in stores]


@contextlib.contextmanager
def run_crio(
    session: Session,
    name: str,
    *,
    subnet: str,
    runtime: str = "runc",
    restore: bool = True,
    host_network: bool = True,
    stores: Sequence[Path] = (),
) -> Iterator[Crio]:
    """Start a CRI-O with an empty store of its own.

    Args:
        session: session to run in.
        name: name, unique in the session.
        subnet: address range of its pods, such as `10.88.0.0/24`.
        runtime: `runc` or `crun`.
        restore: support for restoring checkpoint images.
        host_network: run in the host's network rather than in the session's, where a kubelet may reach it.
        stores: additional image stores, read-only, whose layers its own store uses.

    Raises:
        EngineError: it did not start; the details are the end of its log.
        HostError: the workspace's path is too long.
    """
    crio = Crio(session, session.workspace / name, tuple(stores))
    if len(os.fsencode(crio.socket)) > SOCKET_PATH_BYTES:
        hint = "set WARMSTART_TMPDIR to a directory with a shorter path"
        raise HostError(f"CRI-O's socket path is too long: {crio.socket}", hint=hint)
    _write_files(crio, name, subnet, runtime, restore)
    _make_bridge(session, name)
    command = [
        "env",
        f"HOME={crio.state}/home",
        "crio",
        "--config",
        f"{crio.state}/crio.conf",
        "--config-dir",
        f"{crio.state}/crio.conf.d",
    ]
    with session.background(command, log_file=crio.log_file, host_network=host_network) as running:
        _wait_until_serving(crio, running)
        yield crio


def _write_files(crio: Crio, name: str, subnet: str, runtime: str, restore: bool) -> None:
    state = crio.state
    for directory in ("net.d", "cni", "log", "crio.conf.d"):
        (state / directory).mkdir(parents=True)
    config = CONFIG.format(
        state=state,
        storage_options=json.dumps(_storage_options(crio.stores)),
        runtime=runtime,
        restore=json.dumps(restore),
        # A runtime refuses a limit that the machine cannot set; `doctor` reports that.
        pids_limit=PIDS_LIMIT if limits_processes(find_own_hierarchies()) else UNLIMITED,
        pause=PAUSE_IMAGE,
    )
    (state / "crio.conf").write_text(config)
    (state / POLICY_FILE).parent.mkdir(parents=True)
    (state / POLICY_FILE).write_text(json.dumps(POLICY))
    (state / "net.d" / "10-warmstart.conflist").write_text(json.dumps(_network(name, state, subnet)))
    for plugin in ("bridge", "host-local", "loopback"):
        wrapper = state / "cni" / plugin
        wrapper.write_text(CNI_WRAPPER.format(plugins=CNI_PLUGINS))
        wrapper.chmod(0o755)


def _network(name: str, state: Path, subnet: str) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(state / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": _name_bridge(name), "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": f"warmstart-{name}", "plugins": [bridge]}


def _make_bridge(session: Session, name: str) -> None:
    """Make a CRI-O's bridge, unless it is left of one before, with an address of its own.

    Otherwise the kernel gives it the lowest address of its ports. That changes while another pod comes or goes, and
    CRI-O's check of a new pod fails: "Bridge interface Mac doesn't match" (plugins/main/bridge in
    https://github.com/containernetworking/plugins).
    """
    script = 'ip link show "$1" >/dev/null 2>&1 || exec ip link add "$1" address "$2" type bridge'
    session.run(["sh", "-c", script, "sh", _name_bridge(name), find_bridge_address(name)], timeout_s=START_S)


def _name_bridge(name: str) -> str:
    """Return the name of a CRI-O's bridge; the kernel allows 15 bytes."""
    return f"ws-{name}"[:15]


def find_bridge_address(name: str) -> str:
    """Return an address for the bridge, one that is administered locally (IEEE 802)."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *hashlib.sha256(name.encode()).digest()[:5]))


def _wait_until_serving(crio: Crio, running: Running) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and running.poll() is None:
        # Not with gRPC's `channel_ready_future`: after an interruption, it keeps the interpreter from ending.
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.connect(str(crio.socket))
            return
        time.sleep(0.02)
    state = "did not listen in time" if running.poll() is None else f"ended with status {running.returncode}"
    raise EngineError(f"CRI-O {state}", details=crio.log_file.read_text(errors="replace").splitlines()[-15:])
