"""Emulate a host with cgroup v2 only on a hybrid host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# As close as the kernel allows: with the only controller that v1 does not use, and mounted with nsdelegate, as systemd
# does.
SCRIPT = """
set -eu
mount --make-rprivate /
restore() { echo -hugetlb > /sys/fs/cgroup/cgroup.subtree_control; mount -t cgroup2 -o remount cgroup2 /sys/fs/cgroup; }
umount -R /sys/fs/cgroup
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
trap restore EXIT
echo +hugetlb > /sys/fs/cgroup/cgroup.subtree_control
"$@"
"""


def require_hybrid() -> Path:
    """Return cgroup v2's root cgroup.subtree_control, which is empty, or skip the test on other hosts."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    root = next((Path(line.split()[4]) for line in mounts if " - cgroup2 " in line), Path("/nonexistent"))
    enabled = root / "cgroup.subtree_control"
    if (
        not enabled.exists()
        or "hugetlb" not in (root / "cgroup.controllers").read_text()
        or enabled.read_text().strip()
    ):
        pytest.skip(
            "needs a hybrid host whose cgroup v2 has the hugetlb controller; on a unified one, all tests show it"
        )
    return enabled


def run_unified(command: Sequence[str | Path]) -> str:
    """Run a command as on a host with cgroup v2 only, and return its output."""
    enabled = require_hybrid()
    argv = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert enabled.read_text().strip() == ""
    return done.stdout
