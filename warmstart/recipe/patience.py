"""Probes as a build asks them: at once, every second, and for a long time, because nobody is served meanwhile."""

from __future__ import annotations

from typing import Any

from warmstart.recipe.pods import Block

#: A build waits at least this long, in seconds.
PATIENCE_S = 120
_LONGEST_S = 3600
_DEFAULTS = {"initialDelaySeconds": 0, "periodSeconds": 10, "failureThreshold": 3}


def make_patient(probe: Block) -> Block:
    """Return a probe of a pod for a build, which waits at least as long as the pod would."""
    delay, period, failures = (_number(probe.get(key), default) for key, default in _DEFAULTS.items())
    kept = {key: value for key, value in probe.items() if key not in _DEFAULTS}
    kept.pop("terminationGracePeriodSeconds", None)
    limit = min(max(PATIENCE_S, delay + period * failures), _LONGEST_S)
    return {**kept, "periodSeconds": 1, "failureThreshold": limit}


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
