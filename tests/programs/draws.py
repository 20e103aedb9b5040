"""Answer /draws with a number of each generator of random numbers that Python programs use."""

from __future__ import annotations

import json
import os
import random
import secrets
import ssl
import tempfile
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer


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
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(draw()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


draw()
HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
