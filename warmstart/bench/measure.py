"""Measure the start of a container, its memory, and its first requests.

Time counts from the request to create the container until its probe first succeeds. The pod's sandbox takes the same
time in all ways of starting, and is measured separately. Memory is read after the probe has succeeded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from warmstart.bench.memory import Memory, read_available_bytes, read_memory
from warmstart.bench.requests import Requests, send_requests
from warmstart.build.beside import ALONE, Beside
from warmstart.build.launcher_report import LauncherTimes, await_launcher, read_launcher_times
from warmstart.build.verify import read_identities
from warmstart.core.errors import VerifyError, WarmstartError
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.probe.readiness import find_limit_s, first_probe, restored_probe, wait_first_success
from warmstart.recipe.model import Container, HttpGet, Restorer

# A failed replica is started again, as by a kubelet, but without the kubelet's delay.
ATTEMPTS = 10


@dataclass(frozen=True)
class Way:
    """One way to start an application.

    Attributes:
        name: `cold`, or restored: `plain` by the runtime with all memory read from the dump, `mapped` by the runtime
            with mapped memory, or `self` by the image itself.
        image: name of its image in the engine.
        identity: fingerprint of the restored process (see `warmstart.dump.criu.fingerprint`); empty for a cold start.
        restorer: who restores; None for a cold start.
    """

    name: str
    image: str
    identity: str = ""
    restorer: Restorer | None = None

    def prepare(self, container: Container) -> Container:
        """Return the container of a pod that starts in this way: an image that restores itself has its command."""
        return container.run_by_image() if self.restorer is Restorer.SELF else container


@dataclass(frozen=True)
class Traffic:
    """Requests to send to a container that is ready.

    Attributes:
        actions: requests, sent in turn.
        count: number of requests to send.
        idle_s: seconds to wait before the first.
    """

    actions: Sequence[HttpGet] = ()
    count: int = 0
    idle_s: float = 0.0

    def run(self, running: CriContainer) -> Requests:
        """Send the requests; errors as for `send_requests`."""
        return send_requests(running.engine.proc, running, self.actions, self.count, idle_s=self.idle_s)


NO_TRAFFIC = Traffic()


@dataclass(frozen=True)
class Start:
    """One start, step by step, in seconds.

    Attributes:
        sandbox_s: time until the pod's sandbox existed.
        create_s: time from then until the container was created.
        start_s: time from then until the runtime reported it as running, including a restore.
        answer_s: time from then until the probe succeeded.
        memory: memory after that.
        cpu_s: processor time charged to the container until then. A runtime restores partly at its own expense.
        requests: the first requests.
        launcher: the launcher's times; None if it does not restore.
    """

    sandbox_s: float
    create_s: float
    start_s: float
    answer_s: float
    memory: Memory
    cpu_s: float = 0.0
    requests: Requests = field(default_factory=Requests)
    launcher: LauncherTimes | None = None

    @property
    def total_s(self) -> float:
        """The time from the request to create the container until the probe succeeded."""
        return self.create_s + self.start_s + self.answer_s


@dataclass(frozen=True)
class Burst:
    """Several starts at once.

    Attributes:
        ready_s: seconds from the request for all replicas until each one was ready, in order.
        failures: error of each failed attempt to start a replica.
        memory: memory of all ready replicas, at the end.
        available_bytes: memory available on the machine before, and when all were ready.
    """

    ready_s: tuple[float, ...]
    failures: tuple[str, ...]
    memory: Memory
    available_bytes: tuple[int, int]


def measure_start(
    engine: LocalEngine,
    way: Way,
    container: Container,
    name: str,
    *,
    traffic: Traffic = NO_TRAFFIC,
    beside: Beside = ALONE,
    examine: Callable[[CriContainer], object] = lambda _: None,
) -> Start:
    """Start a container once, and end it.

    Args:
        engine: engine that has the image.
        way: way of starting.
        container: container of the pod.
        name: name of the pod.
        traffic: requests to send after it is ready.
        beside: the company of the container.
        examine: called with the container when all is measured.

    Raises:
        AppError: the container did not become ready, or a request failed.
        EngineError: the runtime refused.
        VerifyError: the container should have been restored and was not, or the reverse.
    """
    with beside.start(engine, way.prepare(container), way.image, name) as running:
        ready = _await(running, container, way)
        cpu_s = running.activity().cpu_s
        launcher = _check_way(engine, running, way)
        start = Start(
            sandbox_s=running.requested_at - running.pod_requested_at,
            create_s=running.created_at - running.requested_at,
            start_s=running.started_at - running.created_at,
            answer_s=ready - running.started_at,
            memory=read_memory(engine.proc, running.pid),
            cpu_s=cpu_s,
            requests=traffic.run(running),
            launcher=launcher,
        )
        examine(running)
        return start


def measure_burst(
    engine: LocalEngine,
    way: Way,
    container: Container,
    replicas: int,
    *,
    on_ready: Callable[[CriContainer], object] = lambda _: None,
    beside: Beside = ALONE,
) -> Burst:
    """Start several replicas at once, and end them when all are ready.

    A failed replica is started again in a new pod, with up to ATTEMPTS attempts in all.

    Args:
        engine: engine that has the image.
        way: way of starting.
        container: container of the pods.
        replicas: number of replicas.
        on_ready: function called with each replica after all are ready and before memory is read.
        beside: the company of the containers.
    """
    before = read_available_bytes()
    stacks = [contextlib.ExitStack() for _ in range(replicas)]
    with ThreadPoolExecutor(replicas) as pool:
        began = time.monotonic()
        started = [
            pool.submit(_start_replica, engine, way, container, f"replica-{n}", stacks[n], beside)
            for n in range(replicas)
        ]
        try:
            outcomes = [future.result() for future in started]
            memory = Memory(0, 0, 0, 0)
            ready = [outcome.running for outcome in outcomes if outcome.running]
            for running in ready:
                on_ready(running)
            for running in ready:
                memory += read_memory(engine.proc, running.pid)
            after = read_available_bytes()
        finally:
            wait(started)
            list(pool.map(contextlib.ExitStack.close, stacks))
    return Burst(
        ready_s=tuple(sorted(outcome.ready - began for outcome in outcomes if outcome.running)),
        failures=tuple(failure for outcome in outcomes for failure in outcome.failures),
        memory=memory,
        available_bytes=(before, after),
    )


@dataclass(frozen=True)
class _Replica:
    """A running replica and the time it was ready, or None and 0; with the errors of failed attempts."""

    running: CriContainer | None
    ready: float
    failures: tuple[str, ...]


def _start_replica(
    engine: LocalEngine, way: Way, container: Container, name: str, undo: contextlib.ExitStack, beside: Beside
) -> _Replica:
    failures: list[str] = []
    for attempt in range(ATTEMPTS):
        with contextlib.ExitStack() as stack:
            try:
                opener = beside.start(engine, way.prepare(container), way.image, f"{name}-{attempt}")
                running = stack.enter_context(opener)
                ready = _await(running, container, way)
                _check_way(engine, running, way)
            except WarmstartError as error:
                failures.append(error.brief)
                continue
            undo.push(stack.pop_all())
            return _Replica(running, ready, tuple(failures))
    return _Replica(None, 0.0, tuple(failures))


def _await(running: CriContainer, container: Container, way: Way) -> float:
    """Wait until a container is ready, and return the clock's reading when it was."""
    probe = restored_probe(container) if way.restorer else first_probe(container)
    if way.restorer is Restorer.SELF:
        await_launcher(running, probe)
    return wait_first_success(running, probe, limit_s=find_limit_s(container)).at


def _check_way(engine: LocalEngine, running: CriContainer, way: Way) -> LauncherTimes | None:
    """Check that a container was started in this way, and return the launcher's times if it has restored it."""
    if running.restored != (way.restorer is Restorer.RUNTIME):
        actual, expected = ("restored", "started cold") if running.restored else ("started cold", "restored")
        raise VerifyError(f"the runtime {actual} {way.image}: expected it to be {expected}")
    launcher = read_launcher_times(running) if way.restorer is Restorer.SELF else None
    if way.identity and way.identity not in read_identities(engine.proc, running.pid):
        raise VerifyError(f"{way.image} started a new process instead of restoring the dumped one")
    return launcher
