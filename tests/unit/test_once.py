"""Things that all test processes of a run share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.once import MakeOnce


def test_processes_side_by_side_make_a_thing_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: MakeOnce(tmp_path / "once")("thing", make), range(8)))
    assert [*paths] == made
    assert made[0].read_text() == "whole"


def test_after_a_failure_the_next_one_tries_again(tmp_path: Path) -> None:
    make_once = MakeOnce(tmp_path / "once")

    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make_once("thing", fail)
    assert list(make_once("thing", Path.mkdir).iterdir()) == []
