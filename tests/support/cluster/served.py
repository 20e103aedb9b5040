"""HTTP servers of this process in the network of a cluster's first node, where the API server and pods reach them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.cluster.cluster import Cluster

from warmstart.core.network import call_in_network


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *words: object) -> None:
        """Log nothing."""

    def reply(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Send a whole response."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serve_in_cluster(
    cluster: Cluster, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, int]]:
    """Serve requests, each on a thread of its own, until the end of the block; yield the address and port."""
    node = cluster.nodes[0]
    listener = call_in_network(node.session.network, lambda: socket.create_server((node.address, 0), backlog=128))
    address: tuple[str, int] = listener.getsockname()
    server = ThreadingHTTPServer(address, handler, bind_and_activate=False)
    server.socket.close()
    # The handshake is the first thing that a request's thread does: otherwise one client would keep the others out.
    server.socket = tls.wrap_socket(listener, server_side=True, do_handshake_on_connect=False) if tls else listener
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
