"""The tree of tools: a small Debian with what a host may lack, made once and keyed by what it is to contain.

It is declared as data below. A tree is made beside its final place and renamed, so that a half-made one is never
seen, and it is never written to afterwards. What Debian does not package is built from its Go module, in a second tree
that is then thrown away (see `warmstart.node.programs`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.workspace import open_workspace
from warmstart.node.cache import (
    SUITE,
    Notify,
    as_host_error,
    bootstrap,
    create_directory,
    ensure_directory,
    find_newer,
    find_newest,
    key_of,
    lock_cache,
    require_mmdebstrap,
)
from warmstart.node.launcher import find_launcher, update_launcher
from warmstart.node.packages import find_architecture, find_locked
from warmstart.node.programs import SHIM, GoProgram, Program, Shim, ensure_programs, find_program
from warmstart.node.record import Record, make_record, read_record, write_record
from warmstart.node.session import enter
from warmstart.node.trust import check_cache, check_parents, check_quickly, find_damage


@dataclass(frozen=True)
class Contents:
    """All that decides what is in a tree."""

    suite: str
    packages: tuple[str, ...]
    build_packages: tuple[str, ...]
    programs: tuple[GoProgram, ...]
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
        "libseccomp2",  # for crio and runc
        "mmdebstrap",
        "mount",
        "netavark",
        "nftables",
        "passt",
        "skopeo",
        "zstd",
    ),
    build_packages=("ca-certificates", "gcc", "golang-go", "libc6-dev", "libseccomp-dev", "pkgconf"),
    programs=(
        GoProgram(
            name="crio",
            module="github.com/cri-o/cri-o",
            version="v1.36.3",
            sum="h1:7PaWWmxWct0eyl9GmCn/e7+iE/xPD4dTeY9m89nIS0Q=",
            package="./cmd/crio",
            tags=("containers_image_openpgp", "exclude_graphdriver_btrfs", "seccomp"),
            directory="usr/local/bin",
            helper=("pinns", "pinns/src"),
        ),
        # Debian's lets a checkpoint mount directories of the host (CVE-2026-119101).
        GoProgram(
            name="runc",
            module="github.com/opencontainers/runc",
            version="v1.5.3",
            sum="h1:y3GUIW7J0Gxd+tCFfWR6L1YDnhHiNR1BGRx1J50+VnA=",
            package=".",
            tags=("seccomp",),
            directory="usr/sbin",
        ),
    ),
    layout=3,
)

CRIU_WRAPPER = f"""\
#!/bin/sh
LD_PRELOAD=/usr/local/lib/{SHIM} exec /usr/sbin/criu "$@"
"""

PAUSE_LAYOUT = "/usr/share/warmstart/pause"
LOCK_NAME = "tools"
SHOWN = 20

PAUSE_SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
container=$(tool from scratch)
tool config --cmd /pause "$container"
tool commit -q "$container" oci:layout
"""


def tree_key(contents: Contents = CONTENTS) -> str:
    """Twelve hexadecimal digits that change with the contents."""
    programs = [find_program(Path(), one, contents.suite, contents.build_packages).name for one in _programs(contents)]
    locked = [str(package) for package in find_locked(LOCK_NAME)]
    return key_of(asdict(contents), programs, locked, CRIU_WRAPPER, PAUSE_SCRIPT, os.uname().machine)


def tree_path(cache: Path) -> Path:
    """Where the tree lies in the cache, made or not; the newest, if it was updated."""
    return find_newest(cache.resolve() / "trees" / tree_key())


def ensure_tree(cache: Path, progress: Notify, warn: Callable[[str], object] = lambda _: None) -> Path:
    """The tree of tools, made now if it is not in the cache yet.

    Args:
        cache: the cache directory.
        progress: called with a line whenever something new begins.
        warn: called with a line if a tree is made of other packages than the tested ones.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package or module could not be had; others than root can write
            to the cache, or what is in it is not what was made.
        OSError: the cache cannot be written to.
    """
    cache = check_cache(cache)
    old = tree_path(cache)
    if not old.is_dir():
        ensure_directory(old, cache, lambda new: _make(new, cache, progress, anew=False), progress)
        _warn_of_differences(tree_path(cache), warn)
    check_quickly(tree_path(cache), cache)
    return tree_path(cache)


