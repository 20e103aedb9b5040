#!/usr/bin/env python3
"""Compare restores whose files are in the page cache with restores that read them from the disk.

    benchmarks/cold_cache.py [RECIPE] [--set PATH=VALUE]... [--rounds N]

Before each start of the second kind, the page cache of the whole machine is dropped. Before those of the third kind, it
is dropped and then another pod runs, as on a node that has booted: then the runtime's own programs have been read. The
fourth kind is the second without reading ahead. The image has the recipe's restorers (`--set restore=[self]`), and
restores itself. Images of localhost:5000 in examples/shop are read from build/images.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
from command import cache_option, run_command
from rich.console import Console
from rich.table import Table
from self import IMAGE, Starts, start_in_turn

from warmstart.bench.page_cache import drop_page_cache
from warmstart.bench.result import Spread
from warmstart.bench.run import open_session
from warmstart.build.base import fetch_base, find_source
from warmstart.build.container import open_engine
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.pipeline import make_candidate
from warmstart.build.services import open_companions
from warmstart.cli.terminal import TerminalListener
from warmstart.core.progress import Progress
from warmstart.core.text import format_bytes, format_seconds
from warmstart.core.workspace import open_workspace
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.image.annotations import created_now
from warmstart.image.compose import LayerWriter, Run, add_layers
from warmstart.image.tree_tar import open_tree
from warmstart.node.launcher import ensure_launcher
from warmstart.node.tree import PAUSE_LAYOUT
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Recipe, Restorer

TOP = Path(__file__).parents[1]
SPRING = TOP / "examples/java-app/recipe.yaml"
SHOP = TOP / "examples/shop/recipe.yaml"
IMAGES = TOP / "build/images"
SUBNET = "10.96.0.0/24"
AT_MOST = 1.5
OTHER = "localhost/warmstart/bench:other"
_OFF = ("WARMSTART_READ_AHEAD", "off")


@dataclass
class CachedStarts(Starts):
    """Restores with the page cache kept or dropped."""

    is_cached: bool = True
    follows_another: bool = False

    def start(self, engine: LocalEngine, name: str) -> None:
        """Start once more."""
        if not self.is_cached:
            drop_page_cache()
        if self.follows_another:
            with engine.cri.start(Container(OTHER), OTHER, "other") as other:
                while not other.state().exited:
                    time.sleep(0.01)
        super().start(engine, name)

    @property
    def spread(self) -> Spread:
        """Seconds from the request to create the container until its probe succeeded."""
        return Spread.of(self.seconds)


@dataclass(frozen=True)
class Caches:
    """Restores of one image: with a full page cache, an empty one, the same after another pod, and not read ahead."""

    pages_bytes: int
    kept: CachedStarts
    dropped: CachedStarts
    after_another: CachedStarts
    not_ahead: CachedStarts

    @property
    def ratio(self) -> float:
        """How many times as long a restore takes with an empty page cache."""
        return self.dropped.spread.median / self.kept.spread.median


def compare_caches(recipe: Recipe, options: BuildOptions, rounds: int, progress: Progress) -> Caches:
    """Make a recipe's image, and let it restore itself in the four ways in turn, `rounds` times each.

    Raises:
        WarmstartError: a step failed, or the image did not restore itself.
    """
    source = find_source(recipe)
    with open_session(source, options, progress) as session, contextlib.ExitStack() as undo:
        context = BuildContext(recipe, options, progress, session)
        base = fetch_base(context, source)
        companions = undo.enter_context(open_companions(context))
        with open_engine(context, None) as engine, contextlib.ExitStack() as made_undo:
            made = make_candidate(context, engine, base, companions, made_undo)
        beside = undo.enter_context(companions.run())
        container = recipe.container.run_by_image()
        not_ahead = replace(container, env=(*container.env, _OFF))
        image = f"{IMAGE}:{Restorer.SELF}"

        def make_starts(one: Container, **kind: bool) -> CachedStarts:
            return CachedStarts(image, one, made.warm.identity, Restorer.SELF, beside, **kind)

        ways = [
            make_starts(container),
            make_starts(container, is_cached=False),
            make_starts(container, is_cached=False, follows_another=True),
            make_starts(not_ahead, is_cached=False),
        ]
        engine = undo.enter_context(start_engine(session, "caches", subnet=SUBNET, restore=False))
        with progress.step("starts"):
            engine.import_image(made.layout, image)
            engine.import_image(make_other(context), OTHER)
            start_in_turn(engine, ways, rounds, progress)
        return Caches(made.dump.pages_bytes, *ways)


def make_other(context: BuildContext) -> Path:
    """Make an image that shares no file with any other, and whose program ends at once."""
    layout, base = context.workspace / "other", context.workspace / "pause"
    shutil.copytree(context.session.root / PAUSE_LAYOUT.lstrip("/"), base)
    writer = LayerWriter(layout, "other")
    with open_tree(writer) as tar:
        tar.copy_program(ensure_launcher(context.options.cache, context.progress.note).launcher, "program")
    add_layers(base, layout, [writer.finish()], Run(("/program",), (), ""), created_now(), {})
    return layout


def copy_shop(into: Path) -> Path:
    """Copy the example with its images as archives, and return the recipe."""
    shutil.copytree(SHOP.parent, into, dirs_exist_ok=True)
    for file in (into / SHOP.name, *into.glob("k8s/*.yaml")):
        text = re.sub(r"(?m)(image: )localhost:5000/(\w+):[\d.]+$", rf"\1oci-archive:{IMAGES}/\2.tar", file.read_text())
        file.write_text(text)
    return into / SHOP.name


def make_table(caches: Caches) -> Table:
    """The four ways."""
    title = f"{format_bytes(caches.pages_bytes)} of pages, until the first answer"
    table = Table("page cache", "median", "all", "launcher, median", "÷ kept", title=title)
    for name, way in (
        ("kept", caches.kept),
        ("dropped", caches.dropped),
        ("dropped, then another pod", caches.after_another),
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
    """Compare the four ways, and print a table."""
    load_before = os.getloadavg()[0]
    progress = Progress(TerminalListener(Console(stderr=True), verbose=True))
    options = BuildOptions(cache=cache_dir.absolute())
    with open_workspace("shop") as workspace:
        recipe = copy_shop(workspace) if recipe.resolve() == SHOP else recipe
        caches = compare_caches(load_recipe(recipe, overrides=overrides), options, rounds, progress)
    console = Console()
    console.print(make_table(caches))
    console.print(
        f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after; at most {AT_MOST:g} is aimed at"
    )


if __name__ == "__main__":
    run_command(main)
