"""An entrypoint as official images have it: below the launcher, and restored by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.builds import build

from warmstart.build.cold_start import ColdStartError
from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport

IMAGE = Path(__file__).parents[2] / "build/images/python.tar"
pytestmark = [pytest.mark.node, pytest.mark.skipif(not IMAGE.exists(), reason="make images")]

LOCK = "/var/lib/entrypoint/app.lock"
# It starts as root, logs by name, leaves a lock that it does not accept, starts a daemon of another user, and becomes
# yet another one, which binds a low port.
ENTRYPOINT = f"""
import http.server, os, socket, time

os.makedirs(os.path.dirname({LOCK!r}), exist_ok=True)
os.open({LOCK!r}, os.O_CREAT | os.O_EXCL | os.O_RDWR)
for name in ("/proc/1/fd/1", "/dev/stdout"):
    print("logged by", name, file=open(name, "w"), flush=True)

def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)

if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    become(2000)
    listening = socket.create_server(("127.0.0.1", 9100))
    while True:
        client, _ = listening.accept()
        client.sendall(b"2000" if os.getuid() == 2000 else b"root")
        client.shutdown(1)
        client.recv(1)
        client.close()
os.wait()
time.sleep(0.3)
become(1000)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.create_connection(("127.0.0.1", 9100), 2) as daemon:
            is_well = daemon.recv(9) == b"2000" and os.getuid() == 1000 and os.getgroups() == []
        self.send_response(200 if is_well else 500)
        self.send_header("Connection", "close")
        self.end_headers()

http.server.HTTPServer(("", 80), Handler).serve_forever()
"""


@pytest.fixture
def write(tmp_path):
    """Write a recipe with additional keys, and return its path."""

    def write_it(**more):
        probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1, "failureThreshold": 20, "timeoutSeconds": 3}
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": "entrypoint",
            "container": {
                "image": f"oci-archive:{IMAGE}",
                "command": ["python3", "-u", "-c", ENTRYPOINT],
                "securityContext": {"runAsUser": 0},
                "readinessProbe": probe,
            },
            "restore": ["self"],
            "image": {"name": "localhost/tests/entrypoint:1"},
            **more,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(document))
        return path

    return write_it


def test_it_is_restored_with_its_users_and_starts_cold_without_its_lock(write, cache, tmp_path):
    options = BuildOptions(cache, Output(Transport.OCI, tmp_path / "image"))
    with pytest.raises(ColdStartError) as failed:
        build(write(), options)
    assert f"coldStart: {{remove: [{LOCK}]}}" in failed.value.hint
    built, _ = build(write(coldStart={"remove": [LOCK]}), options)
    assert len(built.restores) == 2
