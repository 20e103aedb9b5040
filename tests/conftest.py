"""What several tests need: a real registry."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.once import MakeOnce

from warmstart.cli.context import default_cache
from warmstart.node.session import EXPIRED
from warmstart.node.tree import tree_path


def pytest_configure() -> None:
    # A shell starts what runs in the background with SIGINT ignored, which tests of Ctrl-C and what they start inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As the Makefile does: this machine's mirror of Debian may be one that is no longer updated.
    os.environ.setdefault(EXPIRED, "1")
    # The same examples in each run, as long as they take: no run fails by chance, or because the machine is busy.
    settings.register_profile(
        "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("steady")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    # Compressed data has the time in it, so the processes of pytest-xdist would disagree about the names of tests.
    return argname if isinstance(val, bytes) and not val.isascii() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip(reason="needs Linux"))


def pytest_collection_finish() -> None:
    # Thousands of collected tests stay until the end. Each collection of garbage would look at them again.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, request) -> MakeOnce:
    """Make a file or directory once for all test processes of this run."""
    top = tmp_path_factory.getbasetemp()
    # With pytest-xdist, the directories of its processes lie in one of this run.
    return MakeOnce((top.parent if hasattr(request.config, "workerinput") else top) / "once")


@pytest.fixture(scope="session")
def start_registry(tmp_path_factory) -> Iterator[Callable[..., str]]:
    """Start a docker-registry with parts of its configuration given; answers with its HOST:PORT."""
    found = find_registry()
    if not found:
        pytest.skip("no docker-registry: name one in WARMSTART_TEST_REGISTRY, or apt-get install docker-registry")
    with ExitStack() as running:
        yield lambda **config: running.enter_context(
            run_registry(Path(found), tmp_path_factory.mktemp("registry"), config)
        )


@pytest.fixture(scope="session")
def registry(start_registry) -> str:
    """The HOST:PORT of a registry that speaks plain HTTP and lets everybody do everything."""
    return start_registry()


def find_registry() -> str | None:
    """The program: one that was named, the machine's own, or that of the tools directory."""
    tree = tree_path(Path(os.environ.get("WARMSTART_CACHE") or default_cache()))
    return (
        os.environ.get("WARMSTART_TEST_REGISTRY")
        or shutil.which("docker-registry")
        or shutil.which(tree / "usr/bin/docker-registry")
    )


@contextmanager
def run_registry(program: Path, home: Path, config: dict) -> Iterator[str]:
    # JSON is YAML. Port 0: the kernel chooses, and the log tells.
    settings = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}, "delete": {"enabled": True}},
        **config,
        "http": {"addr": "127.0.0.1:0", "secret": "tests", **config.get("http", {})},
    }
    (home / "config.yml").write_text(json.dumps(settings))
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([program, "serve", home / "config.yml"], stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{wait_for_port(server, home / 'log')}"
    finally:
        server.terminate()
        server.wait(60)


def wait_for_port(server: subprocess.Popen, log: Path) -> str:
    for _ in range(1200):
        if match := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()):
            return match[1]
        if server.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"the registry did not start:\n{log.read_text()}")
