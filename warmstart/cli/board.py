"""One line for each of several builds: its step, its last note, and how long it has been running."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

from warmstart.cli.terminal import TerminalListener, safe
from warmstart.core.text import printable

_NOTE_WIDTH = 40


@dataclass
class _Line:
    """The state of one build; `started` and `ended` are in seconds of the monotonic clock, 0 if not yet."""

    step: str = "waiting"
    note: str = ""
    started: float = 0.0
    ended: float = 0.0
    mark: str = "·"


class Board:
    """Shows the builds for the length of a `with` block; threads may report at the same time.

    At a terminal, the lines change in place and disappear at the end. Elsewhere, steps are shown as they end, if
    `verbose` asks for them.
    """

    def __init__(self, console: Console, names: list[str], *, verbose: bool) -> None:
        self._console = console
        self._verbose = verbose
        self._lock = threading.Lock()
        self._lines = {name: _Line() for name in names}
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._live.stop()

    def listen(self, name: str) -> _Listener:
        """Return the progress listener of a build."""
        return _Listener(self, name)

    def begin(self, name: str, step: str) -> None:
        """Show a new step of a build."""
        with self._lock:
            line = self._lines[name]
            line.step, line.note = step, ""
            line.started = line.started or time.monotonic()

    def note(self, name: str, text: str) -> None:
        """Show how far the step of a build is."""
        with self._lock:
            self._lines[name].note = text

    def end_step(self, name: str, step: str, elapsed_s: float, ok: bool) -> None:
        """Show that a step has ended, if there is no terminal."""
        # Printed without our lock: the console's is held by those who wait for ours, in `_render`.
        if self._verbose and not self._console.is_terminal:
            TerminalListener(self._console, verbose=True).end(f"{name}: {step}", elapsed_s, ok)

    def warn(self, name: str, text: str) -> None:
        """Show a warning of a build."""
        TerminalListener(self._console, verbose=False).warn(f"{name}: {text}")

    def end(self, name: str, text: str, *, ok: bool) -> None:
        """Show how a build has ended."""
        with self._lock:
            line = self._lines[name]
            line.step, line.note, line.ended = text, "", time.monotonic()
            line.mark = "[green]✓[/green]" if ok else "[red]✗[/red]"

    def _render(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        now = time.monotonic()
        with self._lock:
            for name, line in self._lines.items():
                runs = line.started and not line.ended
                elapsed_s = (line.ended or now) - line.started if line.started else 0.0
                note = escape(printable(line.note)[:_NOTE_WIDTH])
                table.add_row(
                    self._spinner if runs else line.mark,
                    safe(name),
                    safe(line.step),
                    f"[dim]{note}[/dim]",
                    f"[dim]{elapsed_s:6.1f} s[/dim]" if line.started else "",
                )
        return table


class _Listener:
    """The listener of one build."""

    def __init__(self, board: Board, name: str) -> None:
        self._board = board
        self._name = name

    def begin(self, step: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self._board.begin(self._name, step)

    def note(self, text: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self._board.note(self._name, text)

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self._board.end_step(self._name, step, elapsed_s, ok)

    def warn(self, text: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self._board.warn(self._name, text)
