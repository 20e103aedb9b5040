"""Pools of connections in Python and Node.js: no idle one is open at the checkpoint, and each connects again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.hooks import SOURCES, Hooks
from support.once import MakeOnce

pytestmark = pytest.mark.linux

ESTABLISHED = "01"


class KeepAlive(BaseHTTPRequestHandler):
    """Answers, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Return the address of a server that keeps connections."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def count_connections(pid: int) -> int:
    """Count the established TCP connections of a process, both ends if it has both."""
    own = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == ESTABLISHED and f"socket:[{row[9]}]" in own for row in rows)


def check_pool(hooks: Hooks, program: subprocess.Popen[str]) -> None:
    """Take a program that says `ready ok` through a checkpoint and a restore, after which it says `again ok`."""
    hooks.events(1)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready ok\n"
    assert count_connections(program.pid) >= 1
    (answer,) = hooks.request_checkpoint()
    assert answer["event"] == "checkpoint", answer
    assert count_connections(program.pid) == 0
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1)[0]["event"] == "restored"
    assert program.stdout.readline() == "again ok\n"


PYTHON = """
import os, sys, threading
from snapshot_restore_py import register_after_restore
URL = os.environ["URL"]
restored = threading.Event()
register_after_restore(restored.set)
{}
print("ready", ask(), flush=True)
restored.wait()
print("again", ask(), flush=True)
# The agent answers from a thread, and not if the program ends at once.
threading.Event().wait()
"""
URLLIB3 = """
import urllib3
pool = urllib3.PoolManager()
def ask(): return pool.request("GET", URL).data.decode()
"""
HTTPX = """
import httpx
client = httpx.Client()
def ask(): return client.get(URL).text
"""
HTTPX_ASYNC = """
import asyncio, httpx
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
client = httpx.AsyncClient()
def ask(): return asyncio.run_coroutine_threadsafe(client.get(URL), loop).result().text
"""
# A driver of its own, whose connections are connections to the server.
SQLALCHEMY = """
import http.client, types
from urllib.parse import urlsplit
from sqlalchemy import create_engine

class Connection:
    def __init__(self):
        self.http = http.client.HTTPConnection(urlsplit(URL).netloc)
        self.http.connect()
    def get(self):
        self.http.request("GET", "/")
        return self.http.getresponse().read().decode()
    def close(self): self.http.close()
    def rollback(self): pass
    def commit(self): pass

driver = types.SimpleNamespace(paramstyle="pyformat", __version__="2.9.9", Error=OSError)
engine = create_engine("postgresql+psycopg2://", module=driver, creator=Connection, _initialize=False)
def ask():
    connection = engine.raw_connection()
    try: return connection.driver_connection.get()
    finally: connection.close()
"""


@pytest.mark.parametrize(
    ("module", "code"),
    [("urllib3", URLLIB3), ("httpx", HTTPX), ("httpx", HTTPX_ASYNC), ("sqlalchemy", SQLALCHEMY)],
    ids=["urllib3", "httpx", "httpx async", "sqlalchemy"],
)
def test_pools_of_python(hooks, url, module, code):
    if find_spec(module) is None:
        pytest.skip(f"needs {module}")
    command = [Path(sys.executable), "-c", PYTHON.format(code)]
    path = f"{hooks.directory / 'python'}"
    check_pool(hooks, hooks.start(command, {"PYTHONPATH": path, "URL": url, "no_proxy": "127.0.0.1"}))


NODE_LIBRARIES = ("ioredis@5", "undici@6")
UNDICI = """
const { Agent, request } = require('undici');
const dispatcher = new Agent({ keepAliveTimeout: 60000 });
const ask = async () => (await request(process.env.URL, { dispatcher })).body.text();
"""
# A client of a cluster of one node, which speaks as much of Redis's protocol as it needs, in a thread of its own.
REDIS_CLUSTER = r"""
const { Worker } = require('worker_threads');
const Redis = require('ioredis');
const server = new Worker(`
  const net = require('net');
  const { parentPort } = require('worker_threads');
  const bulk = (text) => '$' + text.length + '\\r\\n' + text + '\\r\\n';
  const answer = (command, port) => {
    const [name, second] = command.map((word) => word.toLowerCase());
    if (name === 'cluster' && second === 'slots')
      return ['*1', '*3', ':0', ':16383', '*2', '$9', '127.0.0.1', ':' + port, ''].join('\\r\\n');
    if (name === 'cluster') return bulk('cluster_state:ok');
    if (name === 'info') return bulk('redis_version:7.0.0');
    return name === 'get' ? bulk('ok') : '+OK\\r\\n';
  };
  const listener = net.createServer((socket) => {
    let rest = [];
    socket.on('error', () => {});
    socket.on('data', (data) => {
      rest.push(...data.toString().split('\\r\\n').filter((line, index, all) => index < all.length - 1));
      while (rest.length && rest.length > 2 * Number(rest[0].slice(1))) {
        const lines = rest.splice(0, 1 + 2 * Number(rest[0].slice(1)));
        socket.write(answer(lines.slice(1).filter((line, index) => index % 2), listener.address().port));
      }
    });
  }).listen(0, '127.0.0.1', () => parentPort.postMessage(listener.address().port));
`, { eval: true });
let cluster;
const ask = async () => {
  if (!cluster) {
    const port = await new Promise((resolve) => server.once('message', resolve));
    cluster = new Redis.Cluster([{ host: '127.0.0.1', port }]);
  }
  return cluster.get('key');
};
"""
NODE = """
{}
setInterval(() => {{}}, 1000); // idle connections do not keep a program running
process.on('afterRestore', () => {{ setTimeout(async () => console.log('again', await ask()), 50); }});
ask().then((text) => console.log('ready', text));
"""


@pytest.fixture(scope="session")
def node_libraries(make_once: MakeOnce) -> Path:
    """Return a directory with modules from npm."""

    def install(directory: Path) -> None:
        directory.mkdir()
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        done = subprocess.run(["npm", "install", *options, "--prefix", directory, *NODE_LIBRARIES], check=False)
        (directory / "installed").write_text(str(done.returncode))

    if not all(map(shutil.which, ("node", "npm"))):
        pytest.skip("needs node and npm")
    directory = make_once("node-libraries", install)
    if (directory / "installed").read_text() != "0":
        pytest.skip("npm cannot install its modules")
    return directory / "node_modules"


@pytest.mark.parametrize("code", [UNDICI, REDIS_CLUSTER], ids=["undici", "ioredis cluster"])
def test_pools_of_node(hooks, url, gcc, node_libraries, code):
    subprocess.run([SOURCES / "node/build.sh", hooks.directory / "node"], check=True)
    environment = {
        "NODE_OPTIONS": f"--require {hooks.directory}/node/hooks.cjs",
        "NODE_PATH": str(node_libraries),
        "URL": url,
    }
    check_pool(hooks, hooks.start(["node", "-e", NODE.format(code)], environment))
