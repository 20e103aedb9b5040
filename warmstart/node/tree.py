"""The tree of tools: a small Debian with what a host may lack, made once and keyed by what it is to contain.

It is declared as data below. A tree is made beside its final place and renamed, so that a half-made one is never
seen, and it is never written to afterwards. What Debian does not package is built from its Go module, in a second tree
that is then thrown away.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from warmstart.core.workspace import open_workspace
from warmstart.node.making import (
    SUITE,
    Progress,
    as_host_error,
    bootstrap,
    key_of,
    made_beside,
    make_once,
    sole_maker,
)
from warmstart.node.session import enter


@dataclass(frozen=True)
class GoProgram:
    """A program built from a Go module, and C sources that the module carries for a helper of it.

    Attributes:
        helper: (name, directory of its C files in the module).
    """

    name: str
    module: str
    version: str
    package: str
    tags: tuple[str, ...]
    helper: tuple[str, str]


@dataclass(frozen=True)
class Contents:
    """All that decides what is in a tree."""

    suite: str
    packages: tuple[str, ...]
    build_packages: tuple[str, ...]
    program: GoProgram
    layout: int  # raised when the steps below change what they make


CONTENTS = Contents(
    suite=SUITE,
    packages=(
        "buildah",
        "ca-certificates",
        "conmon",
        "containernetworking-plugins",
        "criu",
        "crun",
        "docker-registry",
        "iproute2",
        "iptables",
        "libcriu2",  # for crun
        "mmdebstrap",
        "mount",
        "netavark",
        "nftables",
        "passt",
        "runc",
        "skopeo",
        "zstd",
    ),
    build_packages=("ca-certificates", "gcc", "golang-go", "libc6-dev", "libseccomp-dev", "pkgconf"),
    program=GoProgram(
        name="crio",
        module="github.com/cri-o/cri-o",
        version="v1.36.3",
        package="./cmd/crio",
        tags=("containers_image_openpgp", "exclude_graphdriver_btrfs", "seccomp"),
        helper=("pinns", "pinns/src"),
    ),
    layout=2,
)

# Preloaded into CRIU; see the source for why.
SHIM_SOURCE = Path(__file__).with_name("rlimits.c")
SHIM = "warmstart-rlimits.so"
CRIU_WRAPPER = f"""\
#!/bin/sh
LD_PRELOAD=/usr/local/lib/{SHIM} exec /usr/sbin/criu "$@"
"""

PAUSE_LAYOUT = "/usr/share/warmstart/pause"
COMPILE_S = 2400.0

COMPILE_SCRIPT = """\
set -eu
gcc -shared -fPIC -O2 -Wall -o {out}/{shim} {shim_source}
export GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local GOFLAGS=-modcacherw
mkdir -p empty && cd empty
sources=$(go mod download -json {module}@{version} | sed -n 's/^\\t"Dir": "\\(.*\\)",$/\\1/p')
[ -n "$sources" ] || go mod download {module}@{version}
cd "$sources"
gcc -std=c99 -Os -static -s -o {out}/{helper} {helper_sources}/*.c
go build -trimpath -ldflags '-s -w' -tags '{tags}' -o {out}/{name} {package}
"""

PAUSE_SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
container=$(tool from scratch)
tool config --cmd /pause "$container"
tool commit -q "$container" oci:layout
"""


def tree_key(contents: Contents = CONTENTS) -> str:
    """Twelve hexadecimal digits that change with the contents."""
    return key_of(
        asdict(contents), COMPILE_SCRIPT, SHIM_SOURCE.read_text(), CRIU_WRAPPER, PAUSE_SCRIPT, os.uname().machine
    )


def tree_path(cache: Path) -> Path:
    """Where the tree lies in the cache, made or not."""
    return cache / "trees" / tree_key()


def ensure_tree(cache: Path, progress: Progress) -> Path:
    """The tree of tools, made now if it is not in the cache yet.

    Args:
        cache: the cache directory.
        progress: called with a line whenever something new begins.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package or module could not be had.
        OSError: the cache cannot be written to.
    """

    def make(new: Path) -> None:
        programs = _ensure_programs(cache, progress)
        progress(f"tools: Debian {CONTENTS.suite} packages")
        bootstrap(new, CONTENTS.suite, CONTENTS.packages, progress)
        _install_programs(programs, new)
        _add_pause_image(new)

    tree = tree_path(cache)
    make_once(tree, cache, make, progress)
    return tree


def remove_trees(cache: Path) -> None:
    """Remove all that `ensure_tree` has ever made in the cache.

    Raises:
        OSError: something cannot be removed.
    """
    made = [directory for name in ("trees", "programs") if (directory := cache / name).is_dir()]
    if made:
        with sole_maker(cache, lambda _: None):
            for directory in made:
                shutil.rmtree(directory)


def _ensure_programs(cache: Path, progress: Progress) -> Path:
    program = CONTENTS.program
    parts = (asdict(program), CONTENTS.suite, CONTENTS.build_packages, COMPILE_SCRIPT, SHIM_SOURCE.read_text())
    key = key_of(*parts, os.uname().machine)
    directory = cache / "programs" / key
    if not directory.is_dir():
        with open_workspace("tools") as workspace, made_beside(directory) as new:
            progress(f"tools: a compiler for {program.name}")
            compiler = workspace / "compiler"
            bootstrap(compiler, CONTENTS.suite, CONTENTS.build_packages, progress)
            progress(f"tools: compiling {program.name} {program.version} (some minutes)")
            _compile(program, compiler, new)
    return directory


def _compile(program: GoProgram, compiler: Path, into: Path) -> None:
    with open_workspace("compile") as inner, enter(compiler, inner) as session:
        helper, helper_sources = program.helper
        (inner / "out").mkdir()
        script = COMPILE_SCRIPT.format(
            module=program.module,
            version=program.version,
            helper=helper,
            helper_sources=helper_sources,
            tags=" ".join(program.tags),
            name=program.name,
            package=program.package,
            out=inner / "out",
            shim=SHIM,
            shim_source=inner / SHIM_SOURCE.name,
        )
        shutil.copy(SHIM_SOURCE, inner)
        hint = "the Go module proxy must be reachable; GOPROXY and https_proxy are heeded"
        with as_host_error(f"compile {program.name} {program.version}: the compiler", hint):
            session.run(["sh", "-c", script], cwd=str(inner), timeout_s=COMPILE_S, host_network=True)
        for built in (inner / "out").iterdir():
            shutil.copy2(built, into / built.name)


def _install_programs(programs: Path, tree: Path) -> None:
    for program in programs.iterdir():
        directory = "lib" if program.name == SHIM else "bin"
        shutil.copy2(program, tree / "usr/local" / directory / program.name)
    # Before /usr/sbin in every PATH.
    wrapper = tree / "usr/local/sbin/criu"
    wrapper.write_text(CRIU_WRAPPER)
    wrapper.chmod(0o755)


def _add_pause_image(tree: Path) -> None:
    """CRI-O wants a pause image to exist, but never runs it unless a pod shares a PID namespace; an empty one does."""
    with open_workspace("pause") as workspace, enter(tree, workspace) as session:
        with as_host_error("make the pause image: buildah"):
            session.run(["sh", "-c", PAUSE_SCRIPT], cwd=str(workspace), timeout_s=120)
        shutil.copytree(workspace / "layout", tree / PAUSE_LAYOUT.lstrip("/"))