def update_tree(cache: Path, progress: Notify) -> Path:
    """Make a tree of the newest packages; what uses the old one can go on with it.

    Raises:
        HostError: as `ensure_tree`.
        OSError: as `ensure_tree`.
    """
    cache = check_cache(cache)
    require_mmdebstrap()
    with lock_cache(cache, progress):
        base = cache / "trees" / tree_key()
        with create_directory(find_newer(base) if base.is_dir() else base) as new:
            _make(new, cache, progress, anew=True)
        update_launcher(cache, progress)
    return tree_path(cache)


def read_records(cache: Path) -> list[tuple[Path, Record]]:
    """The records of the tree in use, of the programs that were compiled for it, and of the launcher.

    Raises:
        HostError: one is damaged, or there is no tree.
    """
    if not tree_path(cache).is_dir():
        raise HostError("the tools have not been made yet", hint="warmstart node setup")
    found = [tree_path(cache), *(find_newest(path) for path in _program_paths(cache)), *find_launcher(cache)]
    return [(path, read_record(path)) for path in found if path.is_dir()]


def verify_tree(cache: Path) -> list[str]:
    """Read all of the tools, and of the programs compiled for them; one line for each file that is not what was made.

    Raises:
        HostError: others than root can write to the cache, or there is no manifest.
    """
    cache = check_cache(cache)
    damage = []
    for path, _ in read_records(cache):
        check_parents(path, cache)
        damage += [f"{path.relative_to(cache)}/{line}" for line in find_damage(path)]
    return damage


def find_differences(cache: Path) -> tuple[str, ...]:
    """How the tools, and the compilers that made some of them, differ from the tested versions."""
    lines = {line for _, record in read_records(cache) for line in record.differences}
    return tuple(sorted(lines))


def require_tested(cache: Path) -> None:
    """Check that the tools are made of the tested versions.

    Raises:
        HostError: naming the packages in other versions.
    """
    if differences := find_differences(cache):
        hint = "set WARMSTART_DEBIAN_MIRROR to a mirror with the tested versions, or omit --locked"
        brief = f"{len(differences)} packages of the tools differ from the tested versions"
        raise HostError(brief, details=differences[:SHOWN], hint=hint)


def remove_trees(cache: Path) -> None:
    """Remove all that `ensure_tree` has ever made in the cache.

    Raises:
        OSError: something cannot be removed.
    """
    made = [directory for name in ("trees", "programs") if (directory := cache / name).is_dir()]
    if made:
        with lock_cache(cache, lambda _: None):
            for directory in made:
                shutil.rmtree(directory)


def _programs(contents: Contents) -> tuple[Program, ...]:
    return (*contents.programs, Shim())


def _program_paths(cache: Path) -> list[Path]:
    cache = cache.resolve()
    return [find_program(cache, one, CONTENTS.suite, CONTENTS.build_packages) for one in _programs(CONTENTS)]


def _make(new: Path, cache: Path, progress: Notify, *, anew: bool) -> None:
    programs = ensure_programs(cache, _programs(CONTENTS), CONTENTS.suite, CONTENTS.build_packages, progress, anew=anew)
    progress(f"tools: installing Debian {CONTENTS.suite} packages")
    packages = bootstrap(new, CONTENTS.suite, CONTENTS.packages, progress)
    for compiled in programs:
        compiled.install(new)
    # Where Debian's own would be, at both of its names.
    (new / "usr/bin/runc").symlink_to("../sbin/runc")
    # Before /usr/sbin in every PATH.
    wrapper = new / "usr/local/sbin/criu"
    wrapper.write_text(CRIU_WRAPPER)
    wrapper.chmod(0o755)
    _add_pause_image(new)
    versions = {compiled.program.name: compiled.program.version for compiled in programs}
    write_record(new, make_record(LOCK_NAME, packages, versions))


def _warn_of_differences(tree: Path, warn: Callable[[str], object]) -> None:
    differences = read_record(tree).differences
    if differences and not find_locked(LOCK_NAME):
        warn(f"the tools have the newest Debian packages: no versions were tested together on {find_architecture()}")
    elif differences:
        warn(
            f"{len(differences)} Debian packages of the tools differ from the tested versions: the mirror has newer"
            " ones (list them with `warmstart node status`)"
        )


def _add_pause_image(tree: Path) -> None:
    """CRI-O wants a pause image to exist, but never runs it unless a pod shares a PID namespace; an empty one does."""
    with open_workspace("pause") as workspace, enter(tree, workspace) as session:
        with as_host_error("make the pause image: buildah"):
            session.run(["sh", "-c", PAUSE_SCRIPT], cwd=str(workspace), timeout_s=120)
        shutil.copytree(workspace / "layout", tree / PAUSE_LAYOUT.lstrip("/"))
