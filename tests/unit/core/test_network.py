"""Other network namespaces: sockets are made there and used here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from warmstart.core import linux
from warmstart.core.network import add_address_in, call_in_network, connect_in

pytestmark = pytest.mark.linux

OWN = Path("/proc/self/ns/net")


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace")


@pytest.fixture
def namespace() -> Iterator[Path]:
    """A new network namespace, whose loopback device is up."""
    needs_root()
    script = "ip link set lo up && echo up && exec sleep 1000"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout.readline() == b"up\n"
        yield Path(f"/proc/{keeper.pid}/ns/net")
        keeper.kill()


def test_a_call_is_made_in_the_other_network(namespace):
    there = call_in_network(namespace, lambda: Path("/proc/thread-self/ns/net").readlink())
    assert there == namespace.readlink()
    assert there != OWN.readlink()


def test_the_caller_stays_where_it_is(namespace):
    before = Path("/proc/thread-self/ns/net").readlink()
    call_in_network(namespace, lambda: None)
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_another_thread_goes_there_itself_and_comes_back(namespace):
    def where() -> tuple[int, Path]:
        return threading.get_ident(), Path("/proc/thread-self/ns/net").readlink()

    def work() -> list[tuple[int, Path]]:
        places = [where(), call_in_network(namespace, where), where()]
        with pytest.raises(ZeroDivisionError):
            call_in_network(namespace, lambda: 1 / 0)
        with pytest.raises(FileNotFoundError):
            call_in_network(namespace.with_name("gone"), where)
        return [*places, where()]

    descriptors = sorted(Path("/proc/self/fd").iterdir())
    with ThreadPoolExecutor(1) as pool:
        here, there, *again = pool.submit(work).result()
    assert there == (here[0], namespace.readlink())
    assert again == [here, here] != [there, there]
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    # The main thread sends another one: an interruption may come anywhere.
    assert call_in_network(namespace, where)[0] != threading.get_ident()


def test_an_address_is_added_once(namespace):
    for _ in range(2):
        add_address_in(namespace, "lo", "10.9.8.7")
    listener = call_in_network(namespace, lambda: socket.create_server(("10.9.8.7", 0)))
    with listener, connect_in(namespace, listener.getsockname(), 10) as connection:
        assert connection.getpeername() == listener.getsockname()
    with pytest.raises(OSError, match="no interface with this name"):
        add_address_in(namespace, "eth7", "10.9.8.7")


def test_a_connection_made_there_is_used_here(namespace):
    listener = call_in_network(namespace, lambda: socket.create_server(("127.0.0.1", 0)))
    address = listener.getsockname()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(100).upper())

    thread = threading.Thread(target=answer)
    thread.start()
    with listener, connect_in(namespace, address, 10) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"
        thread.join()
    # The same port here is nobody's.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)


def test_an_error_of_the_call_is_the_callers(namespace):
    with pytest.raises(ZeroDivisionError):
        call_in_network(namespace, lambda: 1 / 0)
    with pytest.raises(ConnectionRefusedError):
        connect_in(namespace, ("127.0.0.1", 1), 10)


def test_a_namespace_that_is_gone_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        call_in_network(tmp_path / "gone", lambda: pytest.fail("was called"))


def test_what_is_no_namespace_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
        call_in_network(Path(__file__), lambda: pytest.fail("was called"))


def test_no_descriptor_is_left(namespace):
    before = sorted(Path("/proc/self/fd").iterdir())
    call_in_network(namespace, lambda: None)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


# The calls themselves, in a process of its own that may change its namespaces


def run_apart(script: str) -> str:
    needs_root()
    preamble = "import os\nfrom pathlib import Path\nfrom warmstart.core import linux\n"
    command = [sys.executable, "-c", preamble + script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_mounts_of_a_new_namespace_stay_in_it(tmp_path):
    target = tmp_path / "mounted"
    target.mkdir()
    script = f"""
linux.unshare(linux.CLONE_NEWNS)
linux.mount("none", Path("/"), flags=linux.MS_REC | linux.MS_PRIVATE)
target = Path({str(target)!r})
linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID, "size=64k,mode=750")
(target / "file").touch()
system = os.statvfs(target)
print(oct(target.stat().st_mode & 0o7777), os.path.ismount(target), system.f_blocks * system.f_frsize)
linux.unmount(target)
print(os.path.ismount(target))
"""
    assert run_apart(script) == "0o750 True 65536\nFalse\n"
    assert list(target.iterdir()) == []


def test_a_root_is_exchanged_for_another(tmp_path):
    script = f"""
linux.unshare(linux.CLONE_NEWNS)
linux.mount("none", Path("/"), flags=linux.MS_REC | linux.MS_PRIVATE)
root = Path({str(tmp_path)!r})
linux.mount("tmpfs", root, "tmpfs")
(root / "old").mkdir()
linux.pivot_root(root, root / "old")
os.chdir("/")
print(os.listdir("/"), Path("/old/etc/passwd").exists())
linux.unmount(Path("/old"), linux.MNT_DETACH)
print(os.listdir("/old"))
"""
    assert run_apart(script) == "['old'] True\n[]\n"


def test_a_child_ends_with_its_parent():
    script = """
import signal, sys, time
read, write = os.pipe()
middle = os.fork()
if middle == 0:
    if os.fork() == 0:
        linux.set_parent_death_signal(signal.SIGKILL)
        os.write(write, b"x")
        time.sleep(1000)
    time.sleep(1000)
os.close(write)
os.read(read, 1)
os.kill(middle, signal.SIGKILL)
print(os.read(read, 1))
"""
    assert run_apart(script) == "b''\n"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda path: linux.unmount(path / "missing"), FileNotFoundError),
        (lambda path: linux.mount("none", path / "missing", "tmpfs"), FileNotFoundError),
        (lambda path: linux.pivot_root(path / "missing", path), FileNotFoundError),
    ],
)
def test_an_error_names_the_kernels_reason_and_the_path(tmp_path, call, error):
    needs_root()
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert caught.value.filename == str(tmp_path / "missing")


def test_a_file_that_is_no_namespace_cannot_be_entered():
    with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted") as caught:
        linux.enter_namespace(Path(__file__))
    assert caught.value.filename == __file__
