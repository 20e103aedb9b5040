"""Run the container of a build: start it, wait until it is ready, warm it up, check it, and take its checkpoint."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.launched import (
    LauncherContainer,
    LauncherDirectories,
    await_application,
    find_working_dir,
    make_directories,
    wrap_container,
)
from warmstart.build.result import BaseImage, RuntimeCheckpoint, SelfCheckpoint, WarmState
from warmstart.build.verify import read_launcher_ms
from warmstart.core.cpu import read_features
from warmstart.core.errors import AppError
from warmstart.core.undo import undoing
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.edit.programs import Program, read_programs
from warmstart.dump.preflight.check import check_processes, raise_on_errors
from warmstart.dump.preflight.self import check_launched
from warmstart.dump.proc.container import open_below_root
from warmstart.dump.proc.restrictions import read_restrictions
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import HostRuntime, LocalEngine, connect_engine, start_engine
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import ENTRYPOINT, MEMORY, find_run, pack_changes
from warmstart.node.launcher import ensure_launcher
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success, wait_ready
from warmstart.probe.warmup import run_steps
from warmstart.recipe.model import Container

SUBNET = "10.88.0.0/24"
CLOSING_S = 3.0


def open_engine(context: BuildContext, host: HostRuntime | None) -> contextlib.AbstractContextManager[LocalEngine]:
    """Connect to the host's CRI-O, or start one if it is None."""
    if host is None:
        criu_options = ["tcp-established"] if context.recipe.close_tcp else []
        return start_engine(context.session, "build", subnet=SUBNET, criu_options=criu_options)
    return connect_engine(context.session, host)


