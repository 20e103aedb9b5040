"""The command line: options in, one call, the result out. Nothing else of warmstart prints or exits."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from warmstart import __version__
from warmstart.build import Options, build_image
from warmstart.core.errors import WarmstartError
from warmstart.core.steps import Steps
from warmstart.publish import REGISTRY, parse_output
from warmstart.recipe.load import load_recipe
from warmstart.recipe.schema import schema_text
from warmstart.report import list_rows, make_document
from warmstart.terminal import TerminalListener, make_table, show_error

INTERRUPTED = 130
TERMINATED = 143


@dataclass(frozen=True)
class Shell:
    """How this run talks to its user; results go to standard output, all else to standard error."""

    out: Console
    err: Console
    verbose: bool
    debug: bool
    cache: Path

    def steps(self) -> Steps:
        """Steps that are shown as they happen."""
        return Steps(TerminalListener(self.err, verbose=self.verbose))


pass_shell = click.make_pass_decorator(Shell)


def default_cache() -> Path:
    """The user's cache directory, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warmstart"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="warmstart")
@click.option("-v", "--verbose", is_flag=True, help="Show each step even where there is no terminal.")
@click.option("--debug", is_flag=True, help="Show every program that is run, and a traceback with an error.")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="WARMSTART_CACHE",
    default=default_cache,
    show_default="~/.cache/warmstart",
    help="Where the tree of tools is kept.",
)
@click.pass_context
def cli(context: click.Context, verbose: bool, debug: bool, cache_dir: Path) -> None:
    """Build container images that are restored from a checkpoint instead of started cold."""
    err = Console(stderr=True)
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(message)s")
        logging.getLogger("sh").setLevel(logging.WARNING)
    context.obj = Shell(Console(), err, verbose or debug, debug, cache_dir.absolute())


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("-t", "--tag", help="The tag, or the whole name, of the image to make.")
@click.option("-o", "--output", metavar="KIND:PATH", help="oci:DIRECTORY or oci-archive:FILE instead of a registry.")
@click.option("--plain-http", multiple=True, metavar="HOST[:PORT]", help="Speak to this registry without TLS.")
@click.option("--authfile", type=click.Path(path_type=Path, dir_okay=False), help="Credentials for registries.")
@click.option(
    "--runtime-endpoint",
    metavar="SOCKET",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    help="Build on the CRI-O that listens here instead of the embedded one, such as unix:///run/crio/crio.sock.",
)
@click.option("--checkpoint-timeout", type=float, default=120.0, show_default=True, help="In seconds.")
@click.option("--force", is_flag=True, help="Go on where preflight finds errors.")
@click.option("--keep", is_flag=True, help="Leave everything to look at when a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def build(
    shell: Shell,
    recipe: Path,
    overrides: tuple[str, ...],
    tag: str | None,
    output: str | None,
    plain_http: tuple[str, ...],
    authfile: Path | None,
    runtime_endpoint: str | None,
    checkpoint_timeout: float,
    force: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Build the image of RECIPE, see it restore, and publish it."""
    options = Options(
        cache=shell.cache,
        output=parse_output(output) if output else REGISTRY,
        plain_http=plain_http,
        auth_file=authfile,
        checkpoint_timeout_s=checkpoint_timeout,
        force=force,
        keep=keep,
        runtime_endpoint=runtime_endpoint,
    )
    steps = shell.steps()
    built = build_image(load_recipe(recipe, overrides=overrides, tag=tag), options, steps)
    if as_json:
        shell.out.print_json(json.dumps(make_document(built, steps)))
    else:
        shell.out.print(make_table(list_rows(built)))


@cli.command()
@pass_shell
def schema(shell: Shell) -> None:
    """Print the JSON Schema of recipes."""
    shell.out.out(schema_text())


def main() -> NoReturn:
    """Run the command line; an error of ours is shown, and becomes the exit code of its kind."""
    signal.signal(signal.SIGTERM, _terminate)
    err = Console(stderr=True)
    debug = "--debug" in sys.argv
    try:
        cli.main(standalone_mode=False)
    except WarmstartError as error:
        show_error(err, error, debug=debug)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    sys.exit(0)


def _terminate(_number: int, _frame: object) -> None:
    """End as Ctrl-C does, cleaning up on the way."""
    raise SystemExit(TERMINATED)
