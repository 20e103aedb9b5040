"""The container of a build: started, ready, warmed up, and found fit for the checkpoint."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.hook_channel import HookChannel, HookProcess
from warmstart.build.hooks import prepare_hooks
from warmstart.build.kernel_state import require_kept_by_runtime, require_kept_by_self
from warmstart.build.launched import LauncherContainer
from warmstart.build.moving import ServiceMoves
from warmstart.build.result import WarmState
from warmstart.core.cpu import read_features
from warmstart.core.errors import AppError, PreflightError
from warmstart.core.progress import Progress
from warmstart.core.undo import undoing
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.dump.edit.programs import read_programs
from warmstart.dump.preflight.check import check_processes, raise_on_errors
from warmstart.dump.preflight.finding import Finding
from warmstart.dump.preflight.self import check_launched
from warmstart.dump.proc.container import GONE, open_below_root, read_tree
from warmstart.dump.state.read import read_state
from warmstart.engine.cri import CriContainer, OnCreated
from warmstart.engine.local import HostRuntime, LocalEngine, connect_engine, start_engine
from warmstart.engine.target import Target
from warmstart.probe.diagnosis import describe_end, read_log_end
from warmstart.probe.java import REST_S, prepare_java, rehearse_java
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success, wait_ready
from warmstart.probe.rehearsal import Rehearsal
from warmstart.probe.warmup import StepResult, WarmupProgress, run_steps
from warmstart.recipe.model import Container, Prepare, Probe, Recipe, Restorer

SUBNET = "10.88.0.0/24"
CLOSING_S = 3.0


class SelfRefusedError(PreflightError):
    """The application can be dumped, but an image of it cannot restore itself."""


@contextlib.contextmanager
def open_engine(context: BuildContext, host: HostRuntime | None, stores: Sequence[Path] = ()) -> Iterator[LocalEngine]:
    """Open the engine that runs the container: the host's CRI-O if the user named one, else one of our own."""
    with contextlib.ExitStack() as ended:
        with context.progress.step("engine"):
            if host is None:
                opener = start_engine(context.session, "build", subnet=SUBNET, stores=stores)
            else:
                opener = connect_engine(context.session, host)
            engine = ended.enter_context(opener)
        yield engine


def with_hooks(context: BuildContext, base: Path) -> BuildContext:
    """Add the agents for the recipe's hooks to the context; arguments and errors as for `prepare_hooks`."""
    cache = context.options.cache
    hooks = prepare_hooks(context.recipe, base, context.workspace, cache, context.blobs, context.progress)
    return replace(context, hooks=hooks)


def import_image(context: BuildContext, engine: LocalEngine, layout: Path, undo: contextlib.ExitStack) -> str:
    """Import the image in a layout into the engine's store, and return its name there; `undo` removes it."""
    image = f"localhost/warmstart/{layout.name}:{context.workspace.name}"
    undo.enter_context(undoing(partial(engine.cri.remove_image, image)))
    engine.import_image(layout, image, context.progress.note)
    return image


def start_container(
    context: BuildContext,
    engine: LocalEngine,
    layout: Path,
    container: Container,
    undo: contextlib.ExitStack,
    on_created: OnCreated = lambda _: None,
) -> CriContainer:
    """Start a container of a base image, with the agents of the hooks if the recipe has any.

    Args:
        context: of the build.
        engine: where it runs.
        layout: the base image.
        container: the recipe's container, or the launcher's around it.
        undo: ends it, and removes the image from the engine's store.
        on_created: called with the container before its command starts.
    """
    if context.hooks:
        layout, container = context.hooks.layout, context.hooks.prepare(container)
    image = import_image(context, engine, layout, undo)
    return undo.enter_context(context.beside.start(engine, container, image, context.recipe.name, on_created))


