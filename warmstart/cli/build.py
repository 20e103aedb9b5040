"""The commands that make an image and verify one: `build`, `verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import REGISTRY, parse_output
from warmstart.build.result import make_document
from warmstart.build.verify import verify_source
from warmstart.cli.context import (
    Shell,
    allow_option,
    checkpoint_timeout_option,
    pass_shell,
    registry_options,
)
from warmstart.cli.options import network_option, recipe_option
from warmstart.cli.pods import cluster_options, helper_options
from warmstart.cli.terminal import make_table
from warmstart.cli.views.build import list_rows
from warmstart.core.privileges import Privilege
from warmstart.core.text import format_seconds
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.target import read_image_target
from warmstart.inspect.trust import trust
from warmstart.kube.client import connect_cluster
from warmstart.node.network import Network
from warmstart.pods.build import ClusterTarget, build_in_cluster
from warmstart.pods.checkpoint import CheckpointOptions
from warmstart.recipe.load import load_recipe


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("-t", "--tag", help="Tag, or whole name, of the new image.")
@click.option("-o", "--output", metavar="KIND:PATH", help="oci:DIRECTORY or oci-archive:FILE instead of a registry.")
@registry_options
@click.option(
    "--runtime-endpoint",
    metavar="SOCKET",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    help="Build on the CRI-O at this socket, such as unix:///run/crio/crio.sock.",
)
@click.option(
    "--engine",
    type=click.Choice(["cri", "kubernetes"]),
    default="cri",
    show_default=True,
    help="Run the container on this machine, or in a pod of a cluster.",
)
@cluster_options
@helper_options
@checkpoint_timeout_option
@network_option
@allow_option
@click.option("--force", is_flag=True, help="Continue despite preflight errors.")
@click.option("--keep", is_flag=True, help="Keep all files if a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def build(
    shell: Shell,
    recipe: Path,
    overrides: tuple[str, ...],
    tag: str | None,
    output: str | None,
    access: RegistryAccess,
    runtime_endpoint: str | None,
    engine: str,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
    checkpoint_timeout: float,
    network: str,
    allowed: tuple[Privilege, ...],
    force: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Build a warm image from RECIPE, verify it, and publish it."""
    options = BuildOptions(
        cache=shell.cache,
        output=parse_output(output) if output else REGISTRY,
        access=access,
        checkpoint_timeout_s=checkpoint_timeout,
        force=force,
        keep=keep,
        runtime_endpoint=runtime_endpoint,
        network=Network(network),
        allowed=allowed,
    )
    progress = shell.progress()
    loaded = load_recipe(recipe, overrides=overrides, tag=tag)
    if engine == "kubernetes":
        with connect_cluster(context, namespace) as cluster:
            built = build_in_cluster(loaded, options, ClusterTarget(cluster, how), progress)
    else:
        built = build_image(loaded, options, progress)
    if as_json:
        shell.print_json(make_document(built, progress))
    else:
        shell.out.print(make_table(list_rows(built, progress)))


@click.command()
@click.argument("image")
@registry_options
@network_option
@recipe_option
@allow_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def verify(
    shell: Shell,
    image: str,
    access: RegistryAccess,
    network: str,
    own: Path | None,
    allowed: tuple[Privilege, ...],
    as_json: bool,
) -> None:
    """Verify that an image built by warmstart restores.

    IMAGE is restored twice on an empty node, each time under another address.
    """
    decide = trust(allowed, None if own is None else load_recipe(own))
    restores = verify_source(
        read_image_target(image), shell.cache, access, shell.progress(), Network(network), decide=decide
    )
    if as_json:
        shell.print_json([asdict(restore) for restore in restores])
    else:
        rows = [(r.address, f"{r.how}, ready after {format_seconds(r.first_success_s)}") for r in restores]
        shell.out.print(make_table(rows))
