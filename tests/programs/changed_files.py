"""A service that changes files of its image and holds files of other kinds, and says at /check what it has lost."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT = 8080
CONTENT, MODE, LINKED, REPLACED = Path("/etc/profile"), Path("/etc/default"), Path("/etc/opt"), Path("/etc/skel")
FIFO, LOCK = Path("/tmp/log/pipe"), Path("/tmp/lock")
PEER = ("198.51.100.9", 8125)
checks: list[Callable[[], bool]] = []
expected = ["changed"]


def change_files_of_the_image() -> None:
    assert any(REPLACED.iterdir())
    CONTENT.write_text("changed")
    MODE.chmod(0o2710)
    if not LINKED.is_symlink():  # a cold start has what the image was left with
        LINKED.rmdir()
        LINKED.symlink_to("/elsewhere")
    shutil.rmtree(REPLACED)
    REPLACED.mkdir()
    (REPLACED / "new").write_text("new")
    checks.append(lambda: stat.S_IMODE(MODE.stat().st_mode) == 0o2710)
    checks.append(lambda: str(LINKED.readlink()) == "/elsewhere")
    checks.append(lambda: [path.name for path in REPLACED.iterdir()] == ["new"])


def grow() -> bool:
    """Change a file of the image once more, so that a checkpoint after a restore has something to contain."""
    expected.append("+")
    with CONTENT.open("a") as file:
        file.write("+")
    return CONTENT.read_text() == "".join(expected)


def hold_a_fifo() -> None:
    FIFO.parent.mkdir()
    os.mkfifo(FIFO)
    pipe = os.open(FIFO, os.O_RDWR)

    def check() -> bool:
        os.write(pipe, b"line")
        return os.read(pipe, 9) == b"line" and FIFO.is_fifo()

    checks.append(check)


def hold_a_lock_file() -> None:
    lock = os.open(LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400)
    checks.append(lambda: os.pwrite(lock, b"pid", 0) == 3 and stat.S_IMODE(LOCK.stat().st_mode) == 0o400)


def hold_files_of_the_pod() -> None:
    hosts = os.open("/etc/hosts", os.O_RDONLY)
    checks.append(lambda: bool(os.pread(hosts, 9, 0)))


def connect(family: int, address: str) -> socket.socket:
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.connect((address, PEER[1]))
    return client


def has_address_of_new(client: socket.socket) -> bool:
    with connect(socket.AF_INET, PEER[0]) as new:
        return client.getsockname()[0].removeprefix("::ffff:") == new.getsockname()[0]


def hold_a_client() -> None:
    for family, address in ((socket.AF_INET, PEER[0]), (socket.AF_INET6, f"::ffff:{PEER[0]}")):
        client = connect(family, address)
        checks.append(lambda client=client: client.send(b"sent") == 4)
        checks.append(lambda client=client: has_address_of_new(client))


class Handler(BaseHTTPRequestHandler):
    """Answer 200 if nothing is lost, and else 500 with the numbers of the checks that fail."""

    def do_GET(self) -> None:
        """Answer a request."""
        failed = [number for number, check in enumerate(checks) if not check()]
        self.send_response(500 if failed else 200)
        self.end_headers()
        self.wfile.write(f"failed: {failed}\n".encode())

    def log_message(self, *_: object) -> None:
        """Write no log."""


change_files_of_the_image()
checks.append(grow)
hold_a_fifo()
hold_a_lock_file()
hold_files_of_the_pod()
hold_a_client()
HTTPServer(("", PORT), Handler).serve_forever()
