"""The command `bench`."""

from __future__ import annotations

from pathlib import Path

import click

from warmstart.bench.page import write_page
from warmstart.bench.report import find_verdict, list_bench_sections, list_facts, make_bench_document
from warmstart.bench.result import Load
from warmstart.bench.run import bench_recipe, bench_source
from warmstart.build.context import BuildOptions
from warmstart.cli.context import (
    Shell,
    allow_option,
    pass_shell,
    registry_options,
)
from warmstart.cli.options import key_option, network_option, recipe_option, secret_option
from warmstart.cli.terminal import make_section, safe
from warmstart.core.privileges import Privilege
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import Trust
from warmstart.inspect.target import read_target
from warmstart.inspect.trust import trust
from warmstart.node.network import Network
from warmstart.recipe.load import load_recipe


@click.command()
@click.argument("target", metavar="RECIPE|IMAGE")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Number of starts of each kind."
)
@click.option("--replicas", type=click.IntRange(0, 64), default=0, help="Also start this many at once.")
@click.option(
    "--requests", type=click.IntRange(0, 10_000), default=0, help="Also measure this many requests after each start."
)
@click.option(
    "--idle",
    "idle_s",
    type=click.FloatRange(0, 3600),
    default=0,
    metavar="SECONDS",
    help="Wait this long before the first of them.",
)
@click.option(
    "--warmed",
    type=click.IntRange(0, 1000),
    default=0,
    help="Also warm up this many processes, and send them the requests without a restore.",
)
@click.option(
    "--cold-cache",
    is_flag=True,
    help="Before each start, drop the page cache, of the whole machine: other programs get slower.",
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@registry_options
@network_option
@recipe_option
@secret_option
@allow_option
@key_option
@click.option("--force", is_flag=True, help="Continue despite preflight errors.")
@click.option("--keep", is_flag=True, help="Keep all files if a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with plots.")
@pass_shell
def bench(
    shell: Shell,
    target: str,
    rounds: int,
    replicas: int,
    requests: int,
    idle_s: float,
    warmed: int,
    cold_cache: bool,
    overrides: tuple[str, ...],
    signed: Trust,
    access: RegistryAccess,
    network: str,
    own: Path | None,
    secrets: tuple[str, ...],
    allowed: tuple[Privilege, ...],
    force: bool,
    keep: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    """Compare cold and restored starts of RECIPE or IMAGE.

    The starts alternate. RECIPE is a file, or - for standard input. IMAGE was built by warmstart. Nothing is published.
    """
    _check_usage(html, load := Load(rounds, replicas, requests, idle_s, warmed, cold_cache))
    options = BuildOptions(
        cache=shell.cache,
        access=access,
        force=force,
        keep=keep,
        network=Network(network),
        allowed=allowed,
    )
    found = read_target(target)
    progress = shell.progress()
    if found.recipe is not None:
        if own:
            raise click.UsageError(f"--recipe needs an image, and {target} is {found.kind}")
        result = bench_recipe(load_recipe(found.recipe, overrides=overrides, secrets=secrets), options, load, progress)
    elif found.source is None:
        raise found.mismatch("a recipe or an image")
    elif overrides:
        raise click.UsageError(f"--set needs a recipe, and {target} is {found.kind}")
    else:
        decide = trust(
            allowed, None if own is None else load_recipe(own, secrets=secrets), signed=signed, access=access
        )
        result = bench_source(found.source, options, load, progress, decide=decide, secrets=secrets)
    if html is not None:
        write_page(html, result)
    if as_json:
        shell.print_result(make_bench_document(result))
    else:
        shell.out.print(safe(find_verdict(result)), style="bold", highlight=False)
        for section in (*list_bench_sections(result), list_facts(result)):
            shell.out.print()
            shell.out.print(make_section(section))


def _check_usage(html: Path | None, load: Load) -> None:
    if html is not None and not html.absolute().parent.is_dir():
        raise click.UsageError(f"--html {html}: there is no such directory")
    if (load.idle_s or load.warmed) and not load.requests:
        raise click.UsageError("--idle and --warmed need --requests")
    if load.warmed > load.rounds:
        raise click.UsageError("--warmed is larger than --rounds: in each round, one process is warmed up at most")
