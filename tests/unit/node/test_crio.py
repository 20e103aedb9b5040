"""The embedded CRI-O: its configuration, and what is said when it does not come up; with a program in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from warmstart.core import process
from warmstart.core.errors import EngineError, HostError
from warmstart.node import crio as crio_module
from warmstart.node.crio import PAUSE_IMAGE, PIDS_LIMIT, run_crio

pytestmark = pytest.mark.linux

SERVE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
server = grpc.server(ThreadPoolExecutor(1))
server.add_insecure_port(f"unix://{sys.argv[1]}/crio.sock")
server.start()
time.sleep(1000)
"""


class FakeSession:
    """Starts something else on this machine in the place of CRI-O; it is told the state directory."""

    def __init__(self, workspace: Path, *command: str) -> None:
        self.workspace = workspace
        self._command = command
        self.asked: list[str] = []
        self.host_network: bool | None = None

    def run(self, command: Sequence[str], *, timeout_s: float) -> None:
        """A bridge is made."""

    def background(
        self, command: Sequence[str], *, log_file: Path, host_network: bool
    ) -> AbstractContextManager[process.Running]:
        self.host_network = host_network
        self.asked = list(command)
        return process.background([*self._command, str(log_file.parent)], log_file=log_file)


@pytest.fixture
def workspace() -> Iterator[Path]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="crio-") as directory:
        yield Path(directory)


def test_a_crio_that_serves_is_there_for_the_length_of_a_block(workspace):
    session = FakeSession(workspace, sys.executable, "-c", SERVE)
    with run_crio(session, "build", subnet="10.88.0.0/24") as crio:
        assert crio.endpoint == f"unix://{workspace}/build/crio.sock"
        assert crio.store == f"containers-storage:[overlay@{workspace}/build/storage+{workspace}/build/runroot]"
        assert "crio" in session.asked
        running = subprocess.run(["pgrep", "-f", f"{workspace}/build$"], capture_output=True, check=True).stdout
    assert not Path(f"/proc/{int(running)}").exists()


def test_a_crio_that_ends_says_why(workspace):
    script = "for n in $(seq 50); do echo line $n; done; echo 'level=fatal msg=\"no conmon\"'; exit 3"
    with (
        pytest.raises(EngineError, match=r"^CRI-O ended with status 3$") as caught,
        run_crio(FakeSession(workspace, "sh", "-c", script), "build", subnet="10.88.0.0/24"),
    ):
        pytest.fail("it did not start")
    assert caught.value.details[-1] == 'level=fatal msg="no conmon"'
    assert len(caught.value.details) == 15


def test_a_crio_that_does_not_listen_is_not_awaited_for_ever(workspace, monkeypatch):
    monkeypatch.setattr(crio_module, "START_S", 0.3)
    with (
        pytest.raises(EngineError, match=r"^CRI-O did not listen in time$"),
        run_crio(FakeSession(workspace, "sh", "-c", "exec sleep 1000"), "build", subnet="10.88.0.0/24"),
    ):
        pytest.fail("it did not start")


def test_a_place_that_is_too_deep_for_a_socket_is_said_so(workspace):
    deep = workspace / ("d" * 100)
    deep.mkdir()
    with (
        pytest.raises(HostError, match="CRI-O's socket path is too long") as caught,
        run_crio(FakeSession(deep, "false"), "build", subnet="10.88.0.0/24"),
    ):
        pytest.fail("it did not start")
    assert "WARMSTART_TMPDIR" in caught.value.hint


def configure(workspace: Path, **options: object) -> dict:
    with (
        pytest.raises(EngineError),
        run_crio(FakeSession(workspace, "false"), "build", subnet="10.88.0.0/24", **options),
    ):
        pass
    return tomllib.loads((workspace / "build" / "crio.conf").read_text())["crio"]


def test_it_keeps_everything_in_the_workspace(workspace):
    config = configure(workspace)
    places = [config["root"], config["runroot"], config["api"]["listen"], config["runtime"]["namespaces_dir"]]
    places += [config["runtime"]["runtimes"]["runc"]["runtime_root"], config["network"]["network_dir"]]
    assert [place for place in places if not place.startswith(f"{workspace}/build/")] == []
    assert config["image"]["pause_image"] == PAUSE_IMAGE


def test_its_policy_is_its_own(workspace):
    """What it runs was brought into its store, under names of which the machine's policy knows nothing."""
    session = FakeSession(workspace, "false")
    with pytest.raises(EngineError), run_crio(session, "build", subnet="10.88.0.0/24"):
        pass
    (home,) = (word.removeprefix("HOME=") for word in session.asked if word.startswith("HOME="))
    policy = Path(home) / ".config/containers/policy.json"
    assert policy.is_relative_to(workspace)
    assert json.loads(policy.read_text()) == {"default": [{"type": "insecureAcceptAnything"}]}


def test_it_restores_unless_it_is_not_to(workspace):
    config = configure(workspace)
    assert config["runtime"]["enable_criu_support"] is True
    assert config["runtime"]["default_runtime"] == "runc"


@pytest.mark.parametrize(("limited", "limit"), [(True, PIDS_LIMIT), (False, -1)])
def test_processes_are_limited_where_the_machine_can(workspace, monkeypatch, limited, limit):
    monkeypatch.setattr(crio_module, "limits_processes", lambda _: limited)
    assert configure(workspace)["runtime"]["pids_limit"] == limit


def test_it_is_configured_as_it_is_asked_for(workspace):
    config = configure(workspace, restore=False, runtime="crun")
    assert config["runtime"]["enable_criu_support"] is False
    assert config["runtime"]["default_runtime"] == "crun"
    assert config["runtime"]["runtimes"]["crun"]["runtime_path"] == "/usr/bin/crun"


@pytest.mark.parametrize("options", [{}, {"host_network": False}])
def test_it_is_in_the_network_that_is_asked_for(workspace, options):
    session = FakeSession(workspace, "false")
    with pytest.raises(EngineError), run_crio(session, "build", subnet="10.88.0.0/24", **options):
        pass
    assert session.host_network is not bool(options)


def test_its_pods_are_on_a_bridge_in_the_sessions_network(workspace):
    configure(workspace)
    network = json.loads((workspace / "build/net.d/10-warmstart.conflist").read_text())
    (bridge,) = network["plugins"]
    # The kernel takes no longer name for a device.
    assert len(bridge["bridge"]) < 16
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.88.0.0/24"}]]
    for plugin in ("bridge", "host-local", "loopback"):
        wrapper = workspace / "build/cni" / plugin
        assert os.access(wrapper, os.X_OK)
        assert f"nsenter --net=/proc/1/ns/net -- {crio_module.CNI_PLUGINS}/" in wrapper.read_text()
