"""Files of an application that keep it from starting cold."""

from __future__ import annotations

import pytest

from warmstart.build.leftovers import find_leftovers

CHANGED = ["/var/lib/app/data.db", "/var/lib/app/app.lock", "/srv/server.pid", "/srv/clock.conf"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (["FileExistsError: '/var/lib/app/data.db'"], ["/var/lib/app/data.db"]),
        (["already running"], ["/var/lib/app/app.lock", "/srv/server.pid"]),
        ([], ["/var/lib/app/app.lock", "/srv/server.pid"]),
    ],
    ids=["named in the log", "by its name", "without a log"],
)
def test_the_files_that_prevented_a_start_are_found(log, expected):
    assert find_leftovers(CHANGED, log) == expected


def test_other_files_are_not_suspected():
    assert find_leftovers(["/srv/clock.conf", "/srv/blocks"], ["it failed"]) == []
