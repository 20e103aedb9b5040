"""What a terminal shows, and what a pipe is spared."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.status import Status
from rich.text import Text

from warmstart.cli.terminal import (
    PrintableFormatter,
    TerminalListener,
    make_checks_table,
    make_section,
    make_table,
    show_error,
)
from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.text import Section
from warmstart.node.doctor import Check

HOSTILE = "\x1b]0;title\x07 [bold]loud[/bold] \x9b2J \u202e :key: back\\ slash"
HARMLESS = r"\x1b]0;title\x07 [bold]loud[/bold] \x9b2J \u202e :key: back\ slash"


def make_console(*, terminal: bool = False, width: int = 80) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=terminal, width=width, emoji=False, color_system=None), written


def run_steps(steps: Progress) -> None:
    with steps.step("pull"):
        steps.note("half of it")
        steps.warn("slow")
    with pytest.raises(ZeroDivisionError), steps.step("start"):
        raise ZeroDivisionError


# Steps


def test_a_pipe_gets_only_warnings():
    console, written = make_console()
    run_steps(Progress(TerminalListener(console, verbose=False)))
    assert written.getvalue() == "warning: slow\n"


def test_a_pipe_gets_a_line_a_step_where_it_is_asked_for():
    console, written = make_console()
    run_steps(Progress(TerminalListener(console, verbose=True)))
    lines = [line.split() for line in written.getvalue().splitlines()]
    assert [line[:2] for line in lines] == [["warning:", "slow"], ["✓", "pull"], ["✗", "start"]]
    assert "half of it" not in written.getvalue()


def test_a_terminal_shows_how_far_a_step_is():
    script = """
import sys
from rich.console import Console
from warmstart.core.progress import Progress
from warmstart.cli.terminal import TerminalListener
steps = Progress(TerminalListener(Console(stderr=True), verbose=False))
with steps.step("pull"):
    steps.note("half of it")
    sys.stdin.read()
"""
    shown = run_at_terminal([sys.executable, "-c", script], until=b"half of it")
    assert "✓" in shown
    # The cursor is there again.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def run_at_terminal(command: list[str], until: bytes) -> str:
    """What a program shows on its standard error when that is a terminal of 80 columns. Its input ends at `until`."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=theirs, env=environment) as program:
        assert program.stdin is not None
        os.close(theirs)
        shown = b""
        # The end of a terminal that nobody has open any more is an error.
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:
                break
            shown += chunk
            if until in shown:
                program.stdin.close()
    os.close(ours)
    assert program.returncode == 0, shown
    return shown.decode()


@pytest.mark.parametrize("width", [10, 40, 200])
def test_a_note_takes_one_line(width):
    console, _ = make_console(terminal=True, width=width)
    listener = TerminalListener(console, verbose=False)
    listener.begin("pull")
    listener.note("\n\x1b" * 500)
    assert listener._status is not None
    note = str(listener._status.status).partition("[dim]")[2].removesuffix("[/dim]")
    assert len(note) <= max(0, width - 20)
    listener.end("pull", 1.0, ok=True)


def test_nothing_that_is_told_steers_the_terminal():
    console, written = make_console(terminal=True, width=300)
    listener = TerminalListener(console, verbose=True)
    listener.warn(HOSTILE)
    assert written.getvalue() == f"warning: {HARMLESS}\n"


def test_nothing_in_a_step_steers_the_terminal(monkeypatch):
    console, written = make_console(terminal=True, width=300)
    listener, shown = TerminalListener(console, verbose=True), []
    monkeypatch.setattr(Status, "update", lambda _status, text: shown.append(text))
    listener.begin(HOSTILE)
    listener.note(HOSTILE)
    listener.end(HOSTILE, 1.0, ok=True)
    assert f"✓ {HARMLESS}" in written.getvalue()
    assert [Text.from_markup(text, emoji=False).plain for text in shown] == [f"{HARMLESS}  {HARMLESS}"]
    assert not re.search("\x1b]|\x9b|\u202e|\x07", written.getvalue())


