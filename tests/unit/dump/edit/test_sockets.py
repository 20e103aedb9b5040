"""Closed sockets of a dump that is restored under another address."""

from __future__ import annotations

import shutil
import signal
import socket
import struct
from pathlib import Path

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import Endpoint, TcpState, read_inventory, read_sockets
from warmstart.dump.criu.entries import Entry, read_image, write_image
from warmstart.dump.edit.sockets import clear_owners, close_sockets, reconnect_datagrams

TCP = socket.IPPROTO_TCP


def pack_address(text: str) -> list[int]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    raw = socket.inet_pton(family, text)
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))


def make_socket(
    number: int, state: int, source: str, destination: str, protocol: int = TCP, kind: int = socket.SOCK_STREAM
) -> Entry:
    source_address, source_port = source.rsplit("/", 1)
    destination_address, destination_port = destination.rsplit("/", 1)
    isk = protos.File().isk.__class__(
        id=number,
        ino=0xABC0 + number,
        family=socket.AF_INET6 if ":" in source else socket.AF_INET,
        type=kind,
        proto=protocol,
        state=state,
        src_port=int(source_port),
        dst_port=int(destination_port),
        src_addr=pack_address(source_address),
        dst_addr=pack_address(destination_address),
    )
    return Entry(protos.File(type=4, id=number, isk=isk).SerializeToString())


def make_dump(directory: Path, *files: Entry, tcp_close: bool = False) -> None:
    inventory = protos.Inventory(img_version=2, network_lock_method=1)
    if tcp_close:
        inventory.tcp_close = True
    write_image(directory / "inventory.img", [Entry(inventory.SerializeToString())])
    write_image(directory / "files.img", files)


LISTENING = make_socket(1, TcpState.LISTEN, "0.0.0.0/80", "0.0.0.0/0")
RESET = make_socket(2, TcpState.CLOSE, "10.0.0.7/80", "10.0.0.8/4000")
RESET6 = make_socket(3, TcpState.CLOSE, "fd00::7/80", "fd00::8/4000")
OPEN = make_socket(4, TcpState.ESTABLISHED, "10.0.0.7/80", "10.0.0.8/4001")
UDP = make_socket(5, TcpState.ESTABLISHED, "10.0.0.7/99", "10.0.0.53/53", socket.IPPROTO_UDP, socket.SOCK_DGRAM)
NEVER_CONNECTED = make_socket(6, TcpState.CLOSE, "127.0.0.1/8000", "0.0.0.0/0")


def test_only_closed_sockets_are_changed(tmp_path: Path) -> None:
    make_dump(tmp_path, LISTENING, RESET, RESET6, OPEN, UDP, NEVER_CONNECTED)
    before = {found.inode: found for found in read_sockets(tmp_path)}
    closed = close_sockets(tmp_path, established=False)
    assert [found.inode for found in closed] == [0xABC2, 0xABC3]
    assert [str(found.destination) for found in closed] == ["10.0.0.8:4000", "[fd00::8]:4000"]
    entries = list(read_image(tmp_path / "files.img"))
    assert [entries[0], *entries[3:]] == [LISTENING, OPEN, UDP, NEVER_CONNECTED]
    after = {found.inode: found for found in read_sockets(tmp_path)}
    for inode in (0xABC2, 0xABC3):
        assert after[inode].state == TcpState.CLOSE
        for end in (after[inode].source, after[inode].destination):
            assert end == Endpoint(type(before[inode].source.address)(0), 0)


@pytest.mark.parametrize(
    ("source", "destination", "changed"),
    [
        ("10.0.0.7/99", "10.0.0.53/8125", "0.0.0.0/99"),
        ("::ffff:10.0.0.7/99", "::ffff:10.0.0.53/8125", "::/99"),
        ("127.0.0.1/99", "127.0.0.1/8125", None),
        ("::ffff:127.0.0.1/99", "::ffff:127.0.0.1/8125", None),
        ("10.0.0.7/99", "0.0.0.0/0", None),
    ],
)
def test_connected_datagrams_get_any_address(
    tmp_path: Path, source: str, destination: str, changed: str | None
) -> None:
    udp = socket.IPPROTO_UDP, socket.SOCK_DGRAM
    before = make_socket(5, TcpState.ESTABLISHED, source, destination, *udp)
    make_dump(tmp_path, OPEN, before)
    assert reconnect_datagrams(tmp_path) == int(changed is not None)
    after = make_socket(5, TcpState.ESTABLISHED, changed, destination, *udp) if changed else before
    assert list(read_image(tmp_path / "files.img")) == [OPEN, after]


def test_open_connections_too_when_asked(tmp_path: Path) -> None:
    make_dump(tmp_path, OPEN, UDP)
    stream = tmp_path / "tcp-stream-abc4.img"
    other = tmp_path / "tcp-stream-abc5.img"
    stream.touch()
    other.touch()
    assert [found.state for found in close_sockets(tmp_path, established=True)] == [TcpState.ESTABLISHED]
    assert read_sockets(tmp_path)[0].state == TcpState.CLOSE
    assert not stream.exists()
    assert other.exists()


