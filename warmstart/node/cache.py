"""Making what is kept in the cache: once, beside its final place, and never to be seen half-made.

Debian's packages come from the mirror that mmdebstrap takes by itself, or from that of WARMSTART_DEBIAN_MIRROR. apt
checks the archive's signature and the date until which its Release file is valid. WARMSTART_DEBIAN_EXPIRED=1 accepts a
Release file past that date, which a mirror that is no longer updated, or a snapshot, has.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from warmstart.core import process
from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import HostError
from warmstart.node.packages import Package, parse_checksums
from warmstart.node.session import EXPIRED, require_root
from warmstart.node.trust import check_cache, check_directory, seal

Notify = Callable[[str], None]

SUITE = "forky"
BOOTSTRAP_S = 1200.0
CHECKSUMS = ".checksums"


def require_makers() -> None:
    """Raise HostError unless this process may make trees, and has what it takes."""
    require_root()
    if shutil.which("mmdebstrap") is None:
        hint = "apt-get install mmdebstrap (or your distribution's package of that name)"
        raise HostError("cannot set up the tools: mmdebstrap is not installed", hint=hint)


def bootstrap(target: Path, suite: str, packages: Sequence[str], progress: Notify) -> tuple[Package, ...]:
    """Make a Debian tree of a suite, with packages and what they depend on.

    Returns:
        The packages that were installed, with the hashes of their files.

    Raises:
        HostError: a package could not be had.
    """
    mirror = os.environ.get("WARMSTART_DEBIAN_MIRROR", "")
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(packages)}"]
    if accepts_expired():
        command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    # All package files are kept until the end, when they are hashed and removed.
    hash_all = f'cd "$1/var/cache/apt/archives" && sha256sum -- *.deb > "$1/{CHECKSUMS}"'
    command += ["--skip=essential/unlink", f"--customize-hook={hash_all}"]
    command += ["--format=directory", suite, str(target), *([mirror] if mirror else [])]
    with _explained(suite, mirror):
        # mmdebstrap says what it begins in lines `I: downloading packages with apt...`.
        process.stream(
            command,
            on_line=lambda line: progress(f"tools: {line[3:].rstrip('.')}") if line.startswith("I: ") else None,
            timeout_s=BOOTSTRAP_S,
        )
    # A mode of 0700 from the temporary directory would lock other users out of the tree's root.
    target.chmod(0o755)
    checksums = (target / CHECKSUMS).read_text()
    (target / CHECKSUMS).unlink()
    return parse_checksums(checksums)


def accepts_expired() -> bool:
    """Whether the user accepts a Release file past its date."""
    return os.environ.get(EXPIRED, "") not in ("", "0")


@contextlib.contextmanager
def _explained(suite: str, mirror: str) -> Iterator[None]:
    place = mirror or "a mirror of Debian"
    hint = f"{place} must be reachable; http_proxy and WARMSTART_DEBIAN_MIRROR are heeded"
    try:
        with as_host_error(f"get the packages of Debian {suite}: mmdebstrap", hint):
            yield
    except HostError as error:
        # apt: "Release file for URL is expired (invalid since 22d 7h)".
        if any("is expired" in line for line in error.details):
            error.hint = (
                f"take a mirror that is up to date with WARMSTART_DEBIAN_MIRROR, or set {EXPIRED}=1 to accept old"
                " packages: security fixes since then are missing"
            )
        raise


@contextlib.contextmanager
def as_host_error(task: str, hint: str = "") -> Iterator[None]:
    """A program that fails in this block fails for want of something that the machine should have."""
    try:
        yield
    except process.ProgramError as error:
        raise HostError(f"could not {task} {error.end}", details=error.details, hint=hint) from error


def key_of(*parts: object) -> str:
    """Twelve hexadecimal digits that change with the parts, which JSON must know."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def find_newest(target: Path) -> Path:
    """The newest of what was made under this name: `target` itself, or a later one that an update made beside it."""
    updates = sorted(target.parent.glob(f"{target.name}-[0-9]*T[0-9]*Z"))
    return updates[-1] if updates else target


def make_once(target: Path, cache: Path, make: Callable[[Path], object], progress: Notify) -> Path:
    """Have `make` fill a new directory of the cache, which becomes `target`, unless that is there already.

    Returns:
        `target`, or a newer one that was made under its name.

    Raises:
        HostError: as `require_makers`, or from `make`; or others than root can write to the cache.
        OSError: the cache cannot be written to.
    """
    if find_newest(target).is_dir():
        return find_newest(target)
    require_makers()
    with sole_maker(cache, progress):
        if not find_newest(target).is_dir():
            with made_beside(target) as new:
                make(new)
    return find_newest(target)


def find_newer(target: Path) -> Path:
    """The name for something newer than what was made under this name, which those that use it can go on with."""
    return target.with_name(f"{target.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


@contextlib.contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """A new directory that becomes `target` when the block ends well, and is removed otherwise."""
    _make_directory(target.parent)
    new = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        with reporting_full_disk(target, "make room there, or point WARMSTART_CACHE at another directory"):
            yield new
            new.chmod(0o755)
            seal(new)
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def sole_maker(cache: Path, progress: Notify) -> Iterator[None]:
    """One maker at a time; what a killed one left half-made is removed."""
    _make_directory(check_cache(cache))
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("tools: another command is making them")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("*/.making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _make_directory(directory: Path) -> None:
    """Make a directory that only we can write to, whatever the umask; one that is there must be such a one."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    check_directory(directory)
