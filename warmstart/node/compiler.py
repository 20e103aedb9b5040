"""Compile sources in a temporary Debian root, which has the packages that they need and is gone afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.cache import SUITE, Notify, as_host_error, bootstrap
from warmstart.node.record import make_record, write_record
from warmstart.node.session import enter

BUILD_S = 1800.0


@dataclass(frozen=True)
class Compilation:
    """What is compiled from one directory of sources.

    Attributes:
        name: for messages, and in the record.
        sources: the directory; all of it is copied.
        script: path of the build script in it, called with the output directory.
        packages: packages of the compiler.
        lock: name of their set in the lock file.
    """

    name: str
    sources: Path
    script: str
    packages: Sequence[str]
    lock: str


def find_packaged(name: str) -> Path:
    """Return a directory of sources: in the package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def compile_sources(what: Compilation, new: Path, progress: Notify) -> None:
    """Compile into a new directory.

    Args:
        what: what to compile.
        new: the directory.
        progress: called with a line when a stage begins.

    Raises:
        HostError: a package is not available, or the script failed.
    """
    with open_workspace("compile") as workspace:
        progress(f"tools: installing a compiler for the {what.name}")
        compiler, inner = workspace / "compiler", workspace / "work"
        installed = bootstrap(compiler, SUITE, what.packages, progress)
        inner.mkdir()
        shutil.copytree(what.sources, inner / "sources")
        progress(f"tools: compiling the {what.name} (some minutes)")
        with enter(compiler, inner) as session, as_host_error(f"compile the {what.name}: the compiler"):
            script = inner / "sources" / what.script
            session.run([script, inner / "out"], cwd=str(inner), timeout_s=BUILD_S, host_network=True)
        shutil.copytree(inner / "out", new, dirs_exist_ok=True)
        write_record(new, make_record(what.lock, installed, {what.name: ""}))
