"""A host with cgroup v2 alone, made of a hybrid one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# For what is started in this script, as far as the kernel lets a test: with the one controller that v1 does not hold,
# and with nsdelegate as systemd mounts it.
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
    """Skip the test where such a host cannot be made; else what says which controllers cgroup v2 hands on, none now."""
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
    """Run a command as on such a host, and answer what it wrote."""
    enabled = require_hybrid()
    argv = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert enabled.read_text().strip() == ""
    return done.stdout
