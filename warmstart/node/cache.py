"""Make the directories of the cache: once each, under a temporary name, renamed when complete.

Debian packages come from the default mirror of mmdebstrap, or from WARMSTART_DEBIAN_MIRROR. apt checks the archive's
signature and the expiry date of its Release file. WARMSTART_DEBIAN_EXPIRED=1 accepts an expired Release file, as
snapshots and abandoned mirrors have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from warmstart.core import process
from warmstart.core.disk_space import reporting_full_disk
from warmstart.core.errors import HostError
from warmstart.core.locking import hold_lock, lock_file
from warmstart.core.partial import sweep_partials, write_beside
from warmstart.node.packages import Package, parse_checksums
from warmstart.node.session import EXPIRED, require_root
from warmstart.node.trust import check_cache, check_directory, seal

Notify = Callable[[str], None]

SUITE = "forky"
BOOTSTRAP_S = 1200.0
CHECKSUMS = ".checksums"
# mmdebstrap mounts /proc, /sys and the machine's /dev/shm in the new directory. In namespaces of its own, its mounts
# and its programs end with it. It is killed if this process ends.
ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)


def require_mmdebstrap() -> None:
    """Raise HostError unless this process is root and mmdebstrap is installed."""
    require_root()
    if shutil.which("mmdebstrap") is None:
        hint = "apt-get install mmdebstrap (or your distribution's package of that name)"
        raise HostError("cannot set up the tools: mmdebstrap is not installed", hint=hint)


def bootstrap(target: Path, suite: str, packages: Sequence[str], progress: Notify) -> tuple[Package, ...]:
    """Make a root directory of a Debian suite, with packages and their dependencies.

    Returns:
        The installed packages, with the hashes of their files.

    Raises:
        HostError: a package is not available.
    """
    mirror = os.environ.get("WARMSTART_DEBIAN_MIRROR", "")
    command = [*ISOLATED, "mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(packages)}"]
    if accepts_expired():
        command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    # Keep all package files until the end, then hash and remove them.
    hash_all = f'cd "$1/var/cache/apt/archives" && sha256sum -- *.deb > "$1/{CHECKSUMS}"'
    command += ["--skip=essential/unlink", f"--customize-hook={hash_all}"]
    command += ["--format=directory", suite, str(target), *([mirror] if mirror else [])]
    with _explained(suite, mirror):
        # mmdebstrap reports its steps in lines such as `I: downloading packages with apt...`.
        process.stream(
            command,
            on_line=lambda line: progress(f"tools: {line[3:].rstrip('.')}") if line.startswith("I: ") else None,
            timeout_s=BOOTSTRAP_S,
        )
    # The temporary directory's mode of 0700 would lock other users out.
    target.chmod(0o755)
    checksums = (target / CHECKSUMS).read_text()
    (target / CHECKSUMS).unlink()
    return parse_checksums(checksums)


def accepts_expired() -> bool:
    """Tell whether the user accepts an expired Release file."""
    return os.environ.get(EXPIRED, "") not in ("", "0")


@contextlib.contextmanager
def _explained(suite: str, mirror: str) -> Iterator[None]:
    source = mirror or "a Debian mirror"
    hint = f"check that {source} can be reached (http_proxy and WARMSTART_DEBIAN_MIRROR apply)"
    try:
        with as_host_error(f"download the packages of Debian {suite}: mmdebstrap", hint):
            yield
    except HostError as error:
        # apt: "Release file for URL is expired (invalid since 22d 7h)".
        if any("is expired" in line for line in error.details):
            error.hint = (
                f"set WARMSTART_DEBIAN_MIRROR to an up-to-date mirror, or set {EXPIRED}=1 to accept old packages"
                " without recent security fixes"
            )
        raise


@contextlib.contextmanager
def as_host_error(task: str, hint: str = "") -> Iterator[None]:
    """Raise HostError if a program fails in this block: the machine lacks something."""
    try:
        yield
    except process.ProgramError as error:
        raise HostError(f"cannot {task} {error.end}", details=error.details, hint=hint) from error


def key_of(*parts: object) -> str:
    """Return a hash of the parts, as twelve hexadecimal digits; they must be valid JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def find_newest(target: Path) -> Path:
    """Return the newest version of `target`: the directory itself, or a later one that an update made."""
    updates = sorted(target.parent.glob(f"{target.name}-[0-9]*T[0-9]*Z"))
    return updates[-1] if updates else target


def ensure_directory(
    target: Path, cache: Path, make: Callable[[Path], object], progress: Notify, *, lock: str = ""
) -> Path:
    """Fill a new directory with `make` and rename it to `target`, unless `target` exists.

    Args:
        target: the directory.
        cache: cache directory.
        make: function that fills a directory; it may make others in the cache if their makers hold the same lock.
        progress: called with a line when a stage begins, or before waiting for another command.
        lock: name of the lock that is held meanwhile; by default the directory has one of its own.

    Returns:
        `target`, or its newest version.

    Raises:
        HostError: as `require_mmdebstrap` and `make`, or a user other than root can write to the cache.
        OSError: the cache cannot be written to.
    """
    if find_newest(target).is_dir():
        return find_newest(target)
    require_mmdebstrap()
    with lock_cache(cache, progress, lock or target.name):
        if not find_newest(target).is_dir():
            with create_directory(target) as new:
                make(new)
    return find_newest(target)


def find_newer(target: Path) -> Path:
    """Return a path for a newer version of `target`, so that running commands can keep using the old one."""
    return target.with_name(f"{target.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


@contextlib.contextmanager
def create_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory. It is renamed to `target` if the block succeeds, and removed otherwise."""
    make_directory(target.parent)
    hint = "free some space there, or set WARMSTART_CACHE to another directory"
    with reporting_full_disk(target, hint), write_beside(target, directory=True) as new:
        yield new
        new.chmod(0o755)
        seal(new)


@contextlib.contextmanager
def lock_cache(cache: Path, progress: Notify, part: str = "") -> Iterator[None]:
    """Hold a lock of the cache, and remove incomplete directories of killed commands.

    Args:
        cache: cache directory.
        progress: called with a line before waiting for another command.
        part: name of the part to lock, which other parts do not wait for; by default all of the cache.
    """
    make_directory(check_cache(cache))

    def wait() -> None:
        progress("tools: waiting for another command to make them")

    with (cache / "lock").open("w") as whole, contextlib.ExitStack() as held:
        lock_file(whole.fileno(), wait, shared=bool(part))
        if part:
            held.enter_context(hold_lock(cache / f".{part}.lock", wait))
        for directory in cache.iterdir():
            sweep_partials(directory)
        yield


def make_directory(directory: Path, mode: int = 0o755) -> None:
    """Make a directory that only its owner can write to, whatever the umask; check an existing one.

    Raises:
        HostError: users other than root can write to it.
        OSError: it cannot be made.
    """
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
    check_directory(directory)
