"""Tables of the benchmarks, in Markdown as the docs have them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from warmstart.core.text import format_seconds


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def describe_spread(seconds: Sequence[float]) -> tuple[str, str]:
    """Return the median and the range of some durations."""
    return format_seconds(
        statistics.median(seconds)
    ), f"{format_seconds(min(seconds))} to {format_seconds(max(seconds))}"


def format_ways(took_s: Mapping[str, Sequence[float]]) -> str:
    """Return a table of the ways to start, by name, the cold one first: the seconds of each start of a way."""
    cold_s, *_ = (statistics.median(seconds) for seconds in took_s.values())
    rows = [
        (name, *describe_spread(seconds), str(len(seconds)), f"{cold_s / statistics.median(seconds):.1f}")
        for name, seconds in took_s.items()
    ]
    return format_table(("", "median", "range", "times", "cold ÷ this"), rows)
