"""Periodic timers go on after a restore, even if they had just expired."""

from __future__ import annotations

import pytest

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, write_image
from warmstart.dump.edit.timers import restart_timers


@pytest.mark.parametrize(
    ("ticks", "value", "interval", "restarted"),
    [
        (3, (0, 0), (0, 5_000_000), (0, 5_000_000)),  # expired: it would never tick again
        (1, (0, 0), (7, 1), (7, 1)),
        (0, (0, 4_000_000), (0, 5_000_000), (0, 4_000_000)),  # it runs
        (2, (0, 4_000_000), (0, 5_000_000), (0, 4_000_000)),
        (0, (0, 0), (0, 5_000_000), (0, 0)),  # it was stopped
        (1, (0, 0), (0, 0), (0, 0)),  # it has expired, and is not periodic
    ],
)
def test_expired_periodic_timers_expire_again(tmp_path, ticks, value, interval, restarted):
    timer = {"ticks": ticks, "vsec": value[0], "vnsec": value[1], "isec": interval[0], "insec": interval[1]}
    files = [protos.File(type=17, id=1, tfd=timer), protos.File(type=2, id=2)]
    write_image(tmp_path / "files.img", [Entry(file.SerializeToString()) for file in files])
    assert restart_timers(tmp_path) == (value != restarted)
    found = [decode(tmp_path, entry, protos.File) for entry in read_image(tmp_path / "files.img")]
    assert (found[0].tfd.vsec, found[0].tfd.vnsec) == restarted
    assert found[1] == files[1]
