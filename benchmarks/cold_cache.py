#!/usr/bin/env python3
"""Compare restores whose files are in the page cache with restores that read them from the disk.

    benchmarks/cold_cache.py [RECIPE] [--set PATH=VALUE]... [--rounds N]

Before each start of the second kind, the page cache of the whole machine is dropped. The third kind is the same without
reading ahead. All images restore themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import click
from command import cache_option, run_command
from rich.console import Console
from rich.table import Table
from self import IMAGE, Starts, make_image, start_in_turn

from warmstart.bench.page_cache import drop_page_cache
from warmstart.bench.result import Spread
from warmstart.bench.run import open_session
from warmstart.build.base import fetch_base, find_source
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.cli.terminal import TerminalListener
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes, format_seconds
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Recipe, Restorer

SPRING = Path(__file__).parents[1] / "examples/java-app/recipe.yaml"
SUBNET = "10.96.0.0/24"
AT_MOST = 1.5
_OFF = ("WARMSTART_READ_AHEAD", "off")


@dataclass
class CachedStarts(Starts):
    """Restores with the page cache kept or dropped."""

    is_cached: bool = True

    def start(self, engine: LocalEngine, name: str) -> None:
        """Start once more."""
        if not self.is_cached:
            drop_page_cache()
        super().start(engine, name)

    @property
    def spread(self) -> Spread:
        """Seconds from the request to create the container until its probe succeeded."""
        return Spread.of(self.seconds)


@dataclass(frozen=True)
class Caches:
    """Restores of one image: with a full page cache, with an empty one, and with an empty one and no reading ahead."""

    pages_bytes: int
    kept: CachedStarts
    dropped: CachedStarts
    not_ahead: CachedStarts

    @property
    def ratio(self) -> float:
        """How many times as long a restore takes with an empty page cache."""
        return self.dropped.spread.median / self.kept.spread.median


def compare_caches(recipe: Recipe, options: BuildOptions, rounds: int, progress: Progress) -> Caches:
    """Make an image that restores itself, and start it in the three ways in turn, `rounds` times each.

    Raises:
        WarmstartError: a step failed, or the image did not restore itself.
    """
    source = find_source(recipe)
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        made = make_image(context, fetch_base(context, source), Restorer.SELF)
        container = recipe.container.run_by_image()

        def starts(container: Container, *, is_cached: bool) -> CachedStarts:
            name = f"{IMAGE}:{Restorer.SELF}"
            return CachedStarts(name, container, made.warm.identity, Restorer.SELF, is_cached=is_cached)

        caches = Caches(
            made.dump.pages_bytes,
            starts(container, is_cached=True),
            starts(container, is_cached=False),
            starts(replace(container, env=(*container.env, _OFF)), is_cached=False),
        )
        with start_engine(session, "caches", subnet=SUBNET) as engine, progress.step("starts"):
            engine.import_image(made.layout, caches.kept.image)
            start_in_turn(engine, (caches.kept, caches.dropped, caches.not_ahead), rounds, progress)
        return caches


def make_table(caches: Caches) -> Table:
    """The three ways."""
    title = f"{format_bytes(caches.pages_bytes)} of pages, until the first answer"
    table = Table("page cache", "median", "all", "launcher, median", "÷ kept", title=title)
    for name, way in (
        ("kept", caches.kept),
        ("dropped", caches.dropped),
        ("dropped, not read ahead", caches.not_ahead),
    ):
        every = ", ".join(f"{seconds * 1000:.0f}" for seconds in sorted(way.seconds))
        launcher = f"{Spread.of(way.launcher_ms).median:.0f} ms"
        ratio = f"{way.spread.median / caches.kept.spread.median:.2f}"
        table.add_row(name, format_seconds(way.spread.median), f"{every} ms", launcher, ratio)
    return table


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True), default=SPRING)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@cache_option
def main(recipe: Path, overrides: tuple[str, ...], rounds: int, cache_dir: Path) -> None:
    """Compare the three ways, and print a table."""
    load_before = os.getloadavg()[0]
    progress = Progress(TerminalListener(Console(stderr=True), verbose=True))
    options = BuildOptions(cache=cache_dir.absolute())
    caches = compare_caches(load_recipe(recipe, overrides=overrides), options, rounds, progress)
    console = Console()
    console.print(make_table(caches))
    console.print(
        f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after; at most {AT_MOST:g} is aimed at"
    )


if __name__ == "__main__":
    run_command(main)
