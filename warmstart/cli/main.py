"""The command line: the group of commands, and how a run ends. Each command is imported when it runs."""

from __future__ import annotations

import io
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from warmstart.cli.context import (
    Shell,
    default_cache,
)
from warmstart.cli.interruption import end_in_order
from warmstart.cli.lazy import Lazy, LazyGroup
from warmstart.cli.terminal import TerminalListener, show_error, start_logging
from warmstart.cli.views.error import make_error_document
from warmstart.core.disk_space import explain_full_disk
from warmstart.core.errors import HostError, PrivilegeError, WarmstartError
from warmstart.core.text import printable_lines
from warmstart.core.workspace import use_for_temporary_files

INTERRUPTED = 130
PIPE_WIDTH = 4096

#: Commands by name. The summaries are those of the commands' own docstrings; a test compares them.
COMMANDS = {
    "bench": Lazy("warmstart.cli.bench:bench", "Compare cold and restored starts of RECIPE or IMAGE."),
    "build": Lazy("warmstart.cli.build:build", "Build a warm image from RECIPE, verify it, and publish it."),
    "checkpoint": Lazy("warmstart.cli.pods:checkpoint", "Checkpoint a container of POD and fetch the archive."),
    "completion": Lazy("warmstart.cli.static:completion", "Print a completion script for bash, zsh or fish."),
    "deploy": Lazy("warmstart.cli.deploy:deploy", "Print (or apply) a Deployment and Service for a warm image."),
    "doctor": Lazy("warmstart.cli.doctor:doctor", "Check whether builds work here, or whether nodes restore."),
    "drain-save": Lazy("warmstart.cli.pods:drain_save", "Save pods of NODE, then restore them on other nodes."),
    "init": Lazy("warmstart.cli.init:init", "Write a recipe from an image, manifests, or a cluster."),
    "inspect": Lazy(
        "warmstart.cli.inspect:inspect_", "Show the contents and origin of an image or checkpoint archive."
    ),
    "migrate": Lazy("warmstart.cli.pods:migrate", "Move POD with its state to another node."),
    "node": Lazy("warmstart.cli.node:node", "Manage the tools of the embedded node."),
    "rbac": Lazy("warmstart.cli.static:rbac", "Print a service account with the rights for TASK."),
    "restore": Lazy("warmstart.cli.pods:restore", "Restore a pod from an image made by `warmstart save`."),
    "save": Lazy("warmstart.cli.pods:save", "Save a container of POD as an image."),
    "schema": Lazy("warmstart.cli.static:schema", "Print the JSON Schema of recipes."),
    "verify": Lazy("warmstart.cli.build:verify", "Verify that an image built by warmstart restores."),
}


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="warmstart", prog_name="warmstart")
@click.option("-v", "--verbose", is_flag=True, help="Show each step even without a terminal.")
@click.option("--debug", is_flag=True, help="Show every program that runs, and tracebacks of errors.")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="WARMSTART_CACHE",
    default=default_cache,
    show_default="~/.cache/warmstart",
    help="Directory of the tools.",
)
@click.pass_context
def cli(context: click.Context, verbose: bool, debug: bool, cache_dir: Path) -> None:
    """Build container images that are restored from a checkpoint instead of started cold."""
    err = open_console(stderr=True)
    start_logging(sys.stderr, logging.DEBUG if debug else logging.WARNING)
    logging.getLogger("sh").setLevel(logging.WARNING)
    out = open_console()
    listener = TerminalListener(err, verbose=verbose or debug)
    context.obj = Shell(out, err, cache_dir.absolute(), listener, verbose, debug)
    context.with_resource(context.obj.progress().listen())


def open_console(*, stderr: bool = False) -> Console:
    """Open standard output or error. Off a terminal, lines are not broken: a program or a log wants them whole."""
    console = Console(stderr=stderr, emoji=False)
    return console if console.is_terminal else Console(stderr=stderr, emoji=False, width=PIPE_WIDTH)


def main() -> NoReturn:
    """Run the command line. Every error is shown and becomes an exit code."""
    end_in_order()
    use_for_temporary_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape characters that the user's locale cannot show, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # click returns the exit code of options that end early, such as --help.
        sys.exit(cli.main(prog_name=_find_own_name(sys.argv[0]), standalone_mode=False) or 0)
    except click.ClickException as error:
        _show_usage(error)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        Console(stderr=True, emoji=False).print("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        shown = explain(error)
        if _wants_json():
            _print_error(shown)
        else:
            show_error(Console(stderr=True, emoji=False), shown, debug="--debug" in sys.argv)
        sys.exit(shown.exit_code)


def _wants_json() -> bool:
    """Return whether the result was requested as JSON; then an error is JSON as well."""
    return "--json" in sys.argv[1:]


def _print_error(error: WarmstartError) -> None:
    click.echo(json.dumps({"error": make_error_document(error)}), err=True)


def _show_usage(error: click.ClickException) -> None:
    if _wants_json():
        shown = WarmstartError(error.format_message())
        shown.kind, shown.exit_code = "usage", error.exit_code
        _print_error(shown)
        return
    usage = io.StringIO()
    error.show(usage)
    click.echo(printable_lines(usage.getvalue()), err=True, nl=False)


def _find_own_name(program: str) -> str | None:
    """Return the name the user typed, if it is not the program's: kubectl runs kubectl-warmstart."""
    name = Path(program).name
    return name.replace("-", " ", 1) if name.startswith("kubectl-") else None


def explain(error: Exception) -> WarmstartError:
    """Return the error to show. Its cause is the original error."""
    full = explain_full_disk(error)
    if isinstance(error, PrivilegeError) and error.refused:
        line = shlex.join([*sys.argv[1:], *(word for name in error.refused for word in ("--allow", name))])
        hint = f"if you trust it with them: warmstart {line}"
        return PrivilegeError(error.brief, details=error.details, hint=hint, refused=error.refused)
    if full is None and isinstance(error, WarmstartError):
        return error
    if full is not None:
        shown: WarmstartError = full
    elif isinstance(error, MemoryError):
        shown = HostError("not enough memory")
    elif isinstance(error, OSError) and error.strerror:
        named = f": {error.filename}" if error.filename else ""
        shown = HostError(f"{error.strerror}{named}", hint="run `warmstart --debug ...` for details")
    else:
        brief = f"this is a bug in warmstart: {type(error).__name__}: {error}"
        shown = WarmstartError(brief, hint="report it, with the output of `warmstart --debug ...`")
    shown.__cause__ = error
    return shown
