"""What a build has to say at its end, as rows for a table."""

from __future__ import annotations

from statistics import median

from warmstart.core.steps import Steps
from warmstart.core.text import format_bytes, format_seconds
from warmstart.result import Built

# Steps whose length is the application's or the network's doing, not warmstart's.
NOT_OURS = ("tools", "pull", "ready", "warm up", "publish")


def list_rows(built: Built, steps: Steps) -> list[tuple[str, str]]:
    """Names and values, the most wanted first."""
    restored_s = median(restore.first_success_s for restore in built.restores)
    layers = built.image.manifest.layers
    return [
        ("image", built.name),
        ("digest", built.image.manifest.digest),
        ("published", built.destination),
        ("cold start", f"{format_seconds(built.cold_s)} to the first success of the probe"),
        ("restored start", f"{format_seconds(restored_s)} (median of {len(built.restores)})"),
        ("ratio", f"{built.cold_s / restored_s:.1f} × faster"),
        (
            "memory",
            f"{format_bytes(built.dump.pages_bytes)}, of which {format_bytes(built.dump.memory.size_bytes)} are mapped",
        ),
        ("size", f"{format_bytes(sum(layer.size_bytes for layer in layers))} compressed, in {len(layers)} layers"),
        ("added", f"{format_bytes(built.added_bytes)} to the base image"),
        ("own cost", _own_cost(steps)),
    ]


def _own_cost(steps: Steps) -> str:
    own = {name: seconds for name, seconds in steps.durations_s.items() if name not in NOT_OURS}
    parts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in own.items())
    return f"{format_seconds(sum(own.values()))}: {parts}"
