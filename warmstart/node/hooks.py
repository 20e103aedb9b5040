"""Find the agents that call an application's hooks: modules as they are, and parts compiled once for each content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmstart.node.cache import SUITE, Notify, ensure_directory, key_of
from warmstart.node.compiler import Compilation, compile_sources, find_packaged
from warmstart.node.packages import find_locked
from warmstart.node.trust import check_cache, check_quickly
from warmstart.recipe.model import Runtime

LOCK_NAME = "hooks"
SCRIPT = "build.sh"


@dataclass(frozen=True)
class _Compiled:
    """The compiled part of an agent: its file, its name in the directory of the hooks, the directory of its compiler.

    That directory of sources lists the packages, and names their set in the lock file.
    """

    file: str
    name: str
    compiler: str


_COMPILED = {
    Runtime.JAVA: _Compiled("agent.jar", "agent.jar", "hooks/java"),
    Runtime.NODE: _Compiled("reseed.node", "node/reseed.node", "launcher"),
}
_MODULES = (".py", ".cjs")
_NO_SOURCES = frozenset({"tests", "__pycache__"})


def find_agents(runtimes: Sequence[Runtime], cache: Path, progress: Notify) -> Mapping[str, Path]:
    """Return the files of the agents for some runtimes, by their names in the directory of the hooks.

    Args:
        runtimes: the runtimes.
        cache: cache directory; what must be compiled (a minute) and is not in it is compiled.
        progress: called with a line when a stage begins.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package is not available.
        OSError: the cache is not writable.
    """
    files: dict[str, Path] = {}
    for runtime in runtimes:
        files |= {name: file for name, file in _list_sources(runtime) if file.suffix in _MODULES}
        if runtime in _COMPILED:
            part = _COMPILED[runtime]
            files[part.name] = _ensure_compiled(runtime, cache, progress) / part.file
    return files


def list_packages(runtime: Runtime = Runtime.JAVA) -> list[str]:
    """Return the packages that compile an agent."""
    return (find_packaged(_COMPILED[runtime].compiler) / "build-packages").read_text().split()


def find_compiled(cache: Path) -> list[Path]:
    """Return the directories of compiled agents in the cache, if they exist."""
    return [path for runtime in _COMPILED if (path := _find_path(runtime, cache)).is_dir()]


def hooks_key() -> str:
    """Return a digest of the sources of all agents."""
    return key_of({name: file.read_bytes().hex() for runtime in Runtime for name, file in _list_sources(runtime)})


def _list_sources(runtime: Runtime) -> Iterator[tuple[str, Path]]:
    """Yield the sources of an agent, with their names in the directory of the hooks."""
    sources = find_packaged("hooks")
    for file in sorted((sources / runtime).rglob("*")):
        name = file.relative_to(sources)
        if file.is_file() and name.suffix != ".md" and _NO_SOURCES.isdisjoint(name.parts):
            yield str(name), file


def _ensure_compiled(runtime: Runtime, cache: Path, progress: Notify) -> Path:
    cache, sources = check_cache(cache), find_packaged("hooks") / runtime
    what = Compilation(f"{runtime} agent", sources, SCRIPT, list_packages(runtime), _find_lock(runtime))
    path = _find_path(runtime, cache)
    path = ensure_directory(path, cache, lambda new: compile_sources(what, new, progress), progress)
    check_quickly(path, cache)
    return path


def _find_lock(runtime: Runtime) -> str:
    return _COMPILED[runtime].compiler.partition("/")[0]


def _find_path(runtime: Runtime, cache: Path) -> Path:
    contents = {name: file.read_bytes().hex() for name, file in _list_sources(runtime) if file.suffix not in _MODULES}
    locked = [str(package) for package in find_locked(_find_lock(runtime))]
    key = key_of(contents, SUITE, list_packages(runtime), locked, os.uname().machine)
    return cache.resolve() / "programs" / f"hooks-{runtime}-{key}"
