"""Check by trial whether this machine can build images.

`criu check` finds few problems of a kernel, so a small process is dumped and restored.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from warmstart.core import process
from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.linux import find_system
from warmstart.core.text import format_bytes
from warmstart.core.workspace import open_workspace, workspace_parent
from warmstart.node.advisories import ADVISORIES, CRIU, CRUN, RUNC, find_version
from warmstart.node.cgroup import find_own_hierarchies, limits_processes
from warmstart.node.record import Record, read_record
from warmstart.node.session import Session, enter
from warmstart.node.tree import find_differences, tree_path, verify_tree

NEEDED_BYTES = 4 << 30
OLD_DAYS = 90
SHOWN = 5
TRY_S = 60.0
# Packages of CRI-O install their own programs here.
RUNTIME_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/usr/libexec/crio")

# Dump a sleeping process, restore it, and check that it runs under its old PID.
TRY_SCRIPT = """\
set -eu
mkdir images
setsid sleep 1000 < /dev/null > /dev/null 2>&1 &
pid=$!
while [ "$(cat /proc/$pid/comm)" != sleep ]; do sleep 0.05; done
criu dump --tree "$pid" --images-dir images --log-file dump.log || { grep Error images/dump.log >&2; exit 1; }
wait "$pid" || true
criu restore --images-dir images --log-file restore.log --restore-detached || {
    grep Error images/restore.log >&2
    exit 1
}
[ "$(cat /proc/$pid/comm)" = sleep ]
kill -KILL "$pid"
"""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: name of the check.
        ok: whether a build would work; None if it does not matter or could not be tried.
        found: finding.
        fix: command or advice, if it is not ok.
    """

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine_host(cache: Path) -> list[Check]:
    """Check everything that the embedded node needs; stop when the tools are missing."""
    if sys.platform != "linux":
        return [Check("system", False, find_system(), "run the command on a Linux machine")]
    checks = [_check_root(), _check_program("nsenter", "util-linux"), _check_space(), _check_kernel()]
    checks += _check_process_limit()
    tree = tree_path(cache)
    if not tree.is_dir():
        checks.append(_check_program("mmdebstrap", "mmdebstrap"))
        checks.append(Check("tools", False, "not made yet", "warmstart node setup (once, some minutes)"))
        return checks
    checks += _check_tools(cache, tree)
    if all(check.ok is not False for check in checks):
        checks += _try_node(tree)
    return checks


def _check_tools(cache: Path, tree: Path) -> list[Check]:
    """Check that the tools are intact, their age, and the security fixes that matter for a restore."""
    checks: list[Check] = []
    with _as_check(checks, "tools"):
        damage = verify_tree(cache)
        if damage:
            fix = "warmstart node remove && warmstart node setup"
            return [Check("tools", False, f"{tree}: {'; '.join(damage[:SHOWN])}", fix)]
        record = read_record(tree)
        checks.append(Check("tools", True, f"{tree}: all files are intact"))
        checks.append(_check_age(record, find_differences(cache)))
        checks += _check_fixes(record)
    return checks


def _check_age(record: Record, differences: Sequence[str]) -> Check:
    days = (datetime.now(UTC) - record.made_at).days
    fix = "warmstart node update" if days > OLD_DAYS else ""
    tested = f"{len(differences)} packages differ from the tested versions" if differences else "the tested versions"
    return Check("tools' age", None, f"{days} days; {tested}", fix)


def _check_fixes(record: Record) -> Iterator[Check]:
    runc = record.programs.get("runc", "").removeprefix("v")
    fix = "" if RUNC.is_fixed(runc) else "warmstart node update"
    yield Check("runc", RUNC.is_fixed(runc), RUNC.describe(runc), fix)
    # Debian has no fixed versions of these.
    crun, criu = record.find_version("crun"), record.find_version("criu")
    yield Check("crun", CRUN.is_fixed(crun) or None, f"{CRUN.describe(crun)}; not used to restore")
    yield Check("criu", CRIU.is_fixed(criu) or None, f"{CRIU.describe(criu)}; runc names mounts in a safe way")


