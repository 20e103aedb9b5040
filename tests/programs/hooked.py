"""A server with an agent of its own that speaks the protocol of docs/hooks.md, and fails where FAIL says so.

The value of FAIL is a phase and what it does, as in `beforeCheckpoint hangs`; after a restore it is the pod's. With
`asks` the application asks for its checkpoint, and serves nobody before it.
"""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOOKS = os.environ.get("WARMSTART_HOOKS", "")
said = []


def reply(**answer):
    fifo = os.open(f"{HOOKS}/reply", os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, (json.dumps({"pid": os.getpid(), **answer}) + "\n").encode())
    os.close(fifo)


def read_fail():
    try:
        new = dict(line.partition("=")[::2] for line in Path("/.warmstart/env").read_text().split("\0"))
    except OSError:
        new = {}
    return new.get("FAIL", os.environ.get("FAIL", ""))


def act(phase):
    said.append(phase)
    if read_fail() == f"{phase} hangs":
        time.sleep(3600)
    if read_fail() == f"{phase} fails":
        reply(event="failed", phase=phase, error='com.example.Refused: "no" ü\n')
        time.sleep(3600)
    if read_fail() == f"{phase} ends":
        os._exit(70)
    time.sleep(0.05)


def serve_hooks():
    os.close(os.open(f"{HOOKS}/checkpoint", os.O_RDONLY))
    act("beforeCheckpoint")
    reply(event="checkpoint", seconds=0.05)
    try:
        os.close(os.open(f"{HOOKS}/restored", os.O_RDONLY))
    except FileNotFoundError:
        act("afterRestore")
        reply(event="restored", seconds=0.05)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"said": said, "env": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if Path(f"{HOOKS}/checkpoint").exists():
    reply(event="registered", runtime="test 1")
    hooks = threading.Thread(target=serve_hooks)
    hooks.start()
    if os.environ.get("FAIL") == "asks":
        reply(event="ready")
        hooks.join()
ThreadingHTTPServer(("", 8080), Handler).serve_forever()
