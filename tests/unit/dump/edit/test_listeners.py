"""Sockets that may listen before their application is restored."""

from __future__ import annotations

import socket

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType, TcpState
from warmstart.dump.criu.entries import Entry, write_image
from warmstart.dump.edit.listeners import Listener, find_listeners

ANY = {socket.AF_INET: [0], socket.AF_INET6: [0, 0, 0, 0]}


def make_file(family=socket.AF_INET, **changes) -> Entry:
    fields = {
        "id": 1,
        "ino": 4711,
        "family": family,
        "type": socket.SOCK_STREAM,
        "proto": socket.IPPROTO_TCP,
        "state": TcpState.LISTEN,
        "src_port": 80,
        "dst_port": 0,
        "src_addr": ANY[family],
        "dst_addr": ANY[family],
        "backlog": 5,
        **changes,
    }
    return Entry(protos.File(type=FileType.INET_SOCKET, id=1, isk=fields).SerializeToString())


@pytest.mark.parametrize(
    ("family", "changes", "network"),
    [
        (socket.AF_INET, {}, "tcp4"),
        (socket.AF_INET6, {}, "tcp46"),
        (socket.AF_INET6, {"v6only": False}, "tcp46"),
        (socket.AF_INET6, {"v6only": True}, "tcp6"),
    ],
)
def test_sockets_at_any_address_are_found(tmp_path, family, changes, network):
    other = Entry(protos.File(type=1, id=2).SerializeToString())
    write_image(tmp_path / "files.img", [other, make_file(family, **changes)])
    assert find_listeners(tmp_path) == (Listener(network, 80, 5, 4711),)


@pytest.mark.parametrize(
    "changes",
    [
        {"src_addr": [0x0100007F]},
        {"state": TcpState.CLOSE},
        {"state": TcpState.ESTABLISHED, "dst_port": 4000},
        {"proto": 262},
        {"proto": socket.IPPROTO_UDP, "type": socket.SOCK_DGRAM},
        {"ifname": b"eth1"},
        {"opts": {"so_bound_dev": b"eth1"}},
    ],
)
def test_others_are_left_alone(tmp_path, changes):
    write_image(tmp_path / "files.img", [make_file(**changes)])
    assert find_listeners(tmp_path) == ()


def test_a_dump_without_its_files_is_refused(tmp_path):
    with pytest.raises(ArchiveError):
        find_listeners(tmp_path)
