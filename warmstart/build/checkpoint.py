"""Checkpoints: the runtime's of a container, and the launcher's of the application in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmstart.build.base import BaseImage
from warmstart.build.changed_files import complete_changes, warn_of_sparse
from warmstart.build.container import (
    check_before_dump,
    check_user,
    has_directory,
    refuse_root,
    start_container,
    warm_up,
)
from warmstart.build.context import BuildContext
from warmstart.build.hook_fifos import HookFifos
from warmstart.build.kernel_state import require_kept_by_runtime, settle
from warmstart.build.launched import (
    LauncherDirectories,
    await_application,
    find_working_dir,
    make_directories,
    wrap_container,
)
from warmstart.build.launcher_report import await_launcher, read_launcher_times
from warmstart.build.literals import find_literals
from warmstart.build.result import RuntimeCheckpoint, SelfCheckpoint
from warmstart.core.page_cache import evict
from warmstart.dump.edit.advice import read_single_pages
from warmstart.dump.edit.programs import Program
from warmstart.dump.proc.container import GONE, open_below_root
from warmstart.dump.proc.touched import FilePart, find_touched
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.image.compose import Run
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import (
    DIRECTORY,
    ENTRYPOINT,
    MEMORY,
    Identity,
    changes_no_files,
    find_run,
    pack_changes,
    update_sizes,
)
from warmstart.node.launcher import LauncherPrograms
from warmstart.probe.readiness import find_limit_s, restored_probe, wait_first_success
from warmstart.recipe.model import Container, Recipe

OnTouched = Callable[[CriContainer, tuple[FilePart, ...]], object]


def run_and_checkpoint(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    on_dumped: Callable[[CriContainer], object] = lambda _: None,
) -> RuntimeCheckpoint:
    """Start the container, warm it up, and have the runtime take its checkpoint.

    Args:
        context: of the build.
        engine: where it runs.
        base: its image.
        on_dumped: called with the container after the checkpoint, while it still runs.
    """
    archive = context.workspace / "checkpoint.tar"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            channel = undo.enter_context(contextlib.closing(HookFifos()))
            running = start_container(
                context,
                engine,
                base.layout,
                context.recipe.container,
                undo,
                # Before its first instruction, so that no answer is lost.
                on_created=lambda created: channel.attach(engine.proc, created.pid) if context.hooks else None,
            )
            check_user(engine, running, context.recipe.container)
        warm = warm_up(context, engine, running, channel)
        has_tmp = has_directory(engine.proc, running.pid, "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("checkpoint"):
            checkpoint(context, engine, running, archive)
            warm = replace(warm, state=settle(warm.state, engine.proc, running.pid))
        on_dumped(running)
        completion = complete_changes(context, running, archive, base.layout)
    return RuntimeCheckpoint(archive, warm, has_tmp, completion)


def checkpoint(context: BuildContext, engine: LocalEngine, running: CriContainer, archive: Path) -> None:
    """Have the runtime take a checkpoint.

    Raises:
        CheckpointError: it failed, or took too long.
    """
    # The host's own CRI-O is configured by the user.
    options = ["tcp-established"] if context.recipe.close_tcp and not engine.shared else []
    with engine.configured_criu(options):
        running.checkpoint(archive, context.options.checkpoint_timeout_s)


def run_and_dump(
    context: BuildContext,
    engine: LocalEngine,
    base: BaseImage,
    layout: Path,
    programs: LauncherPrograms,
    on_ready: Callable[[], object] = lambda: None,
) -> SelfCheckpoint:
    """Start the container under the launcher, warm it up, and have the launcher dump the application.

    Args:
        context: of the build.
        engine: where it runs.
        base: its image.
        layout: gets a layer with the files that the application changed, which are gone with the container.
        programs: the launcher and its CRIU.
        on_ready: called before the warm-up.
    """
    container, config = context.recipe.container, read_image(base.layout).config
    directories = LauncherDirectories(context.workspace / "launcher", context.workspace / "launcher-state")
    make_directories(directories, programs)
    directory = context.workspace / "launched"
    with contextlib.ExitStack() as undo:
        with context.progress.step("start"):
            running = start_container(
                context, engine, base.layout, wrap_container(container, config, directories), undo
            )
            launched = await_application(running, directories, find_working_dir(container, config))
            channel = undo.enter_context(contextlib.closing(HookFifos()))
            if context.hooks:
                channel.attach(engine.proc, launched.pid)
            refuse_root(container, is_root=launched.starts_as_root)
        warm = warm_up(context, engine, launched, channel, launched.inner_pid, on_ready)
        with context.progress.step("checkpoint"):
            launched.dump(context.options.checkpoint_timeout_s)
            warm = replace(warm, state=settle(warm.state, engine.proc, launched.pid))
            changes = launched.take_out(directory)
            warn_of_sparse(context, changes)
            untouched = changes_no_files(changes)
            layer = pack_changes(changes, layout, context.recipe.compression)
    environment = dict((*config.env, *container.env))
    return SelfCheckpoint(directory, find_image_run(context.recipe, base), layer, untouched, warm, environment)


def find_image_run(recipe: Recipe, base: BaseImage) -> Run:
    """Return how an image that restores itself is started."""
    return find_run(recipe.container, read_image(base.layout).config, find_literals(recipe))


def restore_and_look(
    context: BuildContext, engine: LocalEngine, launched: SelfCheckpoint, image: str, on_touched: OnTouched
) -> None:
    """Let an image restore itself, and find the parts of files that it touches until its first answer.

    Its container reads its memory from the disk, page by page. Arguments as for `restore_and_checkpoint`; `on_touched`
    is called with the container, which still runs, and the parts.

    Raises:
        AppError: it did not become ready.
        EngineError: the runtime refused.
        VerifyError: it started cold.
    """
    container = context.recipe.container
    writable = replace(container.security_context, read_only_root_filesystem=False)
    container = replace(container.run_by_image(), security_context=writable)
    prepare = partial(prepare_look, launched.identity)
    with context.beside.start(engine, container, image, context.recipe.name, prepare) as running:
        await_restored(container, running, launched)
        on_touched(running, read_touched(engine, running))


def prepare_look(identity: Identity, created: CriContainer) -> None:
    """Let a container that restores itself read single pages of its memory, none of which is in the page cache."""
    # Nothing of the container runs yet, but its links must not lead to files of the host.
    with open_below_root(created.engine.proc, created.pid, f"/{DIRECTORY}", os.O_PATH | os.O_DIRECTORY) as opened:
        directory = Path(f"/proc/self/fd/{opened}")
        identity.take(read_single_pages(directory / "checkpoint"))
        update_sizes(directory)
        evict(directory / Path(MEMORY).name)


def await_restored(container: Container, running: CriContainer, launched: SelfCheckpoint) -> None:
    """Wait until an image has restored itself and is ready. Errors as for `restore_and_look`."""
    # Hooks may have stopped its server, which starts again only in the image that is published.
    if not launched.warm.hooks:
        sign = restored_probe(container, connect=False)
        await_launcher(running, sign)
        wait_first_success(running, sign, limit_s=find_limit_s(container))
    read_launcher_times(running)


def read_touched(engine: LocalEngine, running: CriContainer) -> tuple[FilePart, ...]:
    """Return the parts of files that a container has touched; none if it has ended."""
    with contextlib.suppress(*GONE):
        return find_touched(engine.proc, running.pid, (f"/{MEMORY}",))
    return ()


def restore_and_checkpoint(
    context: BuildContext, engine: LocalEngine, launched: SelfCheckpoint, image: str, layout: Path
) -> RuntimeCheckpoint:
    """Let an image restore itself, and have the runtime take a checkpoint of the restored application.

    Its clocks are the node's: a runtime cannot dump the time namespace in which the launcher would keep them.

    Args:
        context: of the build.
        engine: where it runs.
        launched: the dump that the image holds.
        image: its name in the engine's store.
        layout: its layout.
    """
    archive = context.workspace / "checkpoint.tar"
    command = (*ENTRYPOINT[:-1], "--clocks", "node", *launched.run.entrypoint[len(ENTRYPOINT) - 1 :], *launched.run.cmd)
    container = replace(context.recipe.container, command=command, args=())
    with contextlib.ExitStack() as undo:
        with context.progress.step("restore"):
            running = undo.enter_context(context.beside.start(engine, container, image, context.recipe.name))
            await_restored(container, running, launched)
        with context.progress.step("second preflight"):
            check_before_dump(context, engine, running)
            require_kept_by_runtime(launched.warm.state, force=context.options.force)
        has_tmp = has_directory(engine.proc, running.pid, "/tmp")  # noqa: S108  (of the container)
        with context.progress.step("second checkpoint"):
            checkpoint(context, engine, running, archive)
        completion = complete_changes(context, running, archive, layout)
    # The memory file is safe to map, and so is what has changed since.
    programs = {**launched.warm.programs, f"/{MEMORY}": Program()}
    return RuntimeCheckpoint(archive, replace(launched.warm, programs=programs), has_tmp, completion)