def warm_up(
    context: BuildContext,
    engine: LocalEngine,
    running: CriContainer | LauncherContainer,
    channel: HookChannel,
    inner_pid: int = 1,
    on_ready: Callable[[], object] = lambda: None,
) -> WarmState:
    """Bring a started container into the state to be checkpointed.

    Args:
        context: of the build.
        engine: where it runs.
        running: the container.
        channel: attached to the container if the recipe has hooks.
        inner_pid: the application, as numbered in the container.
        on_ready: called before the warm-up.
    """
    recipe, progress = context.recipe, context.progress
    with progress.step("ready"):
        cold_s = await_ready(running, recipe.container, channel.announced if context.hooks else lambda: False)
    on_ready()
    with progress.step("warm up"):
        steps = run_warmup(context, running, inner_pid)
    # Hooks may close its sockets until the restore.
    ports = _find_ports(running, recipe)
    hooks = run_hooks(context, engine, running, channel)
    with progress.step("preflight"):
        check_before_dump(context, engine, running)
        must_suit_runtime = _must_suit_runtime(running, recipe)
        # Below the launcher, Landlock is not available.
        with_restrictions = must_suit_runtime and not isinstance(running, LauncherContainer)
        state = read_state(engine.proc, running.pid, with_restrictions=with_restrictions)
        if must_suit_runtime:
            require_kept_by_runtime(state, force=context.options.force)
        if isinstance(running, LauncherContainer):
            with refusing_self(recipe):
                require_kept_by_self(state, force=context.options.force)
        identity = read_identity(engine.proc, running.pid)
        programs = read_programs(engine.proc, running.pid)
        return WarmState(identity, cold_s, programs, read_features(), state, ports, hooks, steps)


def run_warmup(context: BuildContext, target: Target, inner_pid: int) -> tuple[StepResult, ...]:
    """Run the steps before the checkpoint, and return the results of those of the warm-up.

    Args:
        context: of the build.
        target: the container, ready.
        inner_pid: the application, as numbered in the container.

    Raises:
        AppError: a step failed, or a service has ended.
    """
    recipe, progress = context.recipe, context.progress
    probe = first_probe(recipe.container)
    steady = [step for step in recipe.warmup if step.steady_limit_s]
    rehearsal = Rehearsal(target, probe if isinstance(probe, Probe) else None, steady, recipe.close_tcp)
    if recipe.prepare is Prepare.JAVA:
        if steady:
            rehearsal.once = partial(_rest_java, target, inner_pid, progress)
        else:
            rehearse_java(target, inner_pid)
    if steady and recipe.close_tcp:
        rehearsal.move = ServiceMoves(context.beside.services, target)

    def note(done: WarmupProgress) -> None:
        progress.note(str(done))

    with rehearsal.explaining():
        results = run_steps(target, recipe.warmup, pid=inner_pid, on_progress=note, between=rehearsal)
    for index, result in enumerate(results):
        if not result.steady:
            progress.warn(
                f"warmup[{index}]: the application was not steady after {result.elapsed_s:.0f} s and "
                f"{len(result.goes_s)} attempts ({result.batches[-1]}): raise its limitSeconds"
            )
    run_steps(target, recipe.before_checkpoint, pid=inner_pid, field="beforeCheckpoint")
    if recipe.prepare is Prepare.JAVA:
        progress.note("prepare the JVM")
        prepare_java(target, inner_pid)
    context.beside.check()
    return results


def _rest_java(target: Target, pid: int, progress: Progress) -> float:
    """Let a JVM collect garbage and rest in the middle of its warm-up, and return the seconds."""
    progress.note(f"rest for {REST_S:.0f} s")
    rehearse_java(target, pid)
    time.sleep(REST_S)
    return REST_S


def _find_ports(running: CriContainer | LauncherContainer, recipe: Recipe) -> tuple[int, ...]:
    """Return the ports that a restored container must listen on, if it has no probe."""
    if recipe.container.settled is None:
        return ()
    activity = running.activity()
    return tuple(sorted(activity.ports | activity.inner_ports))


def run_hooks(
    context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer, channel: HookChannel
) -> tuple[HookProcess, ...]:
    """Have the application's hooks before the checkpoint called, and return the processes that have some.

    Raises:
        AppError: a hook failed or did not end, or the container has ended.
    """
    if context.hooks is None:
        return ()

    def check() -> None:
        if (state := running.state()).exited:
            brief = f"the container exited during its beforeCheckpoint hooks: {describe_end(state)}"
            raise AppError(brief, details=read_log_end(running))

    def list_pids() -> set[int]:
        return {process.pids[-1] for process in read_tree(engine.proc, running.pid) if not process.is_zombie}

    with context.progress.step("hooks"), explaining_by_log(running):
        return context.hooks.request_checkpoint(channel, context.recipe.container, list_pids, check)


@contextlib.contextmanager
def explaining_by_log(running: CriContainer | LauncherContainer) -> Iterator[None]:
    """Add the end of the container's log to an error of the application that has no details."""
    try:
        yield
    except AppError as error:
        error.details = error.details or tuple(read_log_end(running))
        raise
    except GONE:
        brief = "the application ended during its beforeCheckpoint hooks"
        raise AppError(brief, details=read_log_end(running)) from None


