from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

# buildah is started beside a connection to the runtime, many times in one process.
PROGRAM = """
import sys
from pathlib import Path
from warmstart.engine.cri import CriEngine
from warmstart.image.buildah import Buildah
import grpc

with CriEngine(sys.argv[1], proc=Path("/proc"), network=None, scratch=Path("/")) as engine:
    grpc.channel_ready_future(engine._channel).result(10)
    buildah = Buildah(["true"], {}, Path("/"), Path("/"))
    for _ in range(20):
        buildah.commit("container", "image")
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
