"""What commands of the command line have in common: where to print, and how much; and options."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from warmstart.core.steps import Steps
from warmstart.recipe.privileges import parse_privilege
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

checkpoint_timeout_option = click.option(
    "--checkpoint-timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the checkpoint may take.",
)


def _parse_allowed(_context: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(parse_privilege, names))


allow_option = click.option(
    "--allow",
    multiple=True,
    callback=_parse_allowed,
    metavar="PRIVILEGE",
    help="Let the recipe ask for a privilege that makes it root here: privileged, or capability=NAME.",
)


def registry_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how to speak to registries: `plain_http` and `authfile`."""
    function = click.option(
        "--authfile", type=click.Path(path_type=Path, dir_okay=False), help="Credentials for registries."
    )(function)
    return click.option(
        "--plain-http", multiple=True, metavar="HOST[:PORT]", help="Speak to this registry without TLS."
    )(function)
