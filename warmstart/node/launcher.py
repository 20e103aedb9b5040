"""Compile the launcher of self-restoring images and its CRIU from the sources in `launcher`, once for each content.

Each has its own build script, cache key and temporary Debian root, so a change to the launcher does not compile CRIU
again.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from warmstart.node.cache import (
    SUITE,
    Notify,
    create_directory,
    ensure_directory,
    find_newer,
    find_newest,
    key_of,
)
from warmstart.node.compiler import Compilation, compile_sources, find_packaged
from warmstart.node.packages import find_locked
from warmstart.node.record import RECORD
from warmstart.node.trust import MANIFEST, check_cache, check_quickly

LOCK_NAME = "launcher"


@dataclass(frozen=True)
class LauncherPrograms:
    """A directory with `launcher`, `criu`, and `source`, which accompanies every copy of criu (GPL-2.0)."""

    directory: Path

    @property
    def launcher(self) -> Path:
        """Path of the launcher."""
        return self.directory / "launcher"

    @property
    def criu(self) -> Path:
        """Path of CRIU."""
        return self.directory / "criu"

    @property
    def source(self) -> Path:
        """Path of CRIU's source, as its license requires."""
        return self.directory / "source"


def find_sources() -> Path:
    """Return the directory of the sources."""
    return find_packaged("launcher")


def ensure_launcher(cache: Path, progress: Notify) -> LauncherPrograms:
    """Return the programs, and build them (some minutes) if they are not in the cache.

    Args:
        cache: cache directory.
        progress: called with a line when a stage begins.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package is not available.
        OSError: the cache is not writable.
    """
    cache = check_cache(cache)
    criu, launcher = _find_paths(cache)
    if not find_newest(launcher).is_dir():
        criu = ensure_directory(criu, cache, lambda new: _build(BUILD_CRIU, new, progress), progress)
        check_quickly(criu, cache)
    launcher = ensure_directory(launcher, cache, lambda new: _build_launcher(criu, new, progress), progress)
    check_quickly(launcher, cache)
    return LauncherPrograms(launcher)


def launcher_path(cache: Path) -> Path:
    """Return where the launcher lies in the cache, built or not; the newest, if it was updated."""
    return find_newest(_find_paths(cache)[1])


def find_launcher(cache: Path) -> list[Path]:
    """Return the directories of the newest CRIU and the newest launcher in the cache, if they exist."""
    return [newest for path in _find_paths(cache) if (newest := find_newest(path)).is_dir()]


def update_launcher(cache: Path, progress: Notify) -> None:
    """Build both again, if they were built; the caller holds the cache's lock. Errors as for `ensure_launcher`."""
    if find_launcher(cache):
        criu, launcher = map(find_newer, _find_paths(cache))
        with create_directory(criu) as new:
            _build(BUILD_CRIU, new, progress)
        with create_directory(launcher) as new:
            _build_launcher(criu, new, progress)


BUILD_CRIU = ("launcher's CRIU", "criu/build.sh")
BUILD_LAUNCHER = ("launcher", "build.sh")


def _find_paths(cache: Path) -> tuple[Path, Path]:
    """Return the paths of the first CRIU and the first launcher of these sources, whether or not they exist."""
    sources, programs = find_sources(), cache.resolve() / "programs"
    criu = programs / f"criu-{_find_key(sources, sources / 'criu')}"
    return criu, programs / f"launcher-{_find_key(sources, sources)}"


def _build_launcher(criu: Path, new: Path, progress: Notify) -> None:
    _build(BUILD_LAUNCHER, new, progress)
    shutil.copytree(criu, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, RECORD))


def _find_key(sources: Path, part: Path) -> str:
    """Return the cache key of a program from `part` of the sources and the list of packages."""
    files = sorted(path for path in part.rglob("*") if path.is_file() and path.suffix != ".md")
    contents = {str(file.relative_to(sources)): file.read_text() for file in [*files, sources / "build-packages"]}
    locked = [str(package) for package in find_locked(LOCK_NAME)]
    return key_of(contents, SUITE, locked, os.uname().machine)


def _build(program: tuple[str, str], new: Path, progress: Notify) -> None:
    """Build a program, given its name and the path of its build script in the sources."""
    name, script = program
    sources = find_sources()
    packages = (sources / "build-packages").read_text().split()
    compile_sources(Compilation(name, sources, script, packages, LOCK_NAME), new, progress)
