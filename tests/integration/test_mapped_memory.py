"""The default mapping of memory in a whole build: the processes' executables are known from before the dump."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.builds import PORT, build, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport

pytestmark = pytest.mark.node

PYTHON_IMAGE = Path(__file__).parents[2] / "build/images/python.tar"
MIB = 1 << 20
# Every request frees memory and takes it again: one before the dump, and one of each restored server.
SERVER = f"""
import ctypes, gc, http.server, os, signal
# As PID 1 it would not end otherwise.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
kept = {{number: [str(number)] for number in range(100_000)}}
state = {{}}
def fill():
    state["dropped"] = [[str(number), [number]] for number in range(100_000)]
    state["buffers"] = [bytearray(b"x") * (n % 50 * 4000 + 1) for n in range(500)]
def is_fine():
    state.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    zeros = [bytearray(size) for size in range(1, 800_000, 20_011)]
    fill()
    return not any(any(each) for each in zeros) and all(kept[number] == [str(number)] for number in kept)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if is_fine() else 500)
        self.end_headers()
fill()
http.server.ThreadingHTTPServer(("", {PORT}), Handler).serve_forever()
"""
PROBE = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 30}


def test_a_runtime_that_is_known(tree, cache, tmp_path) -> None:
    assert PYTHON_IMAGE.exists(), "make images"
    container = {"command": ["python3", "-c", SERVER], "readinessProbe": PROBE}
    recipe = write_recipe(tmp_path / "recipe.yaml", PYTHON_IMAGE.resolve(), "localhost/python:1", container)
    built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    assert len(built.restores) == 2
    (python,) = built.dump.memory.processes
    assert python.moved_bytes > 30 * MIB
    # No other reason than what is never mapped.
    assert python.left_bytes.keys() <= {"short run", "stack", "not private memory"}


def test_a_program_that_is_not_known(base_archive, cache, tmp_path) -> None:
    container = {"env": [{"name": "FILL_MB", "value": "16"}]}
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, "localhost/server:1", container)
    built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    (server,) = built.dump.memory.processes
    assert server.moved_bytes < MIB
    assert server.left_bytes["/server is linked statically, and its allocator not known"] > 15 * MIB
