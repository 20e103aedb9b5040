"""What every command of the command line is given: where to print, and how much."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from warmstart.core.steps import Steps
from warmstart.terminal import TerminalListener


@dataclass(frozen=True)
class Shell:
    """How this run talks to its user; results go to standard output, all else to standard error."""

    out: Console
    err: Console
    verbose: bool
    debug: bool
    cache: Path

    def print_json(self, document: object) -> None:
        """Print a document; escaped, since a terminal obeys some characters of text from elsewhere."""
        self.out.print_json(json.dumps(document), ensure_ascii=True)

    def steps(self) -> Steps:
        """Steps that are shown as they happen."""
        return Steps(TerminalListener(self.err, verbose=self.verbose))


pass_shell = click.make_pass_decorator(Shell)
