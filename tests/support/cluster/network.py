"""The network of a cluster: nodes in their own namespaces on one bridge, and connections to and from the machine.

The bridge is in the first node's namespace, so the machine does not see it. Connections between the machine and the
cluster (to the API server and to registries) are relayed between sockets.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from support.cluster.veth import add_veth

from warmstart.core.network import call_in_network
from warmstart.node.session import Session

# The address of the service `kubernetes` is the first one of the services' range. There is no kube-proxy to serve it.
# The first node has the address instead, so the API server answers: it listens on all addresses.
SERVICES = "10.96.0.0/16"
API_ADDRESS = "10.96.0.1"
BRIDGE = "nodes"
IP_S = 60.0
CHUNK_BYTES = 1 << 17


@dataclass(frozen=True)
class Place:
    """The addresses of a node, by its number from 1."""

    number: int

    @property
    def address(self) -> str:
        """Address of the node."""
        return f"10.200.0.{self.number}"

    @property
    def subnet(self) -> str:
        """Subnet of its pods."""
        return f"10.244.{self.number}.0/24"


def make_network(first: Session) -> None:
    """Create the nodes' bridge in the network of the first node."""
    _script(
        first,
        f"""
        echo 1 > /proc/sys/net/ipv4/ip_forward
        ip link add {BRIDGE} type bridge
        ip addr add {Place(1).address}/24 dev {BRIDGE}
        ip link set {BRIDGE} up
        ip addr add {API_ADDRESS}/32 dev lo
        """,
    )


def join_network(first: Session, session: Session, place: Place) -> None:
    """Connect another node to the bridge. The connection ends with the node's network."""
    device = f"node{place.number}"
    call_in_network(first.network, lambda: add_veth(device, "eth0", session.init_pid))
    _script(
        session,
        f"""
        echo 1 > /proc/sys/net/ipv4/ip_forward
        ip addr add {place.address}/24 dev eth0
        ip link set eth0 up
        ip route add default via {Place(1).address}
        """,
    )
    _script(
        first,
        f"""
        ip link set {device} master {BRIDGE} up
        ip route replace {place.subnet} via {place.address}
        """,
    )


def _script(session: Session, script: str) -> None:
    session.run(["sh", "-euc", script], timeout_s=IP_S)


@contextlib.contextmanager
def bring_out(session: Session, address: str, port: int) -> Iterator[int]:
    """Yield a port of 127.0.0.1 that is relayed to an address in the session's network until the end of the block."""

    def connect() -> socket.socket:
        return call_in_network(session.network, lambda: _connect(address, port))

    with _listen(0) as listener, relay(listener, connect):
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def bring_in(session: Session, port: int) -> Iterator[None]:
    """Relay a port of 127.0.0.1 in the session's network to the same port on this machine during the block."""
    with (
        call_in_network(session.network, lambda: _listen(port)) as listener,
        relay(listener, lambda: _connect("127.0.0.1", port)),
    ):
        yield


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


def _connect(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=10)


@contextlib.contextmanager
def relay(listener: socket.socket, connect: Callable[[], socket.socket]) -> Iterator[None]:
    """Relay each connection to `listener` to a new connection from `connect` until the end of the block."""
    relay = _Relay(listener, connect)
    acceptor = threading.Thread(target=relay.accept, daemon=True)
    acceptor.start()
    try:
        yield
    finally:
        relay.end()
        acceptor.join()


class _Relay:
    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener = listener
        self._connect = connect
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._ended = False

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                worker = threading.Thread(target=self._serve, args=(client,), daemon=True)
                with self._lock:
                    self._threads = {thread for thread in self._threads if thread.is_alive()} | {worker}
                    # Start it under the lock: `end` cannot join a thread that has not started.
                    worker.start()

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for connection in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connect() as server:
            server.settimeout(None)
            with self._known(client, server):
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()

    @contextlib.contextmanager
    def _known(self, *connections: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._ended:
                raise ConnectionAbortedError
            self._open.update(connections)
        try:
            yield
        finally:
            with self._lock:
                self._open.difference_update(connections)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy everything from one socket to the other, and then shut it down."""
    try:
        while part := source.recv(CHUNK_BYTES):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One side has disconnected: end the whole connection.
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
