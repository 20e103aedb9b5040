"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from warmstart.node.network import Network
from warmstart.recipe.pods import SeveralContainersError

network_option = click.option(
    "--network",
    type=click.Choice([network.value for network in Network]),
    default=Network.NONE.value,
    show_default=True,
    help="Network of the container on the embedded node: none, or outside through this machine.",
)

secret_option = click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME.KEY=FILE",
    help="Read the build's value of a Secret from FILE.",
)

recipe_option = click.option(
    "--recipe",
    "own",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Trust this recipe instead of the one in IMAGE.",
)


@contextlib.contextmanager
def hint_at_container() -> Iterator[None]:
    """Name the option `--container` in the error of a manifest with several containers."""
    try:
        yield
    except SeveralContainersError as error:
        error.hint = "choose one with --container"
        raise
