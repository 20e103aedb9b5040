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
from warmstart.core.linux import open_in_root
from warmstart.core.undo import undoing
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.edit.programs import Program, read_programs
from warmstart.dump.preflight.check import check_processes, raise_on_errors
from warmstart.dump.preflight.self import check_launched
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
    """What runs the container: the host's CRI-O where one was named, else one of our own."""
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
    """Start the container, bring it to the state it is to be restored in, and have the runtime take its checkpoint.

    `on_dumped` is called with the container when that is done; until then it goes on.
    """
    archive = context.workspace / "checkpoint.tar"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(context, engine, base.layout, context.recipe.container, undo)
            check_user(engine, running, context.recipe.container)
        warm = warm_up(context, engine, running)
        has_tmp = has_directory(engine.proc / str(running.pid) / "root", "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
        on_dumped(running)
    return RuntimeCheckpoint(archive, warm, has_tmp)


def run_and_dump(context: BuildContext, engine: LocalEngine, base: BaseImage, layout: Path) -> SelfCheckpoint:
    """Start the container below the launcher, bring it to the state it is to be restored in, and have it dumped.

    What it has changed in its file system becomes a layer in `layout`, for that is gone with the container.
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
    """Have the image in the workspace restore itself, and the runtime take the checkpoint of what runs then.

    Its clocks are the node's: a runtime cannot dump namespaces that the launcher would make to keep them.
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
        has_tmp = has_directory(engine.proc / str(running.pid) / "root", "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("second checkpoint"):
            running.checkpoint(archive, context.options.checkpoint_timeout_s)
    # What was mapped from the image was found safe to be, and what has changed of it is so, too.
    programs = {**launched.warm.programs, f"/{MEMORY}": Program()}
    return RuntimeCheckpoint(archive, replace(launched.warm, programs=programs), has_tmp)


def start_container(
    context: BuildContext, engine: LocalEngine, layout: Path, container: Container, undo: contextlib.ExitStack
) -> CriContainer:
    """Start a container of the image in a layout; `undo` ends it, and makes the engine forget the image."""
    image = f"localhost/warmstart/base:{context.workspace.name}"
    undo.enter_context(undoing(partial(engine.cri.remove_image, image)))
    engine.import_image(layout, image, context.progress.note)
    return undo.enter_context(engine.cri.start(container, image, context.recipe.name))


def warm_up(
    context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer, inner_pid: int = 1
) -> WarmState:
    """Bring a container that was started to the state it is to be restored in; `inner_pid` is the application's."""
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
    """Wait as the kubelet would; seconds from the request to create the container until its probe first succeeded.

    The probes' own periods are too coarse to measure with, so the first success is awaited on its own before.
    """
    wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
    cold_s = time.monotonic() - running.requested_at
    wait_ready(running, container.startup_probe, container.readiness_probe, started=running.started_at)
    return cold_s


def check_user(engine: LocalEngine, running: CriContainer | LauncherContainer, container: Container) -> None:
    """Hold the container to its runAsNonRoot, which CRI leaves to whoever calls it.

    Raises:
        AppError: it runs as root all the same.
    """
    if container.security_context.run_as_non_root and (engine.proc / str(running.pid)).stat().st_uid == 0:
        brief = "container.securityContext.runAsNonRoot is set, but the image's user is root"
        raise AppError(brief, hint="set runAsUser, or use an image with a user other than root")


def check_before_dump(context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer) -> None:
    """Say what would keep the container from being dumped or restored.

    Connections of the probe and the warm-up may still be closing; those are given a moment.
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


def has_directory(root: Path, path: str) -> bool:
    """Whether a container has a directory of that path; links lead where they lead in the container.

    Args:
        root: its root directory, a /proc/PID/root.
        path: absolute, in the container.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_in_root(top, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(top)
    return True