def check_user(engine: LocalEngine, running: CriContainer, container: Container) -> None:
    """Enforce runAsNonRoot, which CRI leaves to its caller.

    Nothing happens if the container has ended already: the wait for its readiness reports that.

    Raises:
        AppError: the container runs as root.
    """
    with contextlib.suppress(*GONE):
        refuse_root(container, is_root=(engine.proc / str(running.pid)).stat().st_uid == 0)


def refuse_root(container: Container, *, is_root: bool) -> None:
    """Enforce runAsNonRoot for an application of which it is known whether it is root.

    Below the launcher, its manifest tells: /proc shows the user only when the launcher has changed it.

    Raises:
        AppError: the container runs as root.
    """
    if container.security_context.run_as_non_root and is_root:
        brief = "container.securityContext.runAsNonRoot is set, but the image's user is root"
        raise AppError(brief, hint="set runAsUser, or use an image with a user other than root")


def await_ready(
    running: CriContainer | LauncherContainer, container: Container, announced: Callable[[], bool] = lambda: False
) -> float:
    """Wait as the kubelet would, or until the application asks for its checkpoint.

    Args:
        running: the container.
        container: the recipe's container.
        announced: whether the application has asked for its checkpoint, which stands for the probes.

    Returns:
        Seconds from the request to create the container until its probe first succeeded. The probe's own period is
        too coarse for that, so the first success is awaited separately.
    """
    first = wait_first_success(running, first_probe(container), limit_s=find_limit_s(container), announced=announced)
    cold_s = first.at - running.requested_at
    if not announced():
        wait_ready(running, container.startup_probe, container.readiness_probe, started=running.started_at)
    return cold_s


def check_before_dump(context: BuildContext, engine: LocalEngine, running: CriContainer | LauncherContainer) -> None:
    """Report what would prevent a dump or a restore.

    Connections of the probe and the warm-up may still be closing: they get CLOSING_S.

    Raises:
        SelfRefusedError: the image could only not restore itself, and the recipe does not ask for that.
        PreflightError: there is another such problem, and the user does not force the build.
    """
    deadline, recipe = time.monotonic() + CLOSING_S, context.recipe
    launched = isinstance(running, LauncherContainer)
    while True:
        findings = check_processes(
            engine.proc,
            running.pid,
            pod_ips=[running.address],
            close_tcp=recipe.close_tcp,
            volumes=recipe.container.volume_mounts,
            by_runtime=_must_suit_runtime(running, recipe),
            launched=launched,
        )
        refused: tuple[Finding, ...] = ()
        if isinstance(running, LauncherContainer):
            others = running.becomes_others(recipe.container)
            refused = check_launched(engine.proc, running.pid, recipe.container.volume_mounts, becomes_others=others)
        errors = [finding for finding in (*findings, *refused) if finding.is_error]
        if time.monotonic() > deadline or not all(error.code.startswith("tcp-") for error in errors) or not errors:
            break
        time.sleep(0.1)
    for finding in (*findings, *refused):
        if not finding.is_error or context.options.force:
            context.progress.warn(str(finding))
    raise_on_errors(findings, force=context.options.force)
    with refusing_self(recipe):
        raise_on_errors(refused, force=context.options.force)


def _must_suit_runtime(running: CriContainer | LauncherContainer, recipe: Recipe) -> bool:
    """Tell whether the image is not built if the runtime could not restore it.

    By default, that is found later, and the image restores itself.
    """
    if not isinstance(running, LauncherContainer):
        return True
    return Restorer.RUNTIME in recipe.restore and not recipe.restore_is_default


@contextlib.contextmanager
def refusing_self(recipe: Recipe) -> Iterator[None]:
    """Convert an error that only prevents an image from restoring itself, if the recipe does not ask for that.

    Raises:
        SelfRefusedError: in place of PreflightError.
    """
    try:
        yield
    except PreflightError as error:
        if not recipe.restore_is_default or recipe.needs_self or Restorer.RUNTIME not in recipe.restore:
            raise
        raise SelfRefusedError(error.brief, details=error.details, hint=error.hint) from error


def has_directory(proc: Path, pid: int, path: str) -> bool:
    """Tell whether the container of a process has a directory at an absolute path, following its own links."""
    try:
        with open_below_root(proc, pid, path, os.O_PATH | os.O_DIRECTORY):
            return True
    except OSError:
        return False
