"""Rehearse during a warm-up what a restored application meets first: ended waits, its probe, closed connections.

HotSpot takes compiled code back when it does something for the first time, and each restored container would compile it
again. A checkpoint interrupts each wait in the kernel. When the application continues, most waits with a limit have
also reached it. Java's `EPollSelectorImpl.doSelect` has a branch for each of the two, and Tomcat's poller one more for
a wait without an event.

With `tcp: close`, a restored application finds its connections closed. Drivers and pools handle that in code that each
request runs too, and connect again: SCRAM-SHA-256, for example, computes 4,096 hashes for a password.

The launcher sends the requests of `afterRestore` from inside of the pod, to localhost. Tomcat has a branch for the
first request of another client, and one for a host that is a name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import Target
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import perform
from warmstart.recipe.model import HttpGet, Probe, Step

#: A long interruption. Servers wait for a second, such as Tomcat's poller.
LONG_S = 1.2
#: The first turn with a long interruption and closed connections.
FIRST_LONG = 8
#: The turn in which compilers know the application well. The shortest warm-up until it is steady has 50 turns.
LATE = 32


@dataclass
class Rehearsal:
    """What is done again and again between the steps of a warm-up.

    Attributes:
        target: the container.
        probe: its readiness probe, if it has one.
        steps: steps of the warm-up. Their requests may fail here, while the application finds its connections closed.
        closes: whether connections are closed.
        move: called before that, to move other hosts.
        once: done once, in the turn LATE; returns the seconds of a rest.
        turns: how often it was done.
        closed: how many connections were closed.
    """

    target: Target
    probe: Probe | None
    steps: Sequence[Step] = ()
    closes: bool = False
    move: Callable[[], object] = lambda: None
    once: Callable[[], float] = lambda: 0.0
    turns: int = 0
    closed: int = 0

    def __call__(self) -> float:
        """Interrupt the container's waits, close its connections, and ask it, whatever it answers.

        Returns:
            The seconds of a rest.
        """
        self.turns += 1
        is_long, closed = self._is_long(), 0
        with contextlib.suppress(EngineError):  # if it has ended, the next attempt says so
            self.target.interrupt(LONG_S if is_long else 0.0)
            if is_long and self.closes:
                self.move()
                closed = self.target.close_connections()
        if self.probe is not None:
            perform(self.target, self.probe.action, TimeLimit(self.probe.timeout_s), drain=True)
        self.closed += closed
        requests = [step for step in self.steps if isinstance(step.action, HttpGet)]
        _send(self.target, requests * closed)
        if requests:
            with contextlib.suppress(EngineError):
                _send(self.target.from_inside(), [requests[self.turns % len(requests)]])
        return self.once() if self.turns == LATE else 0.0

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Add to an error of the application in a `with` block that connections were closed before."""
        try:
            yield
        except AppError as error:
            if self.closed:
                note = (
                    f"{self.closed} of its connections had been closed, as they are in a restored container: does it "
                    "connect again?"
                )
                error.details = (note, *error.details)
            raise

    def _is_long(self) -> bool:
        """Tell whether this turn is long: FIRST_LONG, and whenever the turns have doubled since.

        A compiler may not have seen the code before, or may have compiled it since. More would make builds slower.
        """
        doublings, rest = divmod(self.turns, FIRST_LONG)
        return rest == 0 and doublings.bit_count() == 1


def _send(target: Target, requests: Iterable[Step]) -> None:
    """Send requests, whatever the answers."""
    for step in requests:
        perform(target, step.action, TimeLimit(step.timeout_s), drain=True)
