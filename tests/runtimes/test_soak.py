"""Many restores of a small service, one after the other and at once, under a CRI-O that does not restore.

None may fail. One that starts cold instead says so, and is told of; none is known to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.builds import get
from support.runtimes import CriRuntime, find_application, open_crio, wait_for_line

from warmstart.dump.criu.fingerprint import read_identity

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(1800)]

IN_A_ROW, AT_ONCE = 200, 32
SAID = r"warmstart: (restored in|cold start: .*) .*"


@pytest.fixture(scope="module")
def crio(crio_session) -> Iterator[CriRuntime]:
    with open_crio(crio_session, crio_session.workspace / "image.tar") as crio:
        yield crio


def start_once(crio: CriRuntime, identity: str) -> str:
    """Start one; what the launcher did, in its own words without the time."""
    with crio.start() as started:
        said = wait_for_line(started, SAID)
        wait_for_line(started, "listening" if "cold start" in said else SAID)
        assert get(started, "/check")[0] == 200
        if "restored" in said:
            assert read_identity(crio.proc, find_application(crio.proc, started.pid)) == identity
        return said.split(" in ")[0]


def test_many_in_a_row(crio, identity):
    outcomes = Counter(start_once(crio, identity) for _ in range(IN_A_ROW))
    assert outcomes == {"warmstart: restored": IN_A_ROW}


def test_many_at_once(crio, identity):
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = Counter(pool.map(lambda _: start_once(crio, identity), range(AT_ONCE)))
    assert outcomes == {"warmstart: restored": AT_ONCE}