def run_and_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    on_dumped: Callable[[CriContainer], object] = lambda _: None,
) -> RuntimeCheckpoint:
    """Start the container, warm it up, and have the runtime take its checkpoint.

    `on_dumped` is called with the container after the checkpoint, before the container ends.
    """
    archive = context.workspace / "checkpoint.tar"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(context, engine, base.layout, context.recipe.container, undo)
            check_user(engine, running, context.recipe.container)
        warm = warm_up(context, engine, running)
        has_tmp = has_directory(engine.proc, running.pid, "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
        on_dumped(running)
    return RuntimeCheckpoint(archive, warm, has_tmp)


def run_and_dump(context: BuildContext, engine: LocalEngine, base: BaseImage, layout: Path) -> SelfCheckpoint:
    """Start the container under the launcher, warm it up, and have the launcher dump it.

    The changes to its filesystem become a layer in `layout`, because they are gone with the container.
    """
    container, config = context.recipe.container, read_image(base.layout).config
    programs = ensure_launcher(context.options.cache, context.progress.note)
    directories = LauncherDirectories(context.workspace / "launcher", context.workspace / "launcher-state")
    make_directories(directories, programs)
    directory = context.workspace / "launched"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(
                context, engine, base.layout, wrap_container(container, config, directories), undo
            )
            launched = await_application(running, directories, find_working_dir(container, config))
            check_user(engine, launched, container)
        warm = warm_up(context, engine, launched, launched.inner_pid)
        with context.progress.step("checkpoint"):
            launched.dump(context.options.checkpoint_timeout_s)
            changes = pack_changes(launched.take_out(directory), layout)
    return SelfCheckpoint(directory, programs, find_run(container, config), changes, warm)


def restore_and_checkpoint(context: BuildContext, engine: LocalEngine, launched: SelfCheckpoint) -> RuntimeCheckpoint:
    """Have the image in the workspace restore itself, and the runtime take a checkpoint of the restored container.

    The container uses the node's clocks: a runtime cannot dump the time namespace that the launcher would make.
    """
    archive = context.workspace / "checkpoint.tar"
    command = (*ENTRYPOINT[:-1], "--clocks", "node", *launched.run.entrypoint[len(ENTRYPOINT) - 1 :], *launched.run.cmd)
    container = replace(context.recipe.container, command=command, args=())
    with contextlib.ExitStack() as undo:
        with context.progress.step("restore"):
            running = start_container(context, engine, context.workspace / "layout", container, undo)
            wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
            read_launcher_ms(running)
        with context.progress.step("second preflight"):
            check_before_dump(context, engine, running)
        has_tmp = has_directory(engine.proc, running.pid, "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("second checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
    # Memory that is mapped from the image was checked before, so its changed pages are safe to map too.
    programs = {**launched.warm.programs, f"/{MEMORY}": Program()}
    return RuntimeCheckpoint(archive, replace(launched.warm, programs=programs), has_tmp)


def start_container(
    context: BuildContext, engine: LocalEngine, layout: Path, container: Container, undo: contextlib.ExitStack
) -> CriContainer:
    """Import the image of a layout and start a container; `undo` ends it and removes the image."""
    image = f"localhost/warmstart/base:{context.workspace.name}"
    undo.enter_context(undoing(partial(engine.cri.remove_image, image)))
    engine.import_image(layout, image, context.progress.note)
    return undo.enter_context(engine.cri.start(container, image, context.recipe.name))


def warm_up(
    context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer, inner_pid: int = 1
) -> WarmState:
    """Wait until a container is ready, warm it up, and check it.

    `inner_pid` is the application's PID in the container.
    """
    recipe, progress = context.recipe, context.progress
    with progress.step("ready"):
        cold_s = await_ready(running, recipe.container)
    with progress.step("warm up"):
        run_steps(
            running, recipe.warmup, pid=inner_pid, on_progress=lambda p: progress.note(f"{p.done} of {p.step.repeat}")
        )
        run_steps(running, recipe.before_checkpoint, pid=inner_pid, field="beforeCheckpoint")
    with progress.step("preflight"):
        check_before_dump(context, engine, running)
        identity = read_identity(engine.proc, running.pid)
        programs = read_programs(engine.proc, running.pid)
        return WarmState(identity, cold_s, programs, read_features(), read_restrictions(engine.proc, running.pid))


def await_ready(running: CriContainer | LauncherContainer, container: Container) -> float:
    """Wait as the kubelet does, and return the seconds from the request for the container to the probe's first success.

    The probes' periods are too coarse for measuring, so the first success is awaited separately.
    """
    wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
    cold_s = time.monotonic() - running.requested_at
    wait_ready(running, container.startup_probe, container.readiness_probe, started=running.started_at)
    return cold_s


def check_user(engine: LocalEngine, running: CriContainer | LauncherContainer, container: Container) -> None:
    """Enforce runAsNonRoot, which CRI leaves to its client.

    Raises:
        AppError: the container runs as root.
    """
    if container.security_context.run_as_non_root and (engine.proc / str(running.pid)).stat().st_uid == 0:
        brief = "container.securityContext.runAsNonRoot is set, but the image's user is root"
        raise AppError(brief, hint="set runAsUser, or use an image with a user other than root")


def check_before_dump(context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer) -> None:
    """Report problems that would prevent a dump or a restore.

    Connections of the probe and the warm-up may still be closing, so they have CLOSING_S to do so.

    Raises:
        PreflightError: there are errors, and the user does not force the build.
    """
    deadline = time.monotonic() + CLOSING_S
    while True:
        findings = check_processes(
            engine.proc, running.pid, pod_ips=[running.address], close_tcp=context.recipe.close_tcp
        )
        if isinstance(running, LauncherContainer):
            findings = (*findings, *check_launched(engine.proc, running.pid))
        errors = [finding for finding in findings if finding.is_error]
        if time.monotonic() > deadline or not all(error.code.startswith("tcp-") for error in errors) or not errors:
            break
        time.sleep(0.1)
    for finding in findings:
        if not finding.is_error or context.options.force:
            context.progress.warn(str(finding))
    raise_on_errors(findings, force=context.options.force)


def has_directory(proc: Path, pid: int, path: str) -> bool:
    """Tell whether the container of a process has a directory at an absolute path, following its own links."""
    try:
        with open_below_root(proc, pid, path, os.O_PATH | os.O_DIRECTORY):
            return True
    except OSError:
        return False
