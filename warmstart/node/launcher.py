"""The launcher of self-restoring images and its CRIU: built once from the sources in `launcher`, and kept by content.

They are compiled in a tree of their own, which is then thrown away, by `launcher/build.sh`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.making import SUITE, Progress, as_host_error, bootstrap, key_of, make_once
from warmstart.node.session import enter

BUILD_S = 1800.0


@dataclass(frozen=True)
class LauncherPrograms:
    """A directory with `launcher`, `criu`, and `source`, which goes with criu wherever it goes (GPL-2.0)."""

    directory: Path

    @property
    def launcher(self) -> Path:
        """The launcher."""
        return self.directory / "launcher"

    @property
    def criu(self) -> Path:
        """CRIU."""
        return self.directory / "criu"

    @property
    def source(self) -> Path:
        """What CRIU's licence wants."""
        return self.directory / "source"


def find_sources() -> Path:
    """Where the sources are: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "launcher"
    return installed if installed.is_dir() else package.parent / "launcher"


def ensure_launcher(cache: Path, progress: Progress) -> LauncherPrograms:
    """The programs, built now (some minutes) if they are not in the cache yet.

    Args:
        cache: the cache directory.
        progress: called with a line whenever something new begins.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package could not be had.
        OSError: the cache cannot be written to.
    """
    sources = find_sources()
    directory = cache / "programs" / f"launcher-{_find_key(sources)}"
    make_once(directory, cache, lambda new: _build(sources, new, progress), progress)
    return LauncherPrograms(directory)


def _find_key(sources: Path) -> str:
    files = sorted(path for path in sources.rglob("*") if path.is_file() and path.suffix != ".md")
    contents = {str(file.relative_to(sources)): file.read_text() for file in files}
    return key_of(contents, SUITE, os.uname().machine)


def _build(sources: Path, new: Path, progress: Progress) -> None:
    packages = (sources / "build-packages").read_text().split()
    with open_workspace("launcher") as workspace:
        progress("tools: a compiler for the launcher and its CRIU")
        compiler, inner = workspace / "compiler", workspace / "work"
        bootstrap(compiler, SUITE, packages, progress)
        inner.mkdir()
        shutil.copytree(sources, inner / "launcher")
        progress("tools: compiling the launcher and its CRIU (some minutes)")
        with enter(compiler, inner) as session, as_host_error("compile the launcher and its CRIU: the compiler"):
            script = inner / "launcher" / "build.sh"
            session.run([script, inner / "out"], cwd=str(inner), timeout_s=BUILD_S, host_network=True)
        shutil.copytree(inner / "out", new, dirs_exist_ok=True)
