from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from warmstart.core.errors import ImageError
from warmstart.image.buildah import Buildah

# buildah is started beside a connection to the runtime, many times in one process.
PROGRAM = """
import sys
from pathlib import Path
from warmstart.engine.cri import CriEngine
from warmstart.image.buildah import Buildah
import grpc

with CriEngine(sys.argv[1], proc=Path("/proc"), network=None, scratch=Path("/")) as engine:
    grpc.channel_ready_future(engine._channel).result(10)
    buildah = Buildah(["true"], {}, Path("/tmp/root"), Path("/tmp/run"))
    for _ in range(20):
        buildah.commit("container", "image", annotations={}, labels={}, cmd=None)
"""


def test_buildah_runs_beside_an_open_connection(tmp_path):
    with ThreadPoolExecutor(1) as workers:
        server = grpc.server(workers)
        server.add_insecure_port(f"unix://{tmp_path}/crio.sock")
        server.start()
        argv = [sys.executable, "-c", PROGRAM, f"unix://{tmp_path}/crio.sock"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        server.stop(None).wait()
    assert done.returncode == 0, done.stderr
    # Without the setting, gRPC tells of forks here, whether or not one has gone wrong.
    assert done.stderr == ""


SLEEP = ["sh", "-c", "sleep 600", "buildah"]


def test_an_interruption_ends_it_and_leaves_no_thread_that_would_keep_us(tmp_path) -> None:
    buildah = Buildah(SLEEP, dict(os.environ), tmp_path / "root", tmp_path / "run")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        buildah.commit("container", "image", annotations={}, labels={}, cmd=None)
    assert [thread for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread()]


def test_it_is_ended_when_it_takes_too_long(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("warmstart.image.buildah.TIMEOUT_S", 0.5)
    buildah = Buildah(SLEEP, dict(os.environ), tmp_path / "root", tmp_path / "run")
    with pytest.raises(ImageError, match=r"^buildah commit took longer than 0\.5 s$"):
        buildah.commit("container", "image", annotations={}, labels={}, cmd=None)
