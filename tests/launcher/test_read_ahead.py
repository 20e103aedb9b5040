"""The launcher reads the checkpoint ahead, with a stand-in for criu; see test_restore.py for a real one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from launcher.conftest import Place
from support.page_cache import find_cached_bytes

from warmstart.core.page_cache import evict
from warmstart.image.selfrestore.manifest_lines import escape_word

pytestmark = pytest.mark.linux

MEMORY_BYTES = 16 << 20
# Larger than that of the launcher, which is no container's first process here.
APPLICATION = str((1 << 31) - 1)
WAIT_S = 60.0
QUIET_S = 1.0
# Waits for a file, and fails.
GATED = 'while [ ! -e {gate} ]; do sleep 0.01; done; echo "Error (criu/a.c:1): it hurts" >"$7"; exit 1'
# In a mount namespace, with another memory limit.
LIMITED = (
    "mount -t tmpfs tmpfs /sys/fs/cgroup && echo {limit} > /sys/fs/cgroup/memory.max && exec {launcher} start -- true"
)


def list_parts(place: Place, *parts: tuple[int, int, Path]) -> None:
    """Write the list of what to read ahead."""
    lines = (f"{start} {size} {escape_word(str(path))}\n" for start, size, path in parts)
    (place.directory / "read-ahead").write_text("".join(lines))


@pytest.fixture
def memory(place) -> Path:
    """Return the memory file of a checkpoint, of which no page is in the page cache, and all of which is to be read."""
    place.pages_bytes = 5  # little beside the memory
    path = place.directory / "memory"
    path.write_bytes(os.urandom(1 << 20) * (MEMORY_BYTES >> 20))
    place.write_manifest(["true"], pid=APPLICATION, file=f"5 pages-1.img\nfile {MEMORY_BYTES} ../memory")
    list_parts(place, (0, MEMORY_BYTES, path))
    evict(path)
    if find_cached_bytes(path):
        pytest.skip("the file system of the temporary directory is in memory")
    return path


@pytest.fixture
def gate(place, tmp_path) -> Path:
    """Let CRIU wait until a file exists, and return the path of the file."""
    path = tmp_path / "gate"
    place.write_criu(GATED.format(gate=path))
    return path


def run_to_the_gate(argv: Sequence[str | Path], gate: Path, memory: Path, expected_bytes: int, **env: str) -> None:
    """Start the launcher, and check how much of the memory is in the page cache before CRIU ends."""
    with subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **env}, stderr=subprocess.PIPE) as launcher:
        deadline = time.monotonic() + (WAIT_S if expected_bytes else QUIET_S)
        while find_cached_bytes(memory) != (expected_bytes or MEMORY_BYTES) and time.monotonic() < deadline:
            time.sleep(0.01)
        cached = find_cached_bytes(memory)
        gate.touch()
        assert b"cold start: CRIU: it hurts" in launcher.communicate(timeout=WAIT_S)[1]
    assert cached == expected_bytes


def test_what_is_listed_is_in_the_page_cache_though_nobody_has_touched_it(place, memory, gate):
    run_to_the_gate([place.launcher, "start", "--", "true"], gate, memory, MEMORY_BYTES)


def test_only_the_listed_parts_are_read(place, memory, gate, tmp_path):
    os.mkfifo(tmp_path / "a pipe")  # which nobody writes to
    parts = [(1 << 20, 65536, memory), (8 << 20, 131072, memory), (12 << 20, 300 << 10, memory)]
    list_parts(place, (0, 4096, tmp_path / "missing"), (0, 4096, tmp_path / "a pipe"), (0, 4096, tmp_path), *parts)
    run_to_the_gate([place.launcher, "start", "--", "true"], gate, memory, (64 + 128 + 300) << 10)


def test_nothing_is_read_ahead_if_that_is_switched_off(place, memory, gate):
    run_to_the_gate([place.launcher, "start", "--", "true"], gate, memory, 0, WARMSTART_READ_AHEAD="off")


def test_pids_of_the_application_are_left_to_it(place, memory, gate):
    place.write_manifest(["true"], pid="1", file=f"5 pages-1.img\nfile {MEMORY_BYTES} ../memory")
    run_to_the_gate([place.launcher, "start", "--", "true"], gate, memory, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize(
    ("limit_bytes", "read"), [(2 * MEMORY_BYTES, 0), (2 * MEMORY_BYTES + (32 << 20), MEMORY_BYTES)]
)
def test_no_more_is_read_than_half_of_the_memory_limit(place, memory, gate, limit_bytes, read):
    script = LIMITED.format(limit=limit_bytes, launcher=place.launcher)
    run_to_the_gate(["unshare", "--mount", "sh", "-c", script], gate, memory, read)


def test_no_process_is_left_after_a_restore_that_failed(place, tmp_path):
    script = 'read -r children < /proc/$$/task/$$/children; echo "$children"; exit 7'
    place.write_manifest(["sh", "-c", script], pid=APPLICATION)
    place.write_criu('echo "Error (criu/a.c:1): it hurts" >"$7"; exit 1')
    list_parts(place, *[(0, 4096, tmp_path)] * 200_000)  # which takes longer than CRIU
    done = place.start("sh", "-c", script)
    assert "cold start: CRIU: it hurts" in done.stderr
    assert (done.stdout, done.returncode) == ("\n", 7)
