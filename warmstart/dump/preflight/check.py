"""Find problems in a running container that would prevent a dump or restore, each with a fix.

The checks read /proc before the dump. Only known failures are errors, and a plain service has no findings. The rules
come from CRIU's source, and all but a few failures were reproduced with CRIU 4.2.1, runc 1.3.6 and CRI-O's options.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from warmstart.core.errors import AppError, HostError, PreflightError
from warmstart.dump.preflight.files import find_in_files
from warmstart.dump.preflight.finding import Finding, Severity, deduplicate
from warmstart.dump.preflight.processes import find_in_processes
from warmstart.dump.preflight.restrictions import find_in_restrictions
from warmstart.dump.preflight.sockets import find_in_sockets
from warmstart.dump.preflight.volumes import find_mount_points, find_on_volumes
from warmstart.dump.preflight.watches import find_in_watches
from warmstart.dump.proc.container import GONE, read_container
from warmstart.recipe.model import VolumeMount

__all__ = ["Finding", "Severity", "check_processes", "raise_on_errors"]

_MAX_PER_CODE = 5


def check_processes(
    proc: Path,
    init_pid: int,
    *,
    pod_ips: Collection[str],
    close_tcp: bool = False,
    volumes: Sequence[VolumeMount] = (),
    by_runtime: bool = True,
    launched: bool = False,
) -> tuple[Finding, ...]:
    """Check a container's first process and its descendants, the processes that CRIU dumps.

    The container keeps running, so findings may be outdated, such as a connection that was about to close.

    Args:
        proc: a procfs; nothing is read outside it.
        init_pid: PID of the container's first process in that procfs.
        pod_ips: the pod's own addresses.
        close_tcp: whether connections are closed in the dump instead of refused.
        volumes: the volumes of the container.
        by_runtime: whether the runtime is to restore it.
        launched: whether its parent is the launcher, which is in the container's own namespaces.

    Returns:
        Findings, errors first.

    Raises:
        AppError: the container has ended.
        HostError: the caller may not inspect the container's processes.
    """
    with reading(proc, init_pid):
        container = read_container(proc, init_pid)
        container = replace(container, volumes=find_mount_points(container, volumes))
        if launched:
            container = replace(container, parent_ipc="")
        if container.first.is_zombie and container.first.threads <= 1:
            raise ProcessLookupError(init_pid)
        addresses = [ip_address(each) for each in pod_ips]
        of_resources = [
            *find_in_sockets(container, addresses, close_tcp=close_tcp),
            *find_in_files(container, by_runtime=by_runtime),
            *find_on_volumes(container, by_runtime=by_runtime),
            *find_in_watches(container),
        ]
        findings = (
            *find_in_processes(container, by_runtime=by_runtime),
            *find_in_restrictions(container, by_runtime=by_runtime),
            *deduplicate(of_resources),
        )
    return tuple(sorted(findings, key=lambda finding: not finding.is_error))


@contextlib.contextmanager
def reading(proc: Path, init_pid: int) -> Iterator[None]:
    """Convert errors of this block about a container that cannot be read.

    Raises:
        AppError: its first process has ended.
        HostError: the caller may not inspect its processes.
    """
    try:
        yield
    except GONE as gone:
        brief = f"the container's first process ({init_pid} in {proc}) has ended"
        raise AppError(brief, hint="see the container's log for why") from gone
    except PermissionError as refused:
        brief = f"{refused.filename or proc}: cannot read the container's processes: permission denied"
        raise HostError(brief, hint="run as root") from refused


def raise_on_errors(findings: Collection[Finding], *, force: bool = False) -> None:
    """Raise if the findings include errors.

    Raises:
        PreflightError: there are errors and `force` is false; `details` has each error and its fix.
    """
    errors = [finding for finding in findings if finding.is_error]
    if not errors or force:
        return
    lines: list[str] = []
    seen: Counter[str] = Counter()
    for finding in errors:
        seen[finding.code] += 1
        if seen[finding.code] <= _MAX_PER_CODE:
            lines.append(str(finding))
    lines += [f"{n - _MAX_PER_CODE} more [{code}]" for code, n in seen.items() if n > _MAX_PER_CODE]
    number = "1 thing" if len(errors) == 1 else f"{len(errors)} things"
    raise PreflightError(
        f"{number} in the container would not dump or restore",
        details=lines,
        hint="fix them, or continue with --force",
    )
