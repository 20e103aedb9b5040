"""Pulling lazily: bytes and seconds from an empty node to the first answer, over a link of 1 Gb/s.

    PYTHONPATH=tests python benchmarks/lazy.py [--rounds N] [RECIPE]

The recipe's image is built as eStargz (`image.lazy`), pushed once, and pulled in turn by containerd as usual and by
containerd with the stargz snapshotter. Each round has a containerd and a snapshotter of its own, whose stores are
empty. Bytes are those that the node's end of the link received, with all headers.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
from command import cache_option, run_command
from link import NODE_LINK, run_registry, skopeo
from rich.console import Console
from rich.table import Table
from support.go_tools import CONTAINERD, ensure_go_tool
from support.lazy_pulling import STARGZ, PullingNode, count_received, open_stargz, open_whole
from support.runtime_tree import ensure_runtime_tree

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
from warmstart.recipe.model import Container, Recipe

TOP = Path(__file__).parents[1]
RECIPE = TOP / "examples/java-app/recipe.yaml"
WHOLE, LAZY = "whole", "lazy"


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
    session: Session, programs: Programs, recipe: Recipe, rounds: int, console: Console
) -> dict[str, list[Start]]:
    """Pull and start an image in turn, whole and lazily."""
    found: dict[str, list[Start]] = {WHOLE: [], LAZY: []}
    with run_registry(session) as registry:
        image = f"{registry}/lazy:1"
        skopeo(session, "--dest-tls-verify=false", f"oci-archive:{session.workspace}/image.tar", f"docker://{image}")
        container = replace(recipe.container, image=image, command=(), args=())
        for number in range(2 * rounds):
            # a b b a a b b a
            way = (WHOLE, LAZY)[(number + 1) // 2 % 2]
            with open_node(session, programs, way, number, registry) as node:
                start = pull_and_start(session, node, container, f"start-{number}")
            found[way].append(start)
            console.print(f"{way}: {format_seconds(start.total_s)}, {format_bytes(start.received_bytes)}")
    return found


def open_node(
    session: Session, programs: Programs, way: str, number: int, registry: str
) -> contextlib.AbstractContextManager[PullingNode]:
    """Run an empty containerd."""
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
def open_session(cache: Path, archive: Path, console: Console) -> Iterator[tuple[Session, Programs]]:
    """Open a session with the registry's program, the image, and the programs of a node."""
    runtimes, tools = ensure_runtime_tree(cache, console.print), ensure_tree(cache, console.print)
    programs = Programs(*(ensure_go_tool(cache, tool, console.print) for tool in (CONTAINERD, STARGZ)))
    binds = [Bind(str(program.parent)) for program in (programs.containerd, programs.stargz)]
    with open_workspace("lazy") as workspace, enter(runtimes, workspace, binds=binds) as session:
        shutil.copy2(tools / "usr/bin/docker-registry", session.root / "usr/local/bin")
        shutil.copy2(archive, workspace / "image.tar")
        yield session, programs


def make_table(found: dict[str, list[Start]], size_bytes: int) -> Table:
    """Return the medians."""
    table = Table("pulled", "pull", "pull and start", "range", "received", "received ÷ image")
    for way, starts in found.items():
        received = median(start.received_bytes for start in starts)
        totals = [start.total_s for start in starts]
        table.add_row(
            way,
            format_seconds(median(start.pull_s for start in starts)),
            format_seconds(median(totals)),
            f"{min(totals):.2f}–{max(totals):.2f} s",
            format_bytes(int(received)),
            f"{received / size_bytes:.2f}",
        )
    return table


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=RECIPE)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("--image", type=click.Path(path_type=Path, exists=True), help="Use this archive instead of a build.")
@cache_option
def main(recipe: Path, rounds: int, overrides: tuple[str, ...], image: Path | None, cache_dir: Path) -> None:
    """Pull and start a recipe's image, whole and lazily, in turn."""
    console = Console()
    loaded = load_recipe(recipe, overrides=["image.lazy=estargz", *overrides])
    with open_workspace("archive") as directory:
        if image is None:
            image = directory / "image.tar"
            options = BuildOptions(cache_dir, Output(Transport.OCI_ARCHIVE, image))
            build_image(loaded, options, Progress(TerminalListener(console, verbose=False)))
        size_bytes = image.stat().st_size
        with open_session(cache_dir, image, console) as (session, programs):
            found = measure(session, programs, loaded, rounds, console)
    console.print(make_table(found, size_bytes))


if __name__ == "__main__":
    run_command(main)