def test_nothing_that_is_logged_steers_the_terminal():
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, f"{HOSTILE}\nnext %s", (HOSTILE,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"{HARMLESS}\nnext {HARMLESS}"


# Errors


def test_an_error_says_what_why_and_what_to_do():
    console, written = make_console()
    error = HostError("what is wrong", details=["first", "second"], hint="do this")
    show_error(console, error, debug=False)
    assert written.getvalue() == "error: what is wrong\n  first\n  second\nhint: do this\n"


def test_an_error_may_have_no_more_to_say():
    console, written = make_console()
    show_error(console, WarmstartError("what is wrong"), debug=False)
    assert written.getvalue() == "error: what is wrong\n"


def test_long_lines_and_many_are_shown_whole():
    console, written = make_console(width=40)
    details = [f"{number} " + "x" * 5000 for number in range(300)]
    show_error(console, WarmstartError("y" * 5000, details=details), debug=False)
    assert written.getvalue() == f"error: {'y' * 5000}\n" + "".join(f"  {line}\n" for line in details)


def test_nothing_in_an_error_steers_the_terminal():
    console, written = make_console(terminal=True, width=300)
    show_error(console, WarmstartError(HOSTILE, details=[HOSTILE], hint=HOSTILE), debug=False)
    assert written.getvalue() == f"error: {HARMLESS}\n  {HARMLESS}\nhint: {HARMLESS}\n"


def test_nothing_in_the_way_to_an_error_steers_the_terminal():
    console, written = make_console(terminal=True, width=300)
    error = WarmstartError("short")
    error.__cause__ = ValueError(HOSTILE)
    show_error(console, error, debug=True)
    assert f"ValueError: {HARMLESS}\n" in written.getvalue()
    assert "\x1b]" not in written.getvalue()


def test_the_way_to_an_error_is_shown_where_it_is_asked_for():
    console, written = make_console()
    try:
        raise HostError("what is wrong") from ZeroDivisionError("its cause")
    except HostError as error:
        show_error(console, error, debug=True)
    assert "Traceback" in written.getvalue()
    assert "ZeroDivisionError: its cause" in written.getvalue()
    assert written.getvalue().endswith("error: what is wrong\n")


# Tables


def test_a_table_has_a_line_a_row():
    console, written = make_console()
    console.print(make_table([("image", "a:b"), ("digest", "sha256:0")]))
    assert [line.split() for line in written.getvalue().splitlines()] == [["image", "a:b"], ["digest", "sha256:0"]]


def test_nothing_in_a_table_steers_the_terminal():
    console, written = make_console(terminal=True, width=300)
    console.print(make_table([("name", HOSTILE)]))
    console.print(make_checks_table([Check("check", False, HOSTILE, HOSTILE)]))
    assert written.getvalue().count(HARMLESS) == 3
    assert "\x1b" not in written.getvalue()


def test_nothing_in_a_heading_or_a_section_steers_the_terminal():
    console, written = make_console(terminal=True, width=300)
    console.print(make_table([(HOSTILE, "x")], title=HOSTILE))
    console.print(make_section(Section(HOSTILE, (HOSTILE,), ((HOSTILE,),))))
    assert written.getvalue().count(HARMLESS) == 5
    assert not re.search("\x1b]|\x9b|\u202e|\x07", written.getvalue())


def test_a_check_is_shown_with_its_cure():
    console, written = make_console(width=120)
    console.print(
        make_checks_table([Check("a", True, "fine"), Check("b", False, "bad", "fix it"), Check("c", None, "x")])
    )
    _, *lines = written.getvalue().splitlines()
    assert [line.split() for line in lines] == [["✓", "a", "fine"], ["✗", "b", "bad", "fix", "it"], ["·", "c", "x"]]
