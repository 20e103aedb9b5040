"""Measure the start of a container, its memory, and the latency of its first requests.

Time counts from the request to create the container until its probe first succeeds. The pod's sandbox takes the same
time in all ways of starting, and is measured separately. Memory is read after the probe has succeeded.
Formats: proc_pid_smaps(5) for the memory of processes, cgroups(7) for that of their cgroup.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from warmstart.build.beside import ALONE, Beside
from warmstart.build.verify import read_identities
from warmstart.core.errors import AppError, VerifyError, WarmstartError
from warmstart.dump.proc.container import GONE, read_namespace
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.node.cgroup import read_cgroup_file
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.probe.readiness import find_limit_s, first_probe, restored_probe, wait_first_success
from warmstart.recipe.model import Container, HttpGet

REQUEST_S = 30.0
# A failed replica is started again, as by a kubelet, but without the kubelet's delay.
ATTEMPTS = 10
KIB = 1024


@dataclass(frozen=True)
class Way:
    """One way to start an application.

    Attributes:
        name: `cold`, `plain` (restored, all memory read from the dump) or `mapped` (restored, memory mapped).
        image: name of its image in the engine.
        identity: fingerprint of the restored process (see `warmstart.dump.criu.fingerprint`); empty for a cold start.
    """

    name: str
    image: str
    identity: str = ""


@dataclass(frozen=True)
class Memory:
    """The memory of all processes of some containers, in bytes.

    Attributes:
        anonymous_bytes: private memory, shared with no other container.
        file_bytes: file pages in the page cache, shared by all containers on a node.
        proportional_bytes: both, with a page mapped by several processes divided among them. Over all these
            processes, each page counts once.
        cgroup_bytes: memory charged to the containers; a file page is charged to the first user.
    """

    anonymous_bytes: int
    file_bytes: int
    proportional_bytes: int
    cgroup_bytes: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.anonymous_bytes + other.anonymous_bytes,
            self.file_bytes + other.file_bytes,
            self.proportional_bytes + other.proportional_bytes,
            self.cgroup_bytes + other.cgroup_bytes,
        )


@dataclass(frozen=True)
class Start:
    """One start, step by step, in seconds.

    Attributes:
        sandbox_s: time until the pod's sandbox existed.
        create_s: time from then until the container was created.
        start_s: time from then until the runtime reported it as running, including a restore.
        answer_s: time from then until the probe succeeded.
        memory: memory after that.
        requests_s: duration of each of the first requests.
    """

    sandbox_s: float
    create_s: float
    start_s: float
    answer_s: float
    memory: Memory
    requests_s: tuple[float, ...] = ()

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
    requests: int = 0,
    action: HttpGet | None = None,
    beside: Beside = ALONE,
) -> Start:
    """Start a container once, and end it.

    Args:
        engine: engine that has the image.
        way: way of starting.
        container: container of the pod.
        name: name of the pod.
        requests: number of requests to send after it is ready.
        action: request to send.
        beside: the company of the container.

    Raises:
        AppError: the container did not become ready, or a request failed.
        EngineError: the runtime refused.
        VerifyError: the container should have been restored and was not, or the reverse.
    """
    with beside.start(engine, container, way.image, name) as running:
        ready = _await(running, container, way)
        _check_way(engine, running, way)
        return Start(
            sandbox_s=running.requested_at - running.pod_requested_at,
            create_s=running.created_at - running.requested_at,
            start_s=running.started_at - running.created_at,
            answer_s=ready - running.started_at,
            memory=read_memory(engine.proc, running.pid),
            requests_s=time_requests(running, action, requests) if action else (),
        )


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
                running = stack.enter_context(beside.start(engine, container, way.image, f"{name}-{attempt}"))
                ready = _await(running, container, way)
                _check_way(engine, running, way)
            except WarmstartError as error:
                failures.append(error.brief)
                continue
            undo.push(stack.pop_all())
            return _Replica(running, ready, tuple(failures))
    return _Replica(None, 0.0, tuple(failures))


def time_requests(running: CriContainer, action: HttpGet, count: int) -> tuple[float, ...]:
    """Send requests one after the other, each on a new connection, and return their durations in seconds.

    Raises:
        AppError: a request failed.
    """
    durations = []
    for number in range(count):
        start = time.monotonic()
        outcome = perform(running, action, TimeLimit(REQUEST_S))
        durations.append(time.monotonic() - start)
        if not outcome.ok:
            raise AppError(f"request {number + 1} of {count}, {describe(running, action)}: {outcome.seen}")
    return tuple(durations)


def read_memory(proc: Path, first_pid: int) -> Memory:
    """Read the memory of a container.

    Args:
        proc: the /proc of the PID namespace that `first_pid` refers to.
        first_pid: init process of the container; all processes of its PID namespace count.
    """
    totals = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    for pid in _list_namespace(proc, first_pid):
        with contextlib.suppress(*GONE):
            for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
                name, _, value = line.partition(":")
                if name in totals:
                    totals[name] += int(value.split()[0]) * KIB
    return Memory(
        anonymous_bytes=totals["Anonymous"],
        file_bytes=totals["Rss"] - totals["Anonymous"],
        proportional_bytes=totals["Pss"],
        cgroup_bytes=_read_cgroup_bytes(proc, first_pid),
    )


def read_available_bytes() -> int:
    """Read the memory available for new programs, by the kernel's estimate (MemAvailable in proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:"))


def _await(running: CriContainer, container: Container, way: Way) -> float:
    """Wait until a container is ready, and return the clock's reading when it was."""
    probe = restored_probe(container) if way.identity else first_probe(container)
    return wait_first_success(running, probe, limit_s=find_limit_s(container)).at


def _check_way(engine: LocalEngine, running: CriContainer, way: Way) -> None:
    if running.restored != bool(way.identity):
        actual, expected = ("restored", "started cold") if running.restored else ("started cold", "restored")
        raise VerifyError(f"the runtime {actual} {way.image}: expected it to be {expected}")
    if way.identity and way.identity not in read_identities(engine.proc, running.pid):
        raise VerifyError(f"{way.image} started a new process instead of restoring the dumped one")


def _list_namespace(proc: Path, first_pid: int) -> list[int]:
    home = read_namespace(proc, first_pid, "pid")
    found = []
    for name in os.listdir(proc):  # noqa: PTH208  (names only)
        if name.isdigit():
            # A process that we have no permission to read is not the container's.
            with contextlib.suppress(*GONE, PermissionError):
                if read_namespace(proc, int(name), "pid") == home:
                    found.append(int(name))
    return found


def _read_cgroup_bytes(proc: Path, pid: int) -> int:
    names = ("memory.current", "memory.usage_in_bytes")
    return next((int(text) for name in names if (text := read_cgroup_file(proc / str(pid), name))), 0)
