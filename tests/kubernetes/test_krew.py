"""Krew installs the plugin of integrations/krew, and kubectl runs warmstart with it."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from support.go_tools import KREW, ensure_go_tool

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

KREW_FILES = Path(__file__).parents[2] / "integrations/krew"


def test_krew_installs_the_plugin(cluster, cache, tmp_path, virtual_path):
    program = ensure_go_tool(cache, KREW, print)
    archive = tmp_path / "kubectl-warmstart.zip"
    archive.write_bytes(runpy.run_path(str(KREW_FILES / "archive.py"))["make_archive"]())
    programs = tmp_path / "bin"
    programs.mkdir()
    # Not the plugin of the package, which is beside it.
    (programs / "warmstart").symlink_to(shutil.which("warmstart", path=virtual_path))
    home = tmp_path / "krew"
    path = ":".join(map(str, (home / "bin", program.parent, cluster.bin, programs, "/usr/bin", "/bin")))
    environment = {
        "PATH": path,
        "HOME": str(tmp_path),
        "KUBECONFIG": str(cluster.kubeconfig),
        "KREW_ROOT": str(home),
        "KREW_NO_UPGRADE_CHECK": "1",
    }

    def kubectl(*words: str | Path) -> str:
        done = subprocess.run(
            ["kubectl", *words], env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    kubectl("krew", "install", f"--manifest={KREW_FILES / 'warmstart.yaml'}", f"--archive={archive}")
    assert os.access(home / "bin/kubectl-warmstart", os.X_OK)
    assert "checkpoint" in kubectl("warmstart", "--help")
    # The roles that it prints are such as the cluster takes.
    assert "serviceaccount/doctor" in cluster.kubectl("apply", "-f", "-", stdin=kubectl("warmstart", "rbac", "doctor"))
