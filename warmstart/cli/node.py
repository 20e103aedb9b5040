"""Commands for the tools of the embedded node: `node setup`, `update`, `status`, `prune`, `remove`, `run`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from warmstart.cli.context import (
    Shell,
    pass_shell,
)
from warmstart.cli.terminal import make_section
from warmstart.core import process
from warmstart.core.text import format_bytes
from warmstart.image.cache.prune import (
    DEFAULT_LIMIT,
    LIMIT,
    list_usage,
    make_usage_document,
    measure,
    read_limit_bytes,
)
from warmstart.image.cache.prune import prune as prune_cache
from warmstart.node.keeper import Bind
from warmstart.node.open import open_node
from warmstart.node.record import list_tools, make_record_document
from warmstart.node.tree import ensure_tree, read_records, remove_trees, require_tested, update_tree


@click.group()
def node() -> None:
    """Manage the tools of the embedded node."""


@node.command()
@click.option("--locked", is_flag=True, help="Fail unless all Debian packages have the tested versions.")
@pass_shell
def setup(shell: Shell, locked: bool) -> None:
    """Set up the tools now instead of during the first build."""
    progress = shell.progress()
    with progress.step("tools"):
        tree = ensure_tree(shell.cache, progress.note, progress.warn)
        if locked:
            require_tested(shell.cache)
    shell.out.out(str(tree))


@node.command()
@pass_shell
def update(shell: Shell) -> None:
    """Set up newer tools from the newest packages.

    Running builds keep the old tools.
    """
    progress = shell.progress()
    with progress.step("tools"):
        tree = update_tree(shell.cache, progress.note)
    shell.out.out(str(tree))


@node.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, with all packages.")
@pass_shell
def status(shell: Shell, as_json: bool) -> None:
    """Show the versions and age of the tools.

    Differences from the tested versions are listed.
    """
    records = read_records(shell.cache)
    if as_json:
        shell.print_json([make_record_document(path, record) for path, record in records])
    else:
        for section in list_tools(records):
            shell.out.print(make_section(section))
        shell.out.print(make_section(list_usage(measure(shell.cache), read_limit_bytes())))


@node.command()
@pass_shell
def remove(shell: Shell) -> None:
    """Remove the tools with all their older versions, and all cached content of base images."""
    remove_trees(shell.cache)
    prune_cache(shell.cache, 0)


@node.command()
@click.option("--all", "everything", is_flag=True, help="Remove everything that no build uses.")
@click.option(
    "--keep-storage",
    metavar="SIZE",
    help=f"Keep this much, such as 5Gi.  [default: ${LIMIT}, or {DEFAULT_LIMIT}]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def prune(shell: Shell, everything: bool, keep_storage: str | None, as_json: bool) -> None:
    """Remove cached layers and blobs of base images.

    Those that were not used for the longest time go first, until the rest fits the limit. Builds do the same at their
    end.
    """
    if everything and keep_storage:
        raise click.UsageError("--all and --keep-storage exclude each other")
    limit_bytes = 0 if everything else read_limit_bytes(keep_storage)
    removed_bytes = prune_cache(shell.cache, limit_bytes)
    usage = measure(shell.cache)
    if as_json:
        shell.print_json({"removedBytes": removed_bytes, "limitBytes": limit_bytes, **make_usage_document(usage)})
    else:
        shell.out.print(f"removed {format_bytes(removed_bytes)}; {format_bytes(usage.total_bytes)} left")


@node.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--bind",
    "binds",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Make this path visible to COMMAND.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_shell
def run(shell: Shell, binds: tuple[Path, ...], command: tuple[str, ...]) -> None:
    """Run COMMAND with the tools: buildah, skopeo, criu, mmdebstrap.

    It runs in the current directory, and sees only this directory, the paths of --bind, and the network.
    """
    here = Path.cwd()
    seen = [Bind(str(path.absolute()), writable=True) for path in (here, *binds)]
    with open_node("run", shell.cache, shell.progress(), binds=seen) as session:
        status = process.attach(session.argv(command, host_network=True, cwd=str(here)), env=session.environment)
    sys.exit(status)
