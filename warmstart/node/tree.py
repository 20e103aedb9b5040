"""The tree of tools: a small Debian with what a host may lack, made once and keyed by what it is to contain.

It is declared as data below. A tree is made beside its final place and renamed, so that a half-made one is never
seen, and it is never written to afterwards. What Debian does not package is built from its Go module, in a second tree
that is then thrown away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from warmstart.core import process
from warmstart.core.errors import HostError
from warmstart.core.workspace import open_workspace
from warmstart.node.session import enter, require_root

Progress = Callable[[str], None]


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
    suite="forky",
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

MIRROR = "http://deb.debian.org/debian"
# A suite under development is served with a Release file that may be past its date.
APT_OPTION = 'Acquire::Check-Valid-Until "false"'
PAUSE_LAYOUT = "/usr/share/warmstart/pause"
BOOTSTRAP_S = 1200.0
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
    return _key(
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
    tree = tree_path(cache)
    if tree.is_dir():
        return tree
    require_root()
    if shutil.which("mmdebstrap") is None:
        hint = "apt-get install mmdebstrap (or your distribution's package of that name)"
        raise HostError("mmdebstrap is needed to make the tree of tools, and is not on this machine", hint=hint)
    with _sole_maker(cache, progress):
        if not tree.is_dir():
            programs = _ensure_programs(cache, progress)
            with _made_beside(tree) as new:
                progress(f"tools: Debian {CONTENTS.suite} packages")
                _bootstrap(new, CONTENTS.packages, progress)
                _install_programs(programs, new)
                _add_pause_image(new)
    return tree


def remove_trees(cache: Path) -> None:
    """Remove all that `ensure_tree` has ever made in the cache.

    Raises:
        OSError: something cannot be removed.
    """
    made = [directory for name in ("trees", "programs") if (directory := cache / name).is_dir()]
    if made:
        with _sole_maker(cache, lambda _: None):
            for directory in made:
                shutil.rmtree(directory)


def _ensure_programs(cache: Path, progress: Progress) -> Path:
    program = CONTENTS.program
    parts = (asdict(program), CONTENTS.suite, CONTENTS.build_packages, COMPILE_SCRIPT, SHIM_SOURCE.read_text())
    key = _key(*parts, os.uname().machine)
    directory = cache / "programs" / key
    if not directory.is_dir():
        with open_workspace("tools") as workspace, _made_beside(directory) as new:
            progress(f"tools: a compiler for {program.name}")
            compiler = workspace / "compiler"
            _bootstrap(compiler, CONTENTS.build_packages, progress)
            progress(f"tools: compiling {program.name} {program.version} (some minutes)")
            _compile(program, compiler, new)
    return directory


def _bootstrap(target: Path, packages: tuple[str, ...], progress: Progress) -> None:
    mirror = os.environ.get("WARMSTART_DEBIAN_MIRROR") or MIRROR
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--aptopt={APT_OPTION}"]
    command += [f"--include={','.join(packages)}", "--format=directory", CONTENTS.suite, str(target), mirror]
    hint = f"{mirror} must be reachable; http_proxy and WARMSTART_DEBIAN_MIRROR are heeded"
    with _as_host_error(f"get the packages of Debian {CONTENTS.suite}: mmdebstrap", hint):
        # mmdebstrap says what it begins in lines `I: downloading packages with apt...`.
        process.stream(
            command,
            on_line=lambda line: progress(f"tools: {line[3:].rstrip('.')}") if line.startswith("I: ") else None,
            timeout_s=BOOTSTRAP_S,
        )
    # A mode of 0700 from the temporary directory would lock other users out of the tree's root.
    target.chmod(0o755)


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
        with _as_host_error(f"compile {program.name} {program.version}: the compiler", hint):
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
        with _as_host_error("make the pause image: buildah"):
            session.run(["sh", "-c", PAUSE_SCRIPT], cwd=str(workspace), timeout_s=120)
        shutil.copytree(workspace / "layout", tree / PAUSE_LAYOUT.lstrip("/"))


@contextlib.contextmanager
def _as_host_error(task: str, hint: str = "") -> Iterator[None]:
    """A program that fails in this block fails for want of something that the machine should have."""
    try:
        yield
    except process.ProgramError as error:
        raise HostError(f"could not {task} {error.end}", details=error.details, hint=hint) from error


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _made_beside(target: Path) -> Iterator[Path]:
    """A new directory that becomes `target` when the block ends well, and is removed otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        yield new
        new.chmod(0o755)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _sole_maker(cache: Path, progress: Progress) -> Iterator[None]:
    """One maker at a time; what a killed one left half-made is removed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("tools: another command is making them")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("*/.making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
