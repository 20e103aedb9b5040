"""Rehearse during a warm-up what a restored application meets first: waits that have ended, and its probe.

HotSpot takes compiled code back when it does something for the first time, and each restored container would compile it
again. A checkpoint interrupts each wait in the kernel. When the application continues, most waits with a limit have
also reached it. Java's `EPollSelectorImpl.doSelect` has a branch for each of the two, and Tomcat's poller one more for
a wait without an event.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from warmstart.core.errors import EngineError
from warmstart.engine.target import Target
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import perform
from warmstart.recipe.model import Probe

#: A long interruption. Servers wait for a second, such as Tomcat's poller.
LONG_S = 1.2
#: Turn of the first long interruption.
FIRST_LONG = 8


@dataclass
class Rehearsal:
    """What is done again and again between the steps of a warm-up.

    Attributes:
        target: the container.
        probe: its readiness probe, if it has one.
        turns: how often it was done.
    """

    target: Target
    probe: Probe | None
    turns: int = 0

    def __call__(self) -> None:
        """Interrupt the container's waits, and ask its probe, whatever it answers."""
        self.turns += 1
        with contextlib.suppress(EngineError):  # if it has ended, the next attempt says so
            self.target.interrupt(LONG_S if self._is_long() else 0.0)
        if self.probe is not None:
            perform(self.target, self.probe.action, TimeLimit(self.probe.timeout_s), drain=True)

    def _is_long(self) -> bool:
        """Tell whether this turn's interruption is long: at FIRST_LONG, and whenever the turns have doubled since.

        A compiler may not have seen the code before, or may have compiled it since. More would make builds slower.
        """
        doublings, rest = divmod(self.turns, FIRST_LONG)
        return rest == 0 and doublings.bit_count() == 1
