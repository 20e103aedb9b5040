"""What the benchmarks have in common as programs: an option, and how they end."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from warmstart.cli.context import default_cache
from warmstart.cli.terminal import show_error
from warmstart.core.errors import WarmstartError

cache_option = click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), envvar="WARMSTART_CACHE", default=default_cache
)


def run_command(command: click.Command) -> None:
    """Run a command, and exit as warmstart does where it fails."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except WarmstartError as error:
        show_error(Console(stderr=True), error, debug=False)
        sys.exit(error.exit_code)