def test_nothing_to_close_leaves_the_file_alone(tmp_path: Path) -> None:
    make_dump(tmp_path, LISTENING, UDP)
    before = (tmp_path / "files.img").stat()
    assert close_sockets(tmp_path, established=True) == ()
    assert (tmp_path / "files.img").stat() == before


@pytest.mark.parametrize(("established", "left"), [(False, True), (True, False)])
def test_tcp_close_is_demanded_while_connections_are_left(tmp_path: Path, established: bool, left: bool) -> None:
    make_dump(tmp_path, RESET, OPEN, tcp_close=True)
    close_sockets(tmp_path, established=established)
    assert read_inventory(tmp_path).tcp_close == left


@pytest.mark.parametrize(("established", "method"), [(False, 1), (True, 2)])
def test_network_is_locked_while_connections_are_left(tmp_path: Path, established: bool, method: int) -> None:
    make_dump(tmp_path, LISTENING, OPEN)
    close_sockets(tmp_path, established=established)
    [entry] = read_image(tmp_path / "inventory.img")
    assert protos.Inventory.FromString(entry.message).network_lock_method == method


def test_fields_that_are_not_known_stay(tmp_path: Path) -> None:
    unknown = bytes.fromhex("a80601")  # field 101, varint 1
    make_dump(tmp_path, Entry(RESET.message + unknown))
    close_sockets(tmp_path, established=False)
    [entry] = read_image(tmp_path / "files.img")
    assert entry.message.endswith(unknown)


def test_an_address_of_another_length_is_refused(tmp_path: Path) -> None:
    message = protos.File.FromString(RESET6.message)
    message.isk.src_addr.pop()
    make_dump(tmp_path, LISTENING, Entry(message.SerializeToString()))
    with pytest.raises(ArchiveError, match=r"files\.img.*address of 12 bytes at offset \d+"):
        close_sockets(tmp_path, established=False)


def test_sockets_whose_file_is_gone_have_no_owner(tmp_path: Path) -> None:
    def unix(number: int, *, deleted: bool) -> Entry:
        usk = protos.File().usk.__class__(deleted=deleted)
        usk.file_perms.uid = usk.file_perms.gid = 0
        return Entry(protos.File(type=6, id=number, usk=usk).SerializeToString())

    there = unix(2, deleted=False)
    make_dump(tmp_path, LISTENING, unix(1, deleted=True), there)
    assert clear_owners(tmp_path) == 1
    listening, gone, kept = read_image(tmp_path / "files.img")
    assert (listening.message, kept.message) == (LISTENING.message, there.message)
    assert not protos.File.FromString(gone.message).usk.HasField("file_perms")
    assert clear_owners(tmp_path) == 0


HUNG_UP = "state=7 connected=0 hung_up=1 recv=0/0 send=-1/32"


@pytest.mark.node
def test_a_reset_connection_restores_under_another_address(machine, compile_program) -> None:
    compile_program("sockets", machine.scratch)
    machine.run("ip", "address", "add", "10.9.8.7/32", "dev", "lo")
    pid = machine.start("sockets", "/scratch/sockets", "10.9.8.7")
    dump = machine.dump(pid, "dump")
    assert len(list(dump.glob("tcp-stream-*"))) == 2
    shutil.copytree(dump, machine.scratch / "unedited")
    with pytest.raises(AssertionError, match="Connected TCP socket in image"):
        machine.restore("unedited")
    assert len(close_sockets(dump, established=False)) == 2
    assert list(dump.glob("tcp-stream-*")) == []
    machine.run("ip", "address", "delete", "10.9.8.7/32", "dev", "lo")
    machine.restore("dump")
    machine.kill(pid, with_signal=signal.SIGUSR1)
    said = machine.wait_for("sockets", "checked")
    assert f"reset {HUNG_UP}\n" in said
    assert f"reset6 {HUNG_UP}\n" in said
    assert "listener serves" in said


@pytest.mark.node
@pytest.mark.parametrize("option", ["--tcp-established", "--tcp-close"])
def test_open_connections_restore_closed(machine, compile_program, option: str) -> None:
    compile_program("sockets", machine.scratch)
    machine.run("ip", "address", "add", "10.9.8.7/32", "dev", "lo")
    pid = machine.start("sockets", "/scratch/sockets", "10.9.8.7", "with-connections")
    dump = machine.dump(pid, "dump", option)
    closed = close_sockets(dump, established=True)
    assert sorted(found.state for found in closed) == [1, 1, 7, 7, 8]
    machine.run("ip", "address", "delete", "10.9.8.7/32", "dev", "lo")
    machine.restore("dump")
    machine.kill(pid, with_signal=signal.SIGUSR1)
    said = machine.wait_for("sockets", "checked")
    for name in ("reset", "reset6", "half-closed", "open-client", "open-server"):
        assert f"{name} {HUNG_UP}\n" in said
    assert "listener serves" in said
