"""Commands that help to write a recipe and to type commands: `init`, `schema`, `completion`."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from warmstart.cli.context import (
    Shell,
    pass_shell,
    registry_options,
)
from warmstart.cli.options import hint_at_container
from warmstart.image.open import open_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.target import read_image_target
from warmstart.recipe.init import ImageConfig, init_from_image, init_from_manifest
from warmstart.recipe.schema import schema_text


@click.command()
@click.argument("image", required=False)
@click.option("-f", "--from", "manifest", type=click.Path(path_type=Path), help="A Deployment or another manifest.")
@click.option("-c", "--container", help="Container of the manifest.")
@registry_options
@pass_shell
def init(
    shell: Shell,
    image: str | None,
    manifest: Path | None,
    container: str | None,
    access: RegistryAccess,
) -> None:
    """Write a recipe from an image or a manifest (--from)."""
    if (image is None) == (manifest is None):
        raise click.UsageError("give an IMAGE, or a manifest with --from")
    if manifest is not None:
        with hint_at_container():
            text = init_from_manifest(manifest, container=container)
    else:
        assert image is not None
        source = read_image_target(image)
        with open_image(source, access=access) as opened:
            config = opened.image.config
        text = init_from_image(
            # A recipe names the transport of an image in a file.
            image if source.path is None else str(source),
            ImageConfig(
                entrypoint=config.entrypoint,
                cmd=config.cmd,
                exposed_ports=config.exposed_ports,
                env=tuple(f"{name}={value}" for name, value in config.env),
                user=config.user,
            ),
        )
    shell.out.out(text, end="")


@click.command()
@pass_shell
def schema(shell: Shell) -> None:
    """Print the JSON Schema of recipes."""
    shell.out.out(schema_text())


@click.command()
@click.argument("shell_name", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@pass_shell
def completion(shell: Shell, shell_name: str) -> None:
    """Print a completion script for bash, zsh or fish.

    Use it with eval "$(warmstart completion bash)".
    """
    completer = get_completion_class(shell_name)
    assert completer is not None
    shell.out.out(
        completer(click.get_current_context().find_root().command, {}, "warmstart", "_WARMSTART_COMPLETE").source()
    )
