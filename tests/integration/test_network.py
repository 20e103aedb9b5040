"""During its build, an application reaches either no network or that of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.builds import build, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.errors import AppError
from warmstart.core.reference import Transport
from warmstart.engine.local import start_engine
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import find_bridge_address
from warmstart.node.keeper import Bind
from warmstart.node.network import NAME_SERVER, ROUTER, Network, connect_network
from warmstart.node.session import Session
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

NAME = "localhost/tests/network:1"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(address: str) -> Iterator[int]:
    """Run a server at a port of this machine."""
    with ThreadingHTTPServer((address, 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def outside() -> Iterator[str]:
    """Run a server at this machine's external address, and return its ADDRESS:PORT."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("needs a network")
        address = probe.getsockname()[0]
    with serve(address) as port:
        yield f"{address}:{port}"


@pytest.fixture
def make_recipe(base_archive, tmp_path):
    def make(fetch: str):
        return write_recipe(tmp_path / "recipe.yaml", base_archive, NAME, {"env": [{"name": "FETCH", "value": fetch}]})

    return make


def test_an_application_that_fetches_something_at_its_start(outside, make_recipe, cache, tmp_path):
    recipe, output = make_recipe(outside), Output(Transport.OCI, tmp_path / "out")
    with pytest.raises(AppError) as caught:
        build(recipe, BuildOptions(cache, output))
    assert "Network is unreachable" in "\n".join(caught.value.details)
    built, _ = build(recipe, BuildOptions(cache, output, network=Network.OUTSIDE))
    assert len(built.restores) == 2


def test_what_this_machine_serves_only_to_itself_is_not_reached(outside, make_recipe, cache, tmp_path):
    # pasta would take its router for this machine's loopback, unless told otherwise.
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"), network=Network.OUTSIDE)
    with serve("127.0.0.1") as port:
        recipe = make_recipe(f"{ROUTER}:{port}")
        with pytest.raises(AppError):
            build(recipe, options)


def test_names_are_asked_of_this_machine(base_archive, make_recipe, open_node):
    container = replace(load_recipe(make_recipe("")).container, env=())
    with open_node(Bind(str(base_archive))) as node, connect_network(node, Network.OUTSIDE) as session:
        layout = session.workspace / "layout"
        copy_image(session, f"oci-archive:{base_archive}", f"oci:{layout}")
        with start_engine(session, "names", subnet="10.77.0.0/24") as engine:
            engine.import_image(layout, NAME)
            with engine.cri.start(container, NAME, "pod") as running:
                asked = (session.proc / str(running.pid) / "root/etc/resolv.conf").read_text()
                assert asked.split() == ["nameserver", NAME_SERVER]


# The metadata services of clouds, and what else is link-local, but for what the session's network consists of.
REFUSED_ADDRESSES = (
    *("169.254.169.254", "169.254.170.2", "169.254.0.23", "169.254.87.4", "169.254.87.53", "169.254.255.255"),
    *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
)
REACHED_ADDRESSES = (NAME_SERVER, ROUTER, "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.100.100.201", "192.0.2.1")


def test_metadata_services_are_not_reached_from_a_pod(outside, open_node):
    def ask(session: Session, address: str) -> str:
        # As for a packet that a pod sends.
        pod = ["from", "10.77.0.2", "iif", "pods"]
        done = session.run(["ip", "route", "get", address, *pod], timeout_s=60, check=False)
        return done.stdout + done.stderr

    with open_node() as node, connect_network(node, Network.OUTSIDE) as session:
        make_bridge = "ip link add pods type bridge; ip addr add 10.77.0.1/24 dev pods; ip link set pods up"
        session.run(["sh", "-ec", f"{make_bridge}; echo 1 > /proc/sys/net/ipv4/ip_forward"], timeout_s=60)
        for address in REFUSED_ADDRESSES:
            assert "Permission denied" in ask(session, address), address
        for address in REACHED_ADDRESSES:
            assert "dev outside" in ask(session, address), address
        assert session.run(["ip", "-6", "route", "show", "default"], timeout_s=60).stdout == ""


def test_the_address_of_a_bridge_does_not_depend_on_its_pods(open_node):
    with open_node() as session, start_engine(session, "crowd", subnet="10.79.0.0/24") as engine:

        def run(number: int) -> str:
            with engine.cri.open_pod(f"pod-{number}"):
                return session.run(["cat", "/sys/class/net/ws-crowd/address"], timeout_s=60).stdout.strip()

        with ThreadPoolExecutor(3) as pool:
            # If it changes, CRI-O's check of another new pod fails.
            assert {*pool.map(run, range(6))} == {find_bridge_address("crowd")}