def examine_host_programs() -> list[Check]:
    """Check the security fixes of the runc, crun and CRIU that are installed on this machine."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *RUNTIME_DIRECTORIES])
    checks = []
    for advisory in ADVISORIES:
        program = shutil.which(advisory.program, path=path)
        if program is not None:
            output = process.run([program, "--version"], timeout_s=TRY_S, check=False).stdout
            version = find_version(output)
            fix = "" if advisory.is_fixed(version) else f"update this machine's {advisory.program}"
            checks.append(Check(program, advisory.is_fixed(version) or None, advisory.describe(version), fix))
    return checks


def _check_root() -> Check:
    if os.geteuid() == 0:
        return Check("root", True, "yes")
    return Check("root", False, f"no, user {os.geteuid()}", "run the command with sudo")


def _check_program(name: str, package: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, path or "not found", "" if path else f"apt-get install {package}")


def _check_space() -> Check:
    parent = workspace_parent()
    try:
        free_bytes = shutil.disk_usage(parent).free
    except OSError as error:
        return Check(
            "room to work", False, f"{parent}: {error.strerror}", "set WARMSTART_TMPDIR to an existing directory"
        )
    fix = (
        "" if free_bytes >= NEEDED_BYTES else "free some space, or set WARMSTART_TMPDIR to a directory on a larger disk"
    )
    return Check("room to work", not fix, f"{format_bytes(free_bytes)} free in {parent}", fix)


def _check_kernel() -> Check:
    return Check("kernel", None, f"{platform.release()} {platform.machine()}")


def _check_process_limit() -> list[Check]:
    """Report a missing process limit; a build works without one."""
    if limits_processes(find_own_hierarchies()):
        return []
    found = "none: the cgroup controller pids is missing, so a fork bomb in a build cannot be stopped"
    return [Check("process limit", None, found, "enable the cgroup controller pids (CONFIG_CGROUP_PIDS in the kernel)")]


def _try_node(tree: Path) -> list[Check]:
    checks: list[Check] = []
    with _as_check(checks, "namespaces"), open_workspace("doctor") as workspace, enter(tree, workspace) as session:
        checks.append(Check("namespaces", True, "created and entered"))
        checks += [
            _try(
                "overlay mounts",
                lambda: _try_overlay(session),
                "set WARMSTART_TMPDIR to a directory on ext4 or xfs, not overlayfs",
            ),
            _try("dump and restore", lambda: _try_criu(session), "use another kernel (see CRIU's error)"),
        ]
    return checks


@contextlib.contextmanager
def _as_check(checks: list[Check], name: str) -> Iterator[None]:
    try:
        yield
    except WarmstartError as error:
        checks.append(Check(name, False, "; ".join([error.brief, *error.details[-1:]]), error.hint))


def _try(name: str, attempt: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, attempt())
    except WarmstartError as error:
        return Check(name, False, "; ".join(error.details[-2:]) or error.brief, fix)


def _try_overlay(session: Session) -> str:
    top = session.workspace / "overlay"
    for name in ("lower", "upper", "work", "merged"):
        (top / name).mkdir(parents=True)
    options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    session.run(["mount", "-t", "overlay", "overlay", "-o", options, top / "merged"], timeout_s=TRY_S)
    return f"work in {session.workspace.parent}"


def _try_criu(session: Session) -> str:
    place = session.workspace / "criu"
    place.mkdir()
    session.run(["sh", "-c", TRY_SCRIPT], cwd=str(place), timeout_s=TRY_S)
    version = session.run(["criu", "--version"], timeout_s=TRY_S).stdout.split()[-1]
    return f"CRIU {version} dumped and restored a process"


def require(checks: list[Check]) -> None:
    """Raise an error if a check has failed.

    Raises:
        HostError: names the failed checks; the hint is the first fix.
    """
    failed = [check for check in checks if check.ok is False]
    if failed:
        names = ", ".join(check.name for check in failed)
        hint = next((f"first, {check.fix}" for check in failed if check.fix), "")
        raise HostError(f"a build would not work here: {names}", hint=hint)
