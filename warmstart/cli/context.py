"""The output settings and options that the commands share."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from warmstart.cli.terminal import TerminalListener
from warmstart.core.privileges import Privilege, parse_privilege
from warmstart.core.progress import Progress


def default_cache() -> Path:
    """Return the user's cache directory, as in the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warmstart"


@dataclass(frozen=True)
class Shell:
    """The consoles and settings of this run. Results go to standard output, all else to standard error."""

    out: Console
    err: Console
    cache: Path
    listener: TerminalListener
    verbose: bool = False
    debug: bool = False

    def print_json(self, document: object) -> None:
        """Print a document, escaped, since foreign text can contain control characters of terminals."""
        self.out.print_json(json.dumps(document), ensure_ascii=True)

    def print_result(self, document: Mapping[str, object]) -> None:
        """Print a result as `print_json` does, with all warnings of this run."""
        self.print_json({**document, "warnings": self.listener.warnings})

    def progress(self) -> Progress:
        """Return a progress reporter that shows steps as they happen."""
        return Progress(self.listener)


pass_shell = click.make_pass_decorator(Shell)

checkpoint_timeout_option = click.option(
    "--checkpoint-timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit of the checkpoint.",
)


#: The text in place of values that --show-env shows.
HIDDEN = "(hidden; --show-env shows it)"

show_env_option = click.option(
    "--show-env", is_flag=True, help="Show the values of environment variables, which can be secret."
)


def _parse_allowed(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[Privilege, ...]:
    del context
    try:
        return tuple(map(parse_privilege, values))
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from error


allow_option = click.option(
    "--allow",
    "allowed",
    multiple=True,
    callback=_parse_allowed,
    metavar="KIND[=NAME]",
    help="Grant this privilege to the image or recipe. The error of a refusal lists them.",
)


def registry_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --plain-http and --authfile, passed to the command as one argument: `access`."""

    @functools.wraps(function)
    def command(*args: Any, plain_http: tuple[str, ...], authfile: Path | None, **options: Any) -> Any:
        from warmstart.image.registry.credentials import RegistryAccess

        return function(*args, access=RegistryAccess(plain_http, authfile), **options)

    authfile_option = click.option(
        "--authfile", type=click.Path(path_type=Path, dir_okay=False), help="File of registry credentials."
    )
    plain_http_option = click.option(
        "--plain-http", multiple=True, metavar="HOST[:PORT]", help="Use this registry without TLS."
    )
    return plain_http_option(authfile_option(command))
