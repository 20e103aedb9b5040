"""Answer with a number of each generator of random numbers that Python programs use; a callback may fail.

The argument is the port. FAIL names a phase and how its callback fails, as in `after hangs`; it may be late.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import ssl
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

try:
    import numpy.random
except ImportError:  # not in every image
    numpy = None

said: list[str] = []
ticks = {"threading": 0, "asyncio": 0}
woken = threading.Event()
begun = time.time()


def act(phase: str) -> None:
    said.append(phase)
    if os.environ.get("FAIL") == f"{phase} throws":
        raise OSError("no pool")
    if os.environ.get("FAIL") == f"{phase} hangs":
        time.sleep(3600)


if "snapshot_restore_py" in sys.modules or os.environ.get("WARMSTART_HOOKS"):
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    register_before_snapshot(act, "before")
    register_after_restore(act, "after")


def draw() -> dict[str, str]:
    return {
        "random": str(random.random()),
        "random.SystemRandom": str(random.SystemRandom().random()),
        "ssl.RAND_bytes": ssl.RAND_bytes(8).hex(),
        "os.urandom": os.urandom(8).hex(),
        "secrets": secrets.token_hex(8),
        "tempfile": next(tempfile._get_candidate_names()),
        "uuid.uuid1": str(uuid.uuid1())[19:],  # without the time
        "uuid.uuid4": str(uuid.uuid4()),
        **({"numpy": str(numpy.random.random())} if numpy else {}),
    }


def tick() -> None:
    """Count waits of a thread, each as long as one of threading.Timer."""
    while not woken.wait(0.01):
        ticks["threading"] += 1


async def tick_in_loop() -> None:
    """Count calls of a timer of asyncio that is started again by each call."""
    loop = asyncio.get_running_loop()

    def again() -> None:
        ticks["asyncio"] += 1
        loop.call_later(0.01, again)

    again()
    await asyncio.Event().wait()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        life = {"said": said, "ticks": ticks, "milliseconds": (time.time() - begun) * 1000}
        body = json.dumps({**life, "draws": draw()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


draw()
threading.Thread(target=tick, daemon=True).start()
threading.Thread(target=asyncio.run, args=[tick_in_loop()], daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
