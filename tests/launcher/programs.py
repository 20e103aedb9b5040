"""The launcher and its criu as an image has them, built as `launcher/build.sh` says and kept between runs."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from warmstart.core import process
from warmstart.core.workspace import open_workspace
from warmstart.node.session import enter

LAUNCHER = Path(__file__).parents[2] / "launcher"
MIRROR = "http://deb.debian.org/debian"
BOOTSTRAP_S, BUILD_S = 1200.0, 1800.0


def build_programs(cache: Path) -> Path:
    """A directory with `launcher`, `criu` and `source`, built now where the sources have changed (some minutes)."""
    sources = sorted(path for path in LAUNCHER.rglob("*") if path.is_file() and path.name != "README.md")
    digest = hashlib.sha256()
    for source in sources:
        digest.update(str(source.relative_to(LAUNCHER)).encode() + b"\0" + source.read_bytes())
    directory = cache / "programs" / f"launcher-{digest.hexdigest()[:12]}"
    if not directory.is_dir():
        with open_workspace("launcher") as workspace:
            built = _build(workspace)
            directory.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(built, directory)
    return directory


def _build(workspace: Path) -> Path:
    compiler, inner = workspace / "compiler", workspace / "work"
    inner.mkdir()
    packages = ",".join((LAUNCHER / "build-packages").read_text().split())
    mirror = os.environ.get("WARMSTART_DEBIAN_MIRROR", MIRROR)
    command = ["mmdebstrap", "--mode=root", "--variant=essential", '--aptopt=Acquire::Check-Valid-Until "false"']
    command += [f"--include={packages}", "--format=directory", "forky", str(compiler), mirror]
    process.run(command, timeout_s=BOOTSTRAP_S)
    shutil.copytree(LAUNCHER, inner / "launcher")
    with enter(compiler, inner) as session:
        script = [inner / "launcher" / "build.sh", inner / "out"]
        session.run(script, cwd=str(inner), timeout_s=BUILD_S, host_network=True)
        shutil.move(inner / "out", workspace / "out")
    return workspace / "out"
