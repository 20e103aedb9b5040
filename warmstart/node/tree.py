"""Set up the tools directory: a small Debian root with the programs that a host may lack.

`CONTENTS` declares it, and the cache key covers all of it. The directory is complete before it gets its name, and is
never written to afterwards. Programs that Debian does not package are compiled in a second root, which is then removed
(see `warmstart.node.programs`).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.linux import require_linux
from warmstart.core.mountinfo import parse_mountinfo, read_mountinfo
from warmstart.core.removal import remove_directory
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
from warmstart.node.hooks import find_compiled
from warmstart.node.launcher import find_launcher, update_launcher
from warmstart.node.packages import find_architecture, find_locked
from warmstart.node.programs import SHIM, GoProgram, Program, Shim, ensure_programs, find_program
from warmstart.node.record import Record, make_record, read_record, write_record
from warmstart.node.session import enter
from warmstart.node.trust import check_cache, check_parents, check_quickly, find_damage


@dataclass(frozen=True)
class Contents:
    """Everything that determines the contents of a tools directory."""

    suite: str
    packages: tuple[str, ...]
    build_packages: tuple[str, ...]
    programs: tuple[GoProgram, ...]
    layout: int  # increase when the steps below change their result


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
        # With Debian's version, a checkpoint can mount directories of the host (CVE-2026-119101).
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
    """Return twelve hexadecimal digits that change with the contents."""
    programs = [find_program(Path(), one, contents.suite, contents.build_packages).name for one in _programs(contents)]
    locked = [str(package) for package in find_locked(LOCK_NAME)]
    return key_of(asdict(contents), programs, locked, CRIU_WRAPPER, PAUSE_SCRIPT, os.uname().machine)


def tree_path(cache: Path) -> Path:
    """Return the path of the newest tools directory in the cache, whether or not it exists."""
    return find_newest(cache.resolve() / "trees" / tree_key())


def ensure_tree(cache: Path, progress: Notify, warn: Callable[[str], object] = lambda _: None) -> Path:
    """Return the tools directory, and set it up if it is not in the cache.

    Args:
        cache: cache directory.
        progress: called with a line when a stage begins.
        warn: called with a line if a new directory has other packages than the tested ones.

    Raises:
        HostError: not root, mmdebstrap is missing, or a package or module is not available; a user other than root can
            write to the cache, or its files have changed since they were made.
        OSError: the cache is not writable.
    """
    require_linux("set up the tools")
    cache = check_cache(cache)
    old = tree_path(cache)
    if not old.is_dir():
        # Trees share programs, which the first one makes.
        make = partial(_make, cache=cache, progress=progress, anew=False)
        ensure_directory(old, cache, make, progress, lock="trees")
        _warn_of_differences(tree_path(cache), warn)
    check_quickly(tree_path(cache), cache)
    return tree_path(cache)


def update_tree(cache: Path, progress: Notify) -> Path:
    """Set up another tools directory with the newest packages; running commands keep the old one.

    Errors as for `ensure_tree`.
    """
    require_linux("set up the tools")
    cache = check_cache(cache)
    require_mmdebstrap()
    with lock_cache(cache, progress):
        base = cache / "trees" / tree_key()
        with create_directory(find_newer(base) if base.is_dir() else base) as new:
            _make(new, cache, progress, anew=True)
        update_launcher(cache, progress)
    return tree_path(cache)


def read_records(cache: Path) -> list[tuple[Path, Record]]:
    """Return the records of the tools directory in use, of the programs compiled for it, and of the launcher.

    Raises:
        HostError: a record is damaged, or the tools are not set up.
    """
    if not tree_path(cache).is_dir():
        raise HostError("the tools have not been made yet", hint="warmstart node setup")
    found = [tree_path(cache), *(find_newest(path) for path in _program_paths(cache)), *find_launcher(cache)]
    found += find_compiled(cache)
    return [(path, read_record(path)) for path in found if path.is_dir()]


def verify_tree(cache: Path) -> list[str]:
    """Read all files of the tools and the programs, and return one line for each that has changed.

    Raises:
        HostError: a user other than root can write to the cache, or a manifest is missing.
    """
    cache = check_cache(cache)
    damage = []
    for path, _ in read_records(cache):
        check_parents(path, cache)
        damage += [f"{path.relative_to(cache)}/{line}" for line in find_damage(path)]
    return damage


def find_differences(cache: Path) -> tuple[str, ...]:
    """Return the differences of the tools and their compilers from the tested versions."""
    lines = {line for _, record in read_records(cache) for line in record.differences}
    return tuple(sorted(lines))


def require_tested(cache: Path) -> None:
    """Check that the tools have the tested versions.

    Raises:
        HostError: some packages differ; the details name them.
    """
    if differences := find_differences(cache):
        hint = "set WARMSTART_DEBIAN_MIRROR to a mirror with the tested versions, or omit --locked"
        brief = f"{len(differences)} packages of the tools differ from the tested versions"
        raise HostError(brief, details=differences[:SHOWN], hint=hint)


def remove_trees(cache: Path) -> None:
    """Remove all tools directories and compiled programs from the cache.

    Raises:
        HostError: a file cannot be removed, such as one that is mounted.
        OSError: the cache is not writable.
    """
    directories = [directory for name in ("trees", "programs") if (directory := cache.resolve() / name).is_dir()]
    if directories:
        with lock_cache(cache, lambda _: None):
            for directory in directories:
                if not remove_directory(directory):
                    raise _cannot_remove(directory)


def _cannot_remove(directory: Path) -> HostError:
    mounts = parse_mountinfo(read_mountinfo(Path("/proc/self/mountinfo")))
    mounted = [mount.mount_point for mount in mounts if Path(mount.mount_point).is_relative_to(directory)]
    hint = f"umount {shlex.join(reversed(mounted))}" if mounted else ""
    return HostError(f"cannot remove all of {directory}", hint=hint)


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
    # Debian's runc has both of these names.
    (new / "usr/bin/runc").symlink_to("../sbin/runc")
    # In every PATH, this directory precedes /usr/sbin.
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
    """Add an empty pause image: CRI-O requires one, but runs it only if a pod shares a PID namespace."""
    with open_workspace("pause") as workspace, enter(tree, workspace) as session:
        with as_host_error("make the pause image: buildah"):
            session.run(["sh", "-c", PAUSE_SCRIPT], cwd=str(workspace), timeout_s=120)
        shutil.copytree(workspace / "layout", tree / PAUSE_LAYOUT.lstrip("/"))
