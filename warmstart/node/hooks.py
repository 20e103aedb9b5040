"""Find the agents that call an application's hooks: modules as they are, and a jar compiled once for each content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmstart.node.cache import SUITE, Notify, ensure_directory, key_of
from warmstart.node.compiler import Compilation, compile_sources, find_packaged
from warmstart.node.packages import find_locked
from warmstart.node.trust import check_cache, check_quickly
from warmstart.recipe.model import Runtime

LOCK_NAME = "hooks"
JAR = "agent.jar"
_NO_SOURCES = frozenset({"tests", "__pycache__"})


def find_agents(runtimes: Sequence[Runtime], cache: Path, progress: Notify) -> Mapping[str, Path]:
    """Return the files of the agents for some runtimes, by their names in the directory of the hooks.

    Args:
        runtimes: the runtimes.
        cache: cache directory; the Java agent is compiled (a minute) if it is not in it.
        progress: called with a line when a stage begins.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package is not available.
        OSError: the cache is not writable.
    """
    files = {name: file for runtime in runtimes if runtime is not Runtime.JAVA for name, file in _list(runtime)}
    if Runtime.JAVA in runtimes:
        files[JAR] = _ensure_jar(cache, progress)
    return files


def hooks_key() -> str:
    """Return a digest of the sources of all agents."""
    sources = find_packaged("hooks")
    files = sorted(path for path in sources.rglob("*") if path.is_file() and _is_source(path.relative_to(sources)))
    return key_of({str(file.relative_to(sources)): file.read_bytes().hex() for file in files})


def _list(runtime: Runtime) -> Iterator[tuple[str, Path]]:
    sources = find_packaged("hooks")
    for file in sorted((sources / runtime).rglob("*")):
        name = file.relative_to(sources)
        if file.is_file() and _is_source(name):
            yield str(name), file


def _is_source(name: Path) -> bool:
    return name.suffix != ".md" and _NO_SOURCES.isdisjoint(name.parts)


def _ensure_jar(cache: Path, progress: Notify) -> Path:
    cache, sources = check_cache(cache), find_packaged("hooks") / "java"
    packages = (sources / "build-packages").read_text().split()
    what = Compilation("Java agent", sources, "build.sh", packages, LOCK_NAME)
    contents = {name: file.read_bytes().hex() for name, file in _list(Runtime.JAVA)}
    locked = [str(package) for package in find_locked(LOCK_NAME)]
    path = cache / "programs" / f"hooks-{key_of(contents, SUITE, locked, os.uname().machine)}"
    path = ensure_directory(path, cache, lambda new: compile_sources(what, new, progress), progress)
    check_quickly(path, cache)
    return path / JAR
