"""Render a benchmark as one self-contained HTML page, without scripts, fonts or external images.

Plots are SVG without a viewBox. Positions along the axis are percentages, so a plot is as wide as the screen, and text,
dots and lines keep their size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from string import Template

from warmstart.bench.report import LABELS, STEPS, WARMED, find_verdict, list_bench_sections, list_facts
from warmstart.bench.requests import Requests
from warmstart.bench.result import Bench, Series, Spread
from warmstart.core.errors import HostError
from warmstart.core.text import Section, format_bytes, format_seconds

_TEMPLATE = Path(__file__).with_name("page.html")
_TICKS = 5
_STRIP_PX = 34
_BAR_PX = 22
_LINES_PX = 180
_AXIS_PX = 22
_WARMED = "warmed"


@dataclass(frozen=True)
class _Part:
    """A part of a bar: the attribute of a start or its memory, its colour in the style sheet, and its label."""

    name: str
    colour: str
    label: str


@dataclass(frozen=True)
class _Unit:
    """The format of a figure, and the scales of an axis as (size, name), the largest first."""

    write: Callable[[float], str]
    scales: tuple[tuple[float, str], ...]


_SECONDS = _Unit(format_seconds, ((1, "s"), (0.001, "ms"), (1e-6, "µs")))
_BYTES = _Unit(lambda size: format_bytes(round(size)), ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")))
_TIME = tuple(_Part(name, name.removesuffix("_s"), label) for name, label in STEPS.items())
_MEMORY = (
    _Part("anonymous_bytes", "own", "its own"),
    _Part("file_bytes", "shared", "pages of files, shared by replicas on a node"),
)


def write_page(path: Path, bench: Bench) -> None:
    """Write the page to a file.

    Raises:
        HostError: the file cannot be written.
    """
    try:
        path.write_text(render_page(bench))
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def render_page(bench: Bench) -> str:
    """Return the whole page."""
    parts = {
        "title": escape(f"{bench.subject}: cold and restored starts"),
        "subject": escape(bench.subject),
        "verdict": escape(find_verdict(bench)),
        "tiles": "".join(_tile(name, value) for name, value in _list_tiles(bench)),
        "figures": "".join(_list_figures(bench)),
        "tables": "".join(map(_table, list_bench_sections(bench))),
        "facts": "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in list_facts(bench).rows),
    }
    return Template(_TEMPLATE.read_text()).substitute(parts)


def _list_tiles(bench: Bench) -> list[tuple[str, str]]:
    best = bench.best
    return [
        ("restored, median", format_seconds(best.total.median)),
        ("cold, median", format_seconds(bench.cold.total.median)),
        ("own memory of a replica", format_bytes(round(best.median_of("anonymous_bytes")))),
        ("cold, own memory", format_bytes(round(bench.cold.median_of("anonymous_bytes")))),
        ("added to the base image", format_bytes(bench.added_bytes(best))),
    ]


def _list_figures(bench: Bench) -> Iterable[str]:
    def totals(series: Series) -> list[float]:
        return [start.total_s for start in series.starts]

    yield _strips("Every start", bench.series, totals, "a start")
    yield _strips("The restored ones, closer", bench.series[1:], totals, "a start")
    yield _stacks("Where the time goes", bench.series, _TIME, _SECONDS)
    yield _stacks("Memory of one replica", bench.series, _MEMORY, _BYTES)
    if bench.load.requests:
        yield _requests(bench)
        yield from (_processor(bench, number) for number in range(len(bench.cold.first)))
    bursts = [series for series in bench.series if series.burst and series.burst.ready_s]
    if bursts:
        title = f"{bench.load.replicas} replicas at once"
        yield _strips(
            title, bursts, lambda series: series.burst.ready_s if series.burst else (), "a replica that is ready"
        )


def _strips(title: str, shown: Sequence[Series], figures: Callable[[Series], Sequence[float]], dot: str) -> str:
    """Draw a line of dots for each way, with a stroke at the median and a dashed one at the 95th percentile."""
    top = max(max(figures(series)) for series in shown)
    middle = _STRIP_PX / 2
    rows = []
    for series in shown:
        values = figures(series)
        spread = Spread.of(values)
        colour = f"var(--{series.way.name})"
        marks = [
            f'<circle cx="{_at(value, top)}" cy="{middle:g}" r="5" fill="{colour}" fill-opacity=".45">'
            f"<title>{escape(format_seconds(value))}</title></circle>"
            for value in values
        ]
        for value, dashes in ((spread.median, ""), (spread.p95, ' stroke-dasharray="3 3"')):
            place = f'x1="{_at(value, top)}" x2="{_at(value, top)}" y1="3" y2="{_STRIP_PX - 3}"'
            marks.append(f'<line {place} stroke="{colour}" stroke-width="2"{dashes}/>')
        rows.append(_row(series, f"{format_seconds(spread.median)}, p95 {format_seconds(spread.p95)}"))
        rows.append(_plot(_STRIP_PX, "".join(marks), f"{len(values)} dots"))
    caption = f"A dot is {dot}; the stroke is at the median, the dashed one at the 95th percentile."
    return _figure(title, "".join(rows) + _axis(top, _SECONDS), caption)


def _stacks(title: str, shown: Sequence[Series], parts: Sequence[_Part], unit: _Unit) -> str:
    """Draw a bar for each way, made of the medians of its parts."""
    top = max(sum(series.median_of(part.name) for part in parts) for series in shown)
    rows = []
    for series in shown:
        at, bars = 0.0, []
        for part in parts:
            value = series.median_of(part.name)
            bars.append(
                f'<rect x="{_at(at, top)}" width="{_at(value, top)}" height="{_BAR_PX}" fill="var(--{part.colour})">'
                f"<title>{escape(f'{part.label}: {unit.write(value)}')}</title></rect>"
            )
            at += value
        rows.append(_row(series, unit.write(at)) + _plot(_BAR_PX, "".join(bars), unit.write(at)))
    return _figure(title, "".join(rows) + _axis(top, unit) + _key((part.colour, part.label) for part in parts), "")


def _requests(bench: Bench) -> str:
    """Draw a line for each way: the duration of the first, second, ... request, as the median of all starts."""
    lines = {series.way.name: _by_number([start.requests for start in series.starts]) for series in bench.series}
    if bench.warmed:
        lines[_WARMED] = _by_number(bench.warmed)
    durations = [duration for line in lines.values() for duration in line]
    low = math.floor(math.log10(min(durations)))
    high = max(low + 1, math.ceil(math.log10(max(durations))))

    def height(duration: float) -> float:
        return 100 - 100 * (math.log10(duration) - low) / (high - low)

    marks, texts = [], []
    for power in range(low, high + 1):
        y = f"{height(10.0**power):.2f}%"
        marks.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        texts.append(f'<text x="0" y="{y}" dy="4">{escape(format_seconds(10.0**power))}</text>')
    strokes = []
    for name, line in lines.items():
        last = max(1, len(line) - 1)
        points = " ".join(f"{100 * at / last:.2f},{height(duration):.2f}" for at, duration in enumerate(line))
        strokes.append(
            f'<polyline points="{points}" fill="none" stroke="var(--{name})" stroke-width="2"'
            ' vector-effect="non-scaling-stroke"/>'
        )
    inner = f'<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{"".join(strokes)}</svg>'
    labels = {**LABELS, _WARMED: WARMED}
    return _figure(
        f"The first {bench.load.requests} requests, one after the other",
        _plot(_LINES_PX, "".join([*marks, inner, *texts]), "latency by number of the request")
        + _key((name, labels[name]) for name in lines),
        "From the first request on the left to the last; the median of all starts, on a logarithmic scale.",
    )


def _by_number(runs: Sequence[Requests]) -> list[float]:
    return [median(durations) for durations in zip(*(run.durations_s for run in runs), strict=True)]


def _processor(bench: Bench, number: int) -> str:
    """Draw a bar for each way: the processor time of each of the first 1, 10, 100, ... requests."""
    bars = [(LABELS[series.way.name], series.way.name, series.first[number]) for series in bench.series]
    bars += [(WARMED, _WARMED, first) for first in bench.warmed_first[number : number + 1]]
    top = max(first.cpu_s for _, _, first in bars) or 1.0
    rows = []
    for label, colour, first in bars:
        value = f"{first.cpu_s * 1000:.2f} ms, {first.faults:.0f} page faults"
        bar = f'<rect x="0" width="{_at(first.cpu_s, top)}" height="{_BAR_PX}" fill="var(--{colour})"/>'
        rows.append(_head(label, value) + _plot(_BAR_PX, bar, value))
    count = bars[0][2].requests
    title = f"Processor time of the first {'request' if count == 1 else f'{count} requests, for each'}"
    return _figure(title, "".join(rows) + _axis(top, _SECONDS), "")


def _figure(title: str, content: str, caption: str) -> str:
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<h2>{escape(title)}</h2><figure>{content}{note}</figure>"


def _row(series: Series, value: str) -> str:
    return _head(LABELS[series.way.name], value)


def _head(name: str, value: str) -> str:
    return f'<div class="row"><b>{escape(name)}</b><span>{escape(value)}</span></div>'


def _plot(height_px: int, marks: str, label: str) -> str:
    head = f'<svg width="100%" height="{height_px}" role="img" aria-label="{escape(label)}">'
    return f'<div class="plot">{head}{marks}</svg></div>'


def _axis(top: float, unit: _Unit) -> str:
    """Draw an axis with round numbers, from 0 to the largest figure at the right end."""
    size, name = next((size, name) for size, name in unit.scales if top >= size or (size, name) == unit.scales[-1])
    step = _find_step(top / size)
    marks = ['<line class="grid" x1="0" x2="100%" y1="1" y2="1"/>']
    for number in range(int(top / size / step) + 1):
        x = _at(number * step * size, top)
        anchor = "start" if not number else "end" if number * step * size > 0.9 * top else "middle"
        marks.append(f'<line class="grid" x1="{x}" x2="{x}" y1="1" y2="7"/>')
        marks.append(f'<text x="{x}" y="19" text-anchor="{anchor}">{number * step:g} {name}</text>')
    return _plot(_AXIS_PX, "".join(marks), "axis")


def _find_step(top: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... that fits into `top` at most _TICKS times."""
    size = 10.0 ** math.floor(math.log10(top / _TICKS))
    return next(size * factor for factor in (1, 2, 5, 10) if top / (size * factor) <= _TICKS)


def _at(value: float, top: float) -> str:
    return f"{100 * value / top:.2f}%"


def _key(entries: Iterable[tuple[str, str]]) -> str:
    items = (f'<li><i style="background:var(--{colour})"></i>{escape(label)}</li>' for colour, label in entries)
    return f'<ul class="key">{"".join(items)}</ul>'


def _tile(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _table(section: Section) -> str:
    def cells(kind: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"

    rows = "".join(cells("td", row) for row in section.rows)
    head, caption = cells("th", section.columns), escape(section.title)
    return (
        f'<div class="wide"><table><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )
