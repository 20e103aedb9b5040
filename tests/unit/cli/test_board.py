"""One line for each of several builds, at a terminal and elsewhere."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from warmstart.cli.board import Board
from warmstart.core.progress import Progress

LIMIT_S = 60


def make_console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, emoji=False)


def read(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_at_a_terminal_each_build_has_a_line_with_its_step_and_note():
    console = make_console(terminal=True)
    with Board(console, ["a.yaml", "b.yaml", "c.yaml"], verbose=False) as board:
        board.listen("a.yaml").begin("warm up")
        board.listen("a.yaml").note("[bold]3[/bold] of\x1b 5")
        board.listen("b.yaml").begin("pull")
        board.end("b.yaml", "built", ok=True)
        board._live.refresh()
        lines = [line.split() for line in read(console).replace("\r", "\n").splitlines()]
    assert any(line[-8:-2] == ["a.yaml", "warm", "up", "[bold]3[/bold]", "of\\x1b", "5"] for line in lines)
    assert any(line[-5:-2] == ["✓", "b.yaml", "built"] for line in lines)
    assert any(line[-3:] == ["·", "c.yaml", "waiting"] for line in lines)


def test_elsewhere_steps_are_shown_if_asked_for():
    for verbose, expected in ((True, ["✓ a.yaml: pull"]), (False, [])):
        console = make_console(terminal=False)
        with Board(console, ["a.yaml"], verbose=verbose) as board, Progress(board.listen("a.yaml")).step("pull"):
            pass
        assert [" ".join(line.split()[:3]) for line in read(console).splitlines()] == expected


def test_threads_may_warn_while_the_lines_change():
    console = make_console(terminal=True)

    def work(board: Board, name: str) -> None:
        progress = Progress(board.listen(name))
        for number in range(200):
            with progress.step(f"step {number}"):
                progress.warn(f"warning {number}")

    names = [f"{number}.yaml" for number in range(4)]
    with Board(console, names, verbose=True) as board:
        threads = [threading.Thread(target=work, args=(board, name), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert not any(thread.is_alive() for thread in threads)
    assert read(console).count("warning 199") == 4
