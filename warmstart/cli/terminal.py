"""Output at a terminal: steps as they happen, errors, tables.

Text from a log, an image or a registry could control the terminal or style the output. Here, all text goes through
`safe` if rich reads it as markup, and through `printable_lines` otherwise, so that callers need not escape it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from warmstart.core.errors import WarmstartError
from warmstart.core.text import Section, printable, printable_lines

if TYPE_CHECKING:
    from warmstart.node.doctor import Check

# Columns of a line with a note that the spinner and the step take.
NOTE_MARGIN = 20


class TerminalListener:
    """Shows one line per step, with a spinner while it runs. Off a terminal, shows plain lines if `verbose`.

    `warnings` are those of all pipelines that it listens to, in order.
    """

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self._console = console
        self._shown = verbose or console.is_terminal
        self._status: Status | None = None
        self._step = ""
        self.warnings: list[str] = []

    def begin(self, step: str) -> None:
        """See `warmstart.core.progress.Listener`."""
        self._step = step
        if self._console.is_terminal:
            self._status = self._console.status(safe(step))
            self._status.start()

    def note(self, text: str) -> None:
        """See `warmstart.core.progress.Listener`."""
        if self._status is not None:
            room = max(0, self._console.width - NOTE_MARGIN)
            self._status.update(f"{safe(self._step)}  [dim]{escape(printable(text)[:room])}[/dim]")

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """See `warmstart.core.progress.Listener`."""
        self._stop_spinner()
        if self._shown:
            mark = "[green]✓[/green]" if ok else "[red]✗[/red]"
            self._console.print(f"{mark} {safe(step):<18} [dim]{elapsed_s:6.1f} s[/dim]", highlight=False)

    def warn(self, text: str) -> None:
        """See `warmstart.core.progress.Listener`."""
        self.warnings.append(text)
        self._console.print(f"[yellow]warning:[/yellow] {safe(text)}", highlight=False, soft_wrap=True)

    def _stop_spinner(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def show_error(console: Console, error: WarmstartError, *, debug: bool, label: str = "") -> None:
    """Show an error with its details and its hint, prefixed with the `label` of its part."""
    if debug:
        trace = printable_lines("".join(traceback.format_exception(error)))
        console.print(trace, markup=False, highlight=False, style="dim")
    where = f"{label}: " if label else ""
    console.print(f"[bold red]error:[/bold red] {safe(where + error.brief)}", highlight=False, soft_wrap=True)
    for line in error.details:
        console.print(f"  {safe(line)}", highlight=False, soft_wrap=True)
    if error.hint:
        console.print(f"[bold]hint:[/bold] {safe(error.hint)}", highlight=False, soft_wrap=True)


def safe(text: str) -> str:
    """Escape any text for rich, so that it can neither style the output nor control the terminal."""
    return escape(printable(text))


class PrintableFormatter(logging.Formatter):
    """Formats log records, ours and those of libraries, so that they cannot control the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable_lines(super().format(record))


def start_logging(stream: TextIO, level: int) -> None:
    """Write all log records of this level or above to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def make_table(rows: list[tuple[str, str]], title: str = "") -> Table:
    """Return a table of names and values."""
    table = Table(title=safe(title) or None, show_header=False, box=None, pad_edge=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    return table


def make_checks_table(checks: Sequence[Check]) -> Table:
    """Return a table of checks, with their results and fixes."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    marks = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "·"}
    for check in checks:
        table.add_row(marks[check.ok], *map(safe, (check.name, check.found, check.fix)))
    return table


def make_section(section: Section) -> Table:
    """Return a section as a table."""
    table = Table(title=safe(section.title), show_header=bool(section.columns), box=None, title_justify="left")
    for column in section.columns or ("", ""):
        table.add_column(safe(column), overflow="fold")
    for row in section.rows:
        table.add_row(*map(safe, row))
    return table
