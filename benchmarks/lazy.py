"""Pulling to an empty node: bytes and seconds until the first answer, over a link of 1 Gb/s.

    PYTHONPATH=tests python benchmarks/lazy.py [--rounds N] [--archives DIRECTORY] [--way WAY]... [--large | RECIPE]

The recipe's image is built in each format of `image.lazy` and pushed once. In each round, CRI-O and containerd pull and
start each of them as usual, and containerd with the stargz snapshotter if it can read it. Each time, all programs of
the node are new, and their stores empty. Bytes are those that the node's end of the link received, with all headers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
from command import cache_option, run_command
from link import NODE_LINK, SUBNETS, run_registry, skopeo
from rich.console import Console
from rich.table import Table
from run import list_live_data
from support.go_tools import CONTAINERD, ensure_go_tool
from support.lazy_pulling import STARGZ, PullingNode, count_received, open_crio, open_stargz, open_whole

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.cli.terminal import TerminalListener
from warmstart.core.errors import VerifyError
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.core.text import format_bytes, format_seconds
from warmstart.core.workspace import open_workspace
from warmstart.node.keeper import Bind
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Lazy, Recipe

TOP = Path(__file__).parents[1]
RECIPE = TOP / "examples/java-app/recipe.yaml"
CRIO, WHOLE, LAZY = "crio", "whole", "lazy"
WAYS = [
    (CRIO, Lazy.NONE),
    (CRIO, Lazy.ZSTD_CHUNKED),
    (WHOLE, Lazy.NONE),
    (WHOLE, Lazy.ESTARGZ),
    (WHOLE, Lazy.ZSTD_CHUNKED),
    (LAZY, Lazy.ESTARGZ),
    (LAZY, Lazy.ZSTD_CHUNKED),
]


LARGE = (1900, 2800, "4Gi")

Way = tuple[str, Lazy]


@dataclass(frozen=True)
class Start:
    """One pull and start: seconds of the pull, seconds until the probe succeeded, bytes received until then."""

    pull_s: float
    total_s: float
    received_bytes: int


@dataclass(frozen=True)
class Programs:
    """The programs of a node."""

    containerd: Path
    stargz: Path


def measure(
    session: Session, programs: Programs, recipe: Recipe, ways: Sequence[Way], rounds: int, console: Console
) -> dict[Way, list[Start]]:
    """Pull and start all images in turn."""
    found: dict[Way, list[Start]] = {way: [] for way in ways}
    with run_registry(session) as registry:
        for lazy in list_formats(ways):
            source = f"oci-archive:{session.workspace}/{lazy}.tar"
            skopeo(session, "--dest-tls-verify=false", source, f"docker://{registry}/{lazy}:1")
        for number in range(rounds * len(ways)):
            turn, place = divmod(number, len(ways))
            # There and back.
            way = ways[place if turn % 2 == 0 else -1 - place]
            container = replace(recipe.container.run_by_image(), image=f"{registry}/{way[1]}:1")
            with open_node(session, programs, way[0], number, registry) as node:
                start = pull_and_start(session, node, container, f"start-{number}")
            found[way].append(start)
            console.print(f"{' '.join(way)}: {format_seconds(start.total_s)}, {format_bytes(start.received_bytes)}")
    return found


def list_formats(ways: Sequence[Way]) -> list[Lazy]:
    """The formats of the images."""
    return list(dict.fromkeys(lazy for _, lazy in ways))


def open_node(
    session: Session, programs: Programs, way: str, number: int, registry: str
) -> contextlib.AbstractContextManager[PullingNode]:
    """Run an empty CRI-O or containerd."""
    if way == CRIO:
        return open_crio(session, f"node-{number}", registry, subnet=SUBNETS.format(number), restore=False)
    if way == WHOLE:
        return open_whole(session, programs.containerd, f"node-{number}", registry)
    return open_stargz(session, programs.containerd, programs.stargz, f"node-{number}", registry)


def pull_and_start(session: Session, node: PullingNode, container: Container, name: str) -> Start:
    """Pull an image and start it."""
    before, began = count_received(session, NODE_LINK), time.monotonic()
    node.pull(container.image)
    pulled_s = time.monotonic() - began
    with node.engine.start(container, container.image, name) as running:
        wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
        total_s, received = time.monotonic() - began, count_received(session, NODE_LINK) - before
        if "warmstart: restored in" not in running.log_file.read_text():
            raise VerifyError("the image was started cold", details=running.log_tail(20))
    return Start(pulled_s, total_s, received)


@contextlib.contextmanager
def open_session(
    cache: Path, archives: Path, formats: Sequence[Lazy], console: Console
) -> Iterator[tuple[Session, Programs]]:
    """Open a session with the registry's program, the images, and the programs of a node."""
    tools = ensure_tree(cache, console.print)
    programs = Programs(*(ensure_go_tool(cache, tool, console.print) for tool in (CONTAINERD, STARGZ)))
    binds = [Bind(str(program.parent)) for program in (programs.containerd, programs.stargz)]
    with open_workspace("lazy") as workspace, enter(tools, workspace, binds=binds) as session:
        for lazy in formats:
            shutil.copy2(archives / f"{lazy}.tar", workspace)
        yield session, programs


def build_archives(
    recipe: Path, overrides: Sequence[str], cache: Path, into: Path, formats: Sequence[Lazy], console: Console
) -> None:
    """Build the image in each format, unless its archive is there already."""
    for lazy in formats:
        archive = into / f"{lazy}.tar"
        if not archive.exists():
            loaded = load_recipe(recipe, overrides=[f"image.lazy={lazy}", *overrides])
            options = BuildOptions(cache, Output(Transport.OCI_ARCHIVE, archive))
            build_image(loaded, options, Progress(TerminalListener(console, verbose=False)))


def make_table(found: dict[Way, list[Start]], archives: Path) -> Table:
    """Return the medians."""
    table = Table("pulled", "format", "pull", "pull and start", "range", "received", "received ÷ image")
    for (way, lazy), starts in found.items():
        received = median(start.received_bytes for start in starts)
        totals = [start.total_s for start in starts]
        table.add_row(
            way,
            lazy,
            format_seconds(median(start.pull_s for start in starts)),
            format_seconds(median(totals)),
            f"{min(totals):.2f}–{max(totals):.2f} s",
            format_bytes(int(received)),
            f"{received / (archives / f'{lazy}.tar').stat().st_size:.3f}",
        )
    return table


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=RECIPE)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("--large", is_flag=True, help="Give the example a heap of 2 GB.")
@click.option(
    "--way",
    "names",
    type=click.Choice([" ".join(way) for way in WAYS]),
    multiple=True,
    help="Only these ways.",
)
@click.option(
    "--archives",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory of the images, by format: those that it has are not built again.",
)
@cache_option
def main(
    recipe: Path,
    rounds: int,
    overrides: tuple[str, ...],
    large: bool,
    names: tuple[str, ...],
    archives: Path | None,
    cache_dir: Path,
) -> None:
    """Pull and start a recipe's image in turn: each format, as usual and lazily."""
    console = Console()
    settings = [*(list_live_data(*LARGE) if large else ()), *overrides]
    loaded = load_recipe(recipe, overrides=settings)
    ways = [way for way in WAYS if not names or " ".join(way) in names]
    with open_workspace("archives") as directory:
        archives = archives or directory
        build_archives(recipe, settings, cache_dir, archives, list_formats(ways), console)
        with open_session(cache_dir, archives, list_formats(ways), console) as (session, programs):
            found = measure(session, programs, loaded, ways, rounds, console)
        console.print(make_table(found, archives))
        console.print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    run_command(main)
