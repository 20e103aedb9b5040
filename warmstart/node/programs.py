"""Compile the programs that Debian does not package, or not in the required version.

Each is compiled from its Go module, or from a C file in this package. The cache key covers its own inputs only, so a
change to one does not compile the others again. A module is pinned by its hash, and its go.sum has the hashes of all
modules that it needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.cache import Notify, as_host_error, bootstrap, create_directory, find_newer, find_newest, key_of
from warmstart.node.packages import Package, find_locked
from warmstart.node.record import make_record, read_record, write_record
from warmstart.node.session import enter
from warmstart.node.trust import check_quickly

COMPILE_S = 2400.0
LOCK_NAME = "compiler"

# Preloaded into CRIU; its source explains why.
SHIM_SOURCE = Path(__file__).with_name("rlimits.c")
SHIM = "warmstart-rlimits.so"

GO_SCRIPT = """\
set -eu
# No checksum database: the hash of the module is checked here, and its go.sum has the hashes of the others.
export GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local GOFLAGS=-modcacherw GOSUMDB=off
mkdir empty && cd empty
found=$(go mod download -json {module}@{version}) || {{ echo "$found" >&2; exit 1; }}
case $found in
    *'"Sum": "{sum}"'*) ;;
    *) echo "{module} {version} has another hash than {sum}:" "$found" >&2; exit 1 ;;
esac
cd "$(echo "$found" | sed -n 's/^\\t"Dir": "\\(.*\\)",$/\\1/p')"
{helper}
go build -trimpath -ldflags '-s -w' -tags '{tags}' -o {out}/{name} {package}
"""
HELPER_SCRIPT = "gcc -std=c99 -Os -static -s -o {out}/{name} {sources}/*.c"
SHIM_SCRIPT = "gcc -shared -fPIC -O2 -Wall -o {out}/{shim} {source}"


@dataclass(frozen=True)
class GoProgram:
    """A program built from a Go module, with a helper from the module's C sources.

    Attributes:
        sum: the module's hash, as in a go.sum.
        directory: destination in the tools directory.
        helper: (name, directory of its C files in the module); empty for none.
    """

    name: str
    module: str
    version: str
    sum: str
    package: str
    tags: tuple[str, ...]
    directory: str
    helper: tuple[str, str] | tuple[()] = ()

    def script(self, out: Path) -> str:
        """Return the shell script that builds it into `out`."""
        helper = HELPER_SCRIPT.format(out=out, name=self.helper[0], sources=self.helper[1]) if self.helper else ""
        fields = asdict(self) | {"tags": " ".join(self.tags), "helper": helper, "out": out}
        return GO_SCRIPT.format(**fields)


@dataclass(frozen=True)
class Shim:
    """The library that is preloaded into CRIU, built from the C file next to this module."""

    name: str = SHIM
    version: str = ""
    directory: str = "usr/local/lib"

    def script(self, out: Path) -> str:
        """Return the shell script that builds it into `out`; it runs in a directory with the source."""
        return SHIM_SCRIPT.format(out=out, shim=SHIM, source=SHIM_SOURCE.name)


Program = GoProgram | Shim


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
        program: its source.
        path: directory in the cache with its files.
    """

    program: Program
    path: Path

    def install(self, tree: Path) -> None:
        """Copy it into a tools directory."""
        for built in self.path.iterdir():
            if not built.name.startswith("."):
                shutil.copy2(built, tree / self.program.directory / built.name)


def find_program(cache: Path, program: Program, suite: str, build_packages: Sequence[str]) -> Path:
    """Return the path of a program in the cache, whether or not it is compiled."""
    source = [SHIM_SCRIPT, SHIM_SOURCE.read_text()] if isinstance(program, Shim) else [GO_SCRIPT, HELPER_SCRIPT]
    locked = [str(package) for package in find_locked(LOCK_NAME)]
    key = key_of(asdict(program), suite, build_packages, locked, source, os.uname().machine)
    return cache / "programs" / f"{program.name.partition('.')[0]}-{key}"


def ensure_programs(
    cache: Path,
    programs: Sequence[Program],
    suite: str,
    build_packages: Sequence[str],
    progress: Notify,
    *,
    anew: bool,
) -> list[Compiled]:
    """Return the programs, and compile those that are not in the cache; the caller holds the cache's lock.

    Args:
        cache: cache directory.
        programs: the programs.
        suite: Debian suite of the compilers.
        build_packages: packages of the compilers.
        progress: called with a line when a stage begins.
        anew: compile programs again if the mirror has other compilers now.

    Raises:
        HostError: a package or module is not available.
    """
    targets = {program: find_program(cache, program, suite, build_packages) for program in programs}
    for target in targets.values():
        if find_newest(target).is_dir():
            check_quickly(find_newest(target), cache)
    missing = [program for program, target in targets.items() if not find_newest(target).is_dir()]
    if missing or anew:
        with open_workspace("tools") as workspace:
            progress(f"tools: installing a compiler for {', '.join(program.name for program in missing or programs)}")
            compiler = workspace / "compiler"
            packages = bootstrap(compiler, suite, build_packages, progress)
            for program, target in targets.items():
                if program in missing:
                    _compile(program, compiler, packages, target, progress)
                elif anew and read_record(find_newest(target)).packages != packages:
                    _compile(program, compiler, packages, find_newer(target), progress)
    return [Compiled(program, find_newest(target)) for program, target in targets.items()]


def _compile(program: Program, compiler: Path, packages: Sequence[Package], target: Path, progress: Notify) -> None:
    title = f"{program.name} {program.version}".strip()
    progress(f"tools: compiling {title} (some minutes)")
    with create_directory(target) as new, open_workspace("compile") as inner, enter(compiler, inner) as session:
        out = inner / "out"
        out.mkdir()
        shutil.copy(SHIM_SOURCE, inner)
        hint = "check that the Go module proxy can be reached (GOPROXY and https_proxy apply)"
        with as_host_error(f"compile {title}: the compiler", hint):
            session.run(["sh", "-c", program.script(out)], cwd=str(inner), timeout_s=COMPILE_S, host_network=True)
        for built in out.iterdir():
            shutil.copy2(built, new / built.name)
        write_record(new, make_record(LOCK_NAME, packages, {program.name: program.version}))
