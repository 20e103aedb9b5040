import threading

import pytest

from warmstart.core.locking import hold_lock, remove_unless_locked


def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path):
    path, inside, most = tmp_path / "lock", [], []

    def work() -> None:
        for _ in range(50):
            with hold_lock(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] * 400
    assert not path.exists()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), hold_lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_only_a_lock_that_nobody_holds_is_a_leftover(tmp_path):
    held, left = tmp_path / "held", tmp_path / "left"
    left.touch()
    with hold_lock(held):
        for path in (held, left, tmp_path / "never there"):
            remove_unless_locked(path)
        assert held.exists()
        assert not left.exists()
