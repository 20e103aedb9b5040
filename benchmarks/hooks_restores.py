#!/usr/bin/env python3
"""Start images that restore themselves in turn, and compare them: the same application with hooks and without, say.

    benchmarks/hooks_restores.py RECIPE LAYOUT... [--rounds N]

RECIPE has the container that all are started with. LAYOUT is a directory from `warmstart build -o oci:LAYOUT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
from command import cache_option, run_command

from warmstart.build.launcher_report import read_launcher_times
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.proc.container import read_tree
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.node.keeper import Bind
from warmstart.node.open import open_node
from warmstart.probe.readiness import find_limit_s, first_probe, wait_first_success
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container

SUBNET = "10.94.0.0/24"


@dataclass
class Starts:
    """The starts of one image; milliseconds until the first answer, of the processor by then, of the hooks."""

    layout: Path
    ready_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    hooks_ms: list[float] = field(default_factory=list)
    log: Sequence[str] = ()

    @property
    def image(self) -> str:
        """Its name in the store."""
        return f"localhost/warmstart/{self.layout.name.lower()}:bench"

    def start(self, engine: LocalEngine, container: Container, name: str) -> None:
        """Start it once more."""
        with engine.cri.start(container, self.image, name) as running:
            first = wait_first_success(running, first_probe(container), limit_s=find_limit_s(container))
            self.cpu_ms.append(read_cpu_ms(engine.proc, running.pid))
            self.ready_ms.append((first.at - running.requested_at) * 1000)
            self.hooks_ms.append(read_launcher_times(running).hooks_ms or 0)
            self.log = running.log_tail(1000)


def read_cpu_ms(proc: Path, pid: int) -> float:
    """Return the processor time of a process, its children and their threads."""
    total = 0
    for process in read_tree(proc, pid):
        for task in (proc / str(process.pids[0]) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True))
@click.argument("layouts", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--show-log", is_flag=True, help="Print the log of each image's last start.")
@cache_option
def main(recipe: Path, layouts: Sequence[Path], rounds: int, show_log: bool, cache_dir: Path) -> None:
    """Start each LAYOUT in turn, in containers of RECIPE."""
    container = load_recipe(recipe).container.run_by_image()
    ways = [Starts(layout.resolve()) for layout in layouts]
    binds = [Bind(str(way.layout)) for way in ways]
    with (
        open_node("bench", cache_dir, Progress(SilentListener()), binds=binds) as session,
        start_engine(session, "restores", subnet=SUBNET, restore=False) as engine,
    ):
        for way in ways:
            engine.import_image(way.layout, way.image)
            way.start(engine, container, "first")
            way.ready_ms.clear(), way.cpu_ms.clear(), way.hooks_ms.clear()
        for number in range(rounds):
            turn = number % len(ways)
            for way in (*ways[turn:], *ways[:turn]):
                way.start(engine, container, f"start-{number}")
    click.echo("| image | first answer (fastest) | processor | hooks (fastest) |\n| --- | --- | --- | --- |")
    for way in ways:
        ready, cpu, hooks = map(median, (way.ready_ms, way.cpu_ms, way.hooks_ms))
        click.echo(
            f"| {way.layout.name} | {ready:.0f} ({min(way.ready_ms):.0f}) ms | {cpu:.0f} ms"
            f" | {hooks:.0f} ({min(way.hooks_ms):.0f}) ms |"
        )
        if show_log:
            click.echo("\n".join(way.log))


if __name__ == "__main__":
    run_command(main)
