"""Connect a session's network to the outside, for applications that need a database or another service to start.

pasta (https://passt.top) carries connections from the network namespace to its own sockets in the host's. It changes
nothing in the host's configuration, and nobody outside can connect to the containers. The host's loopback addresses
are unreachable. The addresses inside are link-local, so they hide no address that an application could need.

The machine's link-local network is unreachable, and so is every other address where a cloud gives the machine's own
credentials to any process on it. Routes in the session's network block them: all traffic of pods passes through it,
and a container with NET_ADMIN can change only its pod's routes. Pods have IPv4 addresses only, so fe80::/10 and
metadata services such as fd00:ec2::254 are unreachable too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.process import Running
from warmstart.node.session import Session

START_S = 10.0
INTERFACE = "outside"
# The addresses in use of a /29; its others are refused below.
ADDRESS, ROUTER, NAME_SERVER, PREFIX_LENGTH = "169.254.87.2", "169.254.87.1", "169.254.87.3", "29"
REFUSED = (
    # Link-local: the metadata services of AWS, Google Cloud, Azure, OpenStack and others. The session's /29 stays open.
    "169.254.0.0/16",
    "169.254.87.4/30",
    # Metadata services elsewhere: Alibaba Cloud, Azure (WireServer), Oracle Cloud.
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
)
# Opening a namespace below /proc takes CAP_SYS_PTRACE, which root lacks in many sandboxes.
NAMESPACE = "/run/outside-network"
PREPARE = f"""
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
touch {NAMESPACE} && mount --bind /proc/1/ns/net {NAMESPACE}
"""
REFUSE = "".join(f"ip route add prohibit {network}\n" for network in REFUSED)
PASTA = (
    *("pasta", "--foreground", "--runas", "0:0", "--netns", NAMESPACE, "--netns-only", "--config-net", "--ipv4-only"),
    *("--ns-ifname", INTERFACE, "--address", ADDRESS, "--netmask", PREFIX_LENGTH, "--gateway", ROUTER, "--no-map-gw"),
    *("--dns-forward", NAME_SERVER),
    *("--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
)


class Network(StrEnum):
    """The network that containers reach, besides the other containers of their node."""

    NONE = "none"
    OUTSIDE = "outside"


@contextlib.contextmanager
def connect_network(session: Session, network: Network) -> Iterator[Session]:
    """Connect a session's network for the length of a `with` block: to nothing, or to everything that the host reaches.

    Link-local addresses and metadata services stay unreachable (see `REFUSED`).

    Yields:
        The session, with the DNS servers for its containers.

    Raises:
        HostError: this machine has no network, or does not allow a new interface.
    """
    if network is Network.NONE:
        yield session
        return
    # Add the routes before the connection exists.
    session.run(["sh", "-ec", PREPARE + REFUSE], timeout_s=START_S)
    log_file = session.workspace / "pasta.log"
    with session.background(PASTA, log_file=log_file, host_network=True) as running:
        _wait_for_route(session, running, log_file)
        yield replace(session, name_servers=(NAME_SERVER,))


def _wait_for_route(session: Session, running: Running, log_file: Path) -> None:
    """Wait for a default route in the session's network; table format: proc_pid_net(5)."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and running.poll() is None:
        routes = (line.split() for line in Path(f"/proc/{session.init_pid}/net/route").read_text().splitlines())
        if any(fields[:2] == [INTERFACE, "00000000"] for fields in routes):
            return
        time.sleep(0.02)
    raise HostError(
        "cannot connect the node's network to the outside",
        details=log_file.read_text(errors="replace").splitlines()[-5:],
        hint="give this machine a default route and /dev/net/tun (in a container: --device /dev/net/tun)",
    )
