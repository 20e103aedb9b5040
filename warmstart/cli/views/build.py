"""What a build has to say at its end, as rows for a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from warmstart.build.result import BuildResult
from warmstart.build.verify import Restore
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes, format_seconds

# Steps whose length is the application's or the network's doing, not warmstart's.
NOT_OURS = ("tools", "pull", "ready", "warm up", "publish")


def list_rows(built: BuildResult, progress: Progress) -> list[tuple[str, str]]:
    """Names and values, the most wanted first."""
    restored_s = median(restore.first_success_s for restore in built.restores)
    by_runtime = [restore for restore in built.restores if restore.launcher_ms is None]
    by_itself = [restore for restore in built.restores if restore.launcher_ms is not None]
    layers = built.image.manifest.layers
    return [
        ("image", built.name),
        ("digest", built.image.manifest.digest),
        ("published", built.destination),
        ("cold start", f"{format_seconds(built.cold_s)} to the first success of the probe"),
        *_list_restores("restored start", by_runtime),
        *_list_restores("restored by itself", by_itself),
        ("ratio", f"{built.cold_s / restored_s:.1f} × faster"),
        (
            "memory",
            f"{format_bytes(built.dump.pages_bytes)}, of which {format_bytes(built.dump.memory.size_bytes)} are mapped",
        ),
        ("size", f"{format_bytes(sum(layer.size_bytes for layer in layers))} compressed, in {len(layers)} layers"),
        ("added", f"{format_bytes(built.added_bytes)} to the base image"),
        ("own cost", _own_cost(progress)),
    ]


def _list_restores(name: str, restores: Sequence[Restore]) -> Iterator[tuple[str, str]]:
    if not restores:
        return
    value = f"{format_seconds(median(restore.first_success_s for restore in restores))} (median of {len(restores)}"
    took = [restore.launcher_ms for restore in restores if restore.launcher_ms is not None]
    yield name, value + (f"; of it the launcher {median(took):.0f} ms)" if took else ")")


def _own_cost(progress: Progress) -> str:
    own = {name: seconds for name, seconds in progress.durations_s.items() if name not in NOT_OURS}
    parts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in own.items())
    return f"{format_seconds(sum(own.values()))}: {parts}"
