"""Making what is kept in the cache: once, beside its final place, and never to be seen half-made.

Debian's packages come from the mirror that mmdebstrap takes by itself, or from that of WARMSTART_DEBIAN_MIRROR.
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
from pathlib import Path

from warmstart.core import process
from warmstart.core.errors import HostError
from warmstart.core.space import reporting_full_disk
from warmstart.node.session import require_root

Progress = Callable[[str], None]

SUITE = "forky"
# A suite under development is served with a Release file that may be past its date.
APT_OPTION = 'Acquire::Check-Valid-Until "false"'
BOOTSTRAP_S = 1200.0


def require_makers() -> None:
    """Raise HostError unless this process may make trees, and has what it takes."""
    require_root()
    if shutil.which("mmdebstrap") is None:
        hint = "apt-get install mmdebstrap (or your distribution's package of that name)"
        raise HostError("mmdebstrap is needed to make the tree of tools, and is not on this machine", hint=hint)


def bootstrap(target: Path, suite: str, packages: Sequence[str], progress: Progress) -> None:
    """Make a Debian tree of a suite, with packages and what they depend on.

    Raises:
        HostError: a package could not be had.
    """
    mirror = os.environ.get("WARMSTART_DEBIAN_MIRROR", "")
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--aptopt={APT_OPTION}"]
    command += [f"--include={','.join(packages)}", "--format=directory", suite, str(target)]
    hint = f"{mirror or 'a mirror of Debian'} must be reachable; http_proxy and WARMSTART_DEBIAN_MIRROR are heeded"
    with as_host_error(f"get the packages of Debian {suite}: mmdebstrap", hint):
        # mmdebstrap says what it begins in lines `I: downloading packages with apt...`.
        process.stream(
            [*command, *([mirror] if mirror else [])],
            on_line=lambda line: progress(f"tools: {line[3:].rstrip('.')}") if line.startswith("I: ") else None,
            timeout_s=BOOTSTRAP_S,
        )
    # A mode of 0700 from the temporary directory would lock other users out of the tree's root.
    target.chmod(0o755)


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


def make_once(target: Path, cache: Path, make: Callable[[Path], object], progress: Progress) -> None:
    """Have `make` fill a new directory of the cache, which becomes `target`, unless that is there already.

    Raises:
        HostError: as `require_makers`, or from `make`.
        OSError: the cache cannot be written to.
    """
    if target.is_dir():
        return
    require_makers()
    with sole_maker(cache, progress):
        if not target.is_dir():
            with made_beside(target) as new:
                make(new)


@contextlib.contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """A new directory that becomes `target` when the block ends well, and is removed otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        with reporting_full_disk(target, "make room there, or point WARMSTART_CACHE at another directory"):
            yield new
            new.chmod(0o755)
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def sole_maker(cache: Path, progress: Progress) -> Iterator[None]:
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
