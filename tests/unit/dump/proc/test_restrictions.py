from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from warmstart.dump.proc.restrictions import Restrictions, find_lost, read_restrictions

SETS = ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
BEFORE = Restrictions(
    name="service",
    mode=2,
    filters=2,
    no_new_privs=True,
    users=(1000,) * 4,
    groups=(1000,) * 4,
    supplementary=frozenset({1000, 2000}),
    capabilities=dict.fromkeys(SETS, 0b101),
)


def lost(exact: bool = False, **changes: object) -> tuple[str, ...]:
    return find_lost({100: BEFORE}, {100: replace(BEFORE, **changes)}, exact=exact)  # type: ignore[arg-type]


def test_what_is_the_same_or_stricter_has_lost_nothing():
    assert lost() == ()
    assert lost(filters=3, capabilities=dict.fromkeys(SETS, 0)) == ()
    assert find_lost({100: BEFORE}, {101: replace(BEFORE, mode=0)}, exact=True) == ()


def test_a_kernel_that_does_not_count_filters_is_no_loss():
    assert lost(filters=None) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": 0, "filters": 0}, "seccomp mode 0, was 2"),
        ({"filters": 1}, "1 seccomp filters, were 2"),
        ({"no_new_privs": False}, "no_new_privs is not set any more"),
        ({"users": (0,) * 4}, "user ids 0 0 0 0, were 1000 1000 1000 1000"),
        ({"groups": (0,) * 4}, "group ids 0 0 0 0, were"),
        ({"supplementary": frozenset({1000, 3000})}, "supplementary groups 1000 3000, were 1000 2000"),
        ({"capabilities": {**BEFORE.capabilities, "CapEff": 0b111}}, "effective capabilities 0000000000000007, were"),
        ({"capabilities": {**BEFORE.capabilities, "CapAmb": 0b111}}, "ambient capabilities"),
    ],
)
def test_each_loss_is_named(changes, said):
    assert lost(**changes)[0].startswith(f"service (100): {said}")


def test_the_runtime_restores_the_very_same_capabilities():
    assert len(lost(exact=True, capabilities={**BEFORE.capabilities, "CapEff": 0})) == 1


def test_a_wider_bounding_set_matters_only_without_no_new_privs():
    wider = {**BEFORE.capabilities, "CapBnd": 0b111}
    assert lost(capabilities=wider) == ()
    assert lost(capabilities=wider, no_new_privs=False)[-1].startswith("service (100): capability bounding set")


@pytest.mark.linux
def test_real_threads_are_read():
    code = (
        "import ctypes, threading, time\n"
        "def restrict():\n"
        "    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
        "threading.Thread(target=restrict).start()\n"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = read_restrictions(Path("/proc"), process.pid)
        finally:
            process.kill()
    assert len(found) == 2
    main, other = found[process.pid], next(found[number] for number in found if number != process.pid)
    assert (main.no_new_privs, other.no_new_privs) == (False, True)
    assert main.users == (os.getuid(),) * 4
