"""Send the first requests to a container, and measure their latency and what they use.

Formats: proc_pid_stat(5) for page faults, and /proc/PID/task/TID/schedstat for the processor time of a thread in
nanoseconds.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.bench.memory import read_memory
from warmstart.core.errors import AppError
from warmstart.core.text import printable
from warmstart.dump.proc.container import GONE, list_namespace
from warmstart.engine.cri import CriContainer
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.recipe.model import HttpGet

REQUEST_S = 30.0
# The number in the name of a thread of a pool.
_NUMBER = re.compile(r"[-#_ ]*\d+$")
# Field of /proc/PID/stat, counted after the name of the program.
_MINOR_FAULTS = 7


@dataclass(frozen=True)
class Use:
    """The use of a container by its first requests, all together.

    Attributes:
        requests: their number.
        cpu_s: processor time, also of the work that went on in the background meanwhile.
        faults: minor page faults.
        anonymous_bytes: private memory after them.
        threads_s: processor time by the name of the thread, without the number at its end. Threads that ended meanwhile
            are left out.
    """

    requests: int
    cpu_s: float
    faults: int
    anonymous_bytes: int
    threads_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Requests:
    """The first requests to a container, one after the other.

    Attributes:
        durations_s: duration of each.
        uses: use by the first 1, 10, 100, ... of them, and by all.
    """

    durations_s: tuple[float, ...] = ()
    uses: tuple[Use, ...] = ()


def find_ends(count: int) -> tuple[int, ...]:
    """Return how many of the first requests are looked at together: powers of ten up to `count`, and `count`."""
    powers = [10**power for power in range(len(str(count))) if 10**power < count]
    return (*powers, count) if count else ()


def send_requests(
    proc: Path, running: CriContainer, actions: Sequence[HttpGet], count: int, *, idle_s: float = 0.0
) -> Requests:
    """Send the requests of `actions` in turn, `count` in all, each on a new connection.

    Args:
        proc: the /proc of the container's processes.
        running: the container.
        actions: requests.
        count: number of requests to send.
        idle_s: seconds to wait before the first.

    Raises:
        AppError: a request failed.
    """
    if not count:
        return Requests()
    time.sleep(idle_s)
    durations: list[float] = []
    uses: list[Use] = []
    before = _read_counters(proc, running)
    for end in find_ends(count):
        numbers = range(len(durations), end)
        durations += [_send(running, actions[number % len(actions)], number, count) for number in numbers]
        counters, memory = _read_counters(proc, running), read_memory(proc, running.pid)
        uses.append(counters.since(before, end, memory.anonymous_bytes))
    return Requests(tuple(durations), tuple(uses))


def _send(running: CriContainer, action: HttpGet, number: int, count: int) -> float:
    start = time.monotonic()
    outcome = perform(running, action, TimeLimit(REQUEST_S))
    duration_s = time.monotonic() - start
    if not outcome.ok:
        raise AppError(f"request {number + 1} of {count}, {describe(running, action)}: {outcome.seen}")
    return duration_s


@dataclass(frozen=True)
class _Counters:
    """What a container has used since it was created; the names and processor times of its threads by number."""

    cpu_s: float
    faults: int
    threads: Mapping[tuple[int, int], tuple[str, float]]

    def since(self, before: _Counters, requests: int, anonymous_bytes: int) -> Use:
        spent_s: defaultdict[str, float] = defaultdict(float)
        for key, (name, seconds) in self.threads.items():
            spent_s[name] += seconds - before.threads.get(key, ("", 0.0))[1]
        threads_s = {name: seconds for name, seconds in spent_s.items() if seconds > 0}
        cpu_s, faults = self.cpu_s - before.cpu_s, self.faults - before.faults
        return Use(requests, cpu_s, faults, anonymous_bytes, threads_s)


def _read_counters(proc: Path, running: CriContainer) -> _Counters:
    faults = 0
    threads: dict[tuple[int, int], tuple[str, float]] = {}
    for pid in list_namespace(proc, running.pid):
        with contextlib.suppress(*GONE):
            process = proc / str(pid)
            faults += int((process / "stat").read_text().rpartition(")")[2].split()[_MINOR_FAULTS])
            for thread in (process / "task").iterdir():
                with contextlib.suppress(*GONE):
                    spent_ns = int((thread / "schedstat").read_text().split()[0])
                    threads[pid, int(thread.name)] = (_read_name(thread), spent_ns / 1e9)
    return _Counters(running.activity().cpu_s, faults, threads)


def _read_name(thread: Path) -> str:
    """Return the name of a thread without its number, so that those of a pool have one name."""
    name = printable((thread / "comm").read_bytes().decode(errors="replace").rstrip("\n"))
    return _NUMBER.sub("", name) or name
