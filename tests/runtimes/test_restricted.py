"""A self-restoring image under runtimes that know nothing of it, in pods that may do as little as pods can."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.builds import get, read_state
from support.runtimes import Runtime, Started, find_application, wait_for_line

from warmstart.dump.criu.fingerprint import read_identity

pytestmark = [pytest.mark.node, pytest.mark.slow]

# What the kernel allows a process: see proc_pid_status(5).
ALLOWED = re.compile(r"^(Uid|Gid|Cap\w+|NoNewPrivs|Seccomp\w*):\t(.*)$", re.MULTILINE)


def await_restored(runtime: Runtime, started: Started, identity: str) -> int:
    """See that it was restored, and answers; its application's process."""
    wait_for_line(started, r"warmstart: restored in \d+ ms")
    assert get(started, "/check")[0] == 200
    pid = find_application(runtime.proc, started.pid)
    assert read_identity(runtime.proc, pid) == identity
    return pid


def await_cold(started: Started, reason: str) -> None:
    """See that it was started cold, for that reason, and answers."""
    wait_for_line(started, rf"warmstart: cold start: {reason} \(\d+ ms\)")
    wait_for_line(started, "listening")
    assert get(started, "/check")[0] == 200


def read_allowed(proc: Path, pid: int) -> dict[str, str]:
    return dict(ALLOWED.findall((proc / str(pid) / "status").read_text()))


def test_it_is_restored_and_may_do_no_more_than_a_cold_one(runtime, identity):
    with runtime.start() as started:
        restored = read_allowed(runtime.proc, await_restored(runtime, started, identity))
        assert read_state(started)["requests"] > 1
        restored_status = started.stop()
    with runtime.start(WARMSTART="off") as started:
        await_cold(started, "WARMSTART is off")
        cold = read_allowed(runtime.proc, started.pid)
        assert read_identity(runtime.proc, started.pid) != identity
        assert started.stop() == restored_status
    # The launcher's filter of the build is one more than the pod's.
    assert restored == {**cold, "Seccomp_filters": str(int(cold["Seccomp_filters"]) + 1)}
    assert {restored[name] for name in ("CapEff", "CapBnd", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
    assert (restored["NoNewPrivs"], restored["Seccomp"]) == ("1", "2")


def test_what_is_started_again_is_restored_again(runtime, identity):
    with runtime.start() as started:
        await_restored(runtime, started, identity)
        for _ in range(2):
            started.restart()
            await_restored(runtime, started, identity)


def test_three_at_once(runtime, identity):
    def run(number: int) -> object:
        with runtime.start(NUMBER=str(number)) as started:
            await_restored(runtime, started, identity)
            return read_state(started)["id"]

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(run, range(3)))) == 1
