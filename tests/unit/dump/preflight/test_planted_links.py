"""Links planted by a container are not followed to the host. The test uses a fake procfs whose root is a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmstart.core.mountinfo import MountInfo
from warmstart.dump.preflight import files, processes, watches
from warmstart.dump.proc.container import Container, Process, Resources, open_below_root

pytestmark = pytest.mark.linux


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").write_text("of the host")
    return tmp_path / "host"


@pytest.fixture
def container(host: Path, tmp_path: Path) -> Container:
    """Return a container whose /planted is a link to a directory of the host."""
    root = tmp_path / "proc/7/root"
    root.mkdir(parents=True)
    (root / "planted").symlink_to(host)
    (root / "srv").mkdir()
    os.mkfifo(root / "srv/fifo")
    process = Process(7, "app", "S", 1, 0, 1, frozenset({0}), (7, 1), 1)
    mount = MountInfo(1, 2, "/", "/planted", "mqueue", "mqueue", "rw")
    return Container(tmp_path / "proc", (process,), {7: Resources({"mnt": "mnt:[1]"}, (), ())}, (mount,), "")


def test_a_planted_directory_of_message_queues_is_not_listed(container: Container) -> None:
    assert list(processes._check_message_queues(container)) == []


def test_a_file_of_the_host_is_not_the_container_s(container: Container, host: Path) -> None:
    info = (host / "secret").stat()
    assert files._is_hidden(container, container.first, "/planted/secret", info)


def test_a_search_for_a_watched_file_stays_in_the_container(container: Container, host: Path) -> None:
    info = (host / "secret").stat()
    assert list(watches._walk(container, "/planted")) == ["/planted"]
    assert (info.st_dev, info.st_ino) not in watches._find_paths(container, {(info.st_dev, info.st_ino)})


def test_a_planted_mount_point_is_not_opened(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_open_by_handle_works", lambda *_: pytest.fail("opened a directory of the host"))
    assert not watches._opens_by_handle(container, container.first, watches._Watch(2, 1, 1, b"handle"))


def test_a_planted_fifo_does_not_block(container: Container) -> None:
    with pytest.raises(NotADirectoryError):
        watches._list_directory(container, "/srv/fifo")
    with open_below_root(container.proc, 7, "/srv/fifo", os.O_PATH | os.O_NOFOLLOW):
        pass
