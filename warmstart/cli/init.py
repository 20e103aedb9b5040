"""The command that writes a recipe: `init`."""

from __future__ import annotations

from pathlib import Path

import click

from warmstart.cli.context import (
    Shell,
    pass_shell,
    registry_options,
)
from warmstart.cli.options import cluster_options, hint_at_container
from warmstart.core.errors import WarmstartError
from warmstart.image.open import open_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.target import read_image_target, read_target
from warmstart.kube.client import connect_cluster
from warmstart.kube.workload import parse_workload, read_workload
from warmstart.recipe.init.image import ImageConfig, propose_from_image
from warmstart.recipe.init.inputs import Inputs, read_inputs
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.init.text import Proposal
from warmstart.recipe.reading import MANIFEST_SUFFIXES, STDIN


@click.command()
@click.argument("targets", metavar="[IMAGE|FILE|DIRECTORY|-|KIND/NAME]...", nargs=-1)
@click.option(
    "-f",
    "--from",
    "manifests",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Read this manifest or directory, as FILE and DIRECTORY do.",
)
@click.option("-c", "--container", help="Container of the manifest: NAME, OBJECT/NAME or KIND/OBJECT/NAME.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a new file; paths in the recipe start at its directory.  [default: standard output]",
)
@cluster_options
@registry_options
@pass_shell
def init(
    shell: Shell,
    targets: tuple[str, ...],
    manifests: tuple[Path, ...],
    container: str | None,
    output: Path | None,
    context: str | None,
    namespace: str | None,
    access: RegistryAccess,
) -> None:
    """Write a recipe from an image, manifests, or a cluster.

    FILE, DIRECTORY and standard input hold manifests, such as the output of `helm template` or `kustomize build`. From
    the same input come the ConfigMaps, the names of the keys of Secrets, and databases for the build. KIND/NAME, such
    as deployment/shop, is read from a cluster; Secrets are never read.
    """
    if output is not None and output.exists():
        raise click.UsageError(f"{output} exists already: delete it, or name another file")
    directory = output.parent if output is not None else Path()
    inputs = _read_inputs(targets, manifests, context, namespace)
    if inputs is None:
        proposal = _init_image(targets[0], access)
    else:
        with hint_at_container():
            options = InitOptions(container, directory, lambda image: _find_ports(image, access))
            proposal = propose_recipe(inputs, options)
    for reason in proposal.to_do:
        shell.progress().warn(f"to do: {reason}")
    text = proposal.text
    if output is None:
        shell.out.out(text.removesuffix("\n"), highlight=False)
    else:
        output.write_text(text, encoding="utf-8")


def _find_manifest(target: str) -> Path | None:
    """Return the path of a manifest or a directory of them; None if an argument names something else."""
    if target == str(STDIN) or (":" not in target and target.endswith(MANIFEST_SUFFIXES)):
        return Path(target)
    if Path(target).is_dir():
        has_any = any(path.suffix in MANIFEST_SUFFIXES for path in Path(target).iterdir())
        return Path(target) if has_any and not (Path(target) / "oci-layout").exists() else None
    known = read_target(target) if Path(target).exists() else None
    return known.recipe if known is not None else None


def _read_inputs(
    targets: tuple[str, ...], manifests: tuple[Path, ...], context: str | None, namespace: str | None
) -> Inputs | None:
    """Read the manifests, or the objects of a cluster; return None for an image."""
    found = [_find_manifest(target) for target in targets]
    paths = [*manifests, *(path for path in found if path is not None)]
    others = [target for target, path in zip(targets, found, strict=True) if path is None]
    if len(others) + bool(paths) != 1:
        raise click.UsageError("give an IMAGE, manifests, or KIND/NAME")
    if paths:
        return read_inputs(*paths)
    workload = parse_workload(others[0])
    if workload is None:
        return None
    with connect_cluster(context, namespace) as cluster:
        return read_workload(cluster, workload)


def _init_image(target: str, access: RegistryAccess) -> Proposal:
    source = read_image_target(target)
    with open_image(source, access=access) as opened:
        config = opened.image.config
    return propose_from_image(
        # A recipe names the transport of an image in a file.
        target if source.path is None else str(source),
        ImageConfig(
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            exposed_ports=config.exposed_ports,
            env=tuple(f"{name}={value}" for name, value in config.env),
            user=config.user,
        ),
    )


def _find_ports(image: str, access: RegistryAccess) -> tuple[str, ...] | None:
    """Return the ports that an image exposes; None if it cannot be read from here."""
    try:
        with open_image(read_image_target(image), access=access) as opened:
            return opened.image.config.exposed_ports
    except (WarmstartError, OSError):
        return None
