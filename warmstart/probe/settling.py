"""Tell from a container's activity whether it has settled: it has started, and has nothing left to do."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from warmstart.engine.target import Activity, Target

#: The largest share of one processor that a quiet container uses. An idle JVM takes 1 to 2 %.
QUIET_SHARE = 0.05
_POLL_S = 0.2


@dataclass(frozen=True)
class _Sample:
    at: float
    activity: Activity


class Settling:
    """The activity of a container in the last seconds.

    Args:
        quiet_s: seconds for which it must be quiet.
    """

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._samples: deque[_Sample] = deque()

    def add(self, at: float, activity: Activity) -> float | None:
        """Add a sample, and return the time since which the container has been quiet; None if it is not quiet yet.

        Listening on other ports is no sign of quiet: it begins anew.
        """
        if self._samples and _ports(self._samples[-1].activity) != _ports(activity):
            self._samples.clear()
        self._samples.append(_Sample(at, activity))
        while len(self._samples) > 1 and self._samples[1].at <= at - self._quiet_s:
            self._samples.popleft()
        first = self._samples[0]
        return first.at if first.at <= at - self._quiet_s and self._share() <= QUIET_SHARE else None

    def explain(self) -> str:
        """Describe the last seconds of a container that has not settled."""
        used = f"in its last {self._last_s():.1f} s it used {self._share():.0%} of a processor"
        return f"{used}, or began to listen on another port; {QUIET_SHARE:.0%} for {self._quiet_s:g} s is quiet"

    def _last_s(self) -> float:
        return self._samples[-1].at - self._samples[0].at

    def _share(self) -> float:
        used_s = self._samples[-1].activity.cpu_s - self._samples[0].activity.cpu_s
        return used_s / self._last_s() if self._last_s() else 0.0


def await_quiet(target: Target, quiet_s: float, limit_s: float) -> None:
    """Wait until compilers and the like have done their work. An application may as well always be busy.

    Args:
        target: the container.
        quiet_s: seconds for which it must be quiet.
        limit_s: seconds after which to go on in any case.

    Raises:
        EngineError: its activity cannot be read.
    """
    settling, give_up_at = Settling(quiet_s), time.monotonic() + limit_s
    while (now := time.monotonic()) < give_up_at and settling.add(now, target.activity()) is None:
        time.sleep(_POLL_S)


def _ports(activity: Activity) -> tuple[frozenset[int], frozenset[int]]:
    return activity.ports, activity.inner_ports
