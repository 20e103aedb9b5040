"""The command `inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from warmstart.cli.context import (
    Shell,
    pass_shell,
    registry_options,
    show_env_option,
)
from warmstart.cli.options import look_key_option
from warmstart.cli.terminal import make_section
from warmstart.cli.views.inspect import list_sections, to_document
from warmstart.cli.views.secrets import make_secrets_document, make_secrets_section
from warmstart.core.errors import SecretError
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.secrets.scan import KNOWN
from warmstart.image.signatures.check import Trust
from warmstart.inspect.inspection import inspect_target
from warmstart.inspect.secrets import search_target
from warmstart.recipe.secret_files import read_values


@click.command("inspect")
@click.argument("target", metavar="IMAGE|ARCHIVE")
@look_key_option
@registry_options
@show_env_option
@click.option("--secrets", is_flag=True, help="Search it for secrets instead.")
@click.option(
    "--values",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --secrets: values to find, one a line or NAME=VALUE. Exit code 16 if one is found.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def inspect_(
    shell: Shell,
    target: str,
    signed: Trust,
    access: RegistryAccess,
    show_env: bool,
    secrets: bool,
    values: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show the contents and origin of an image or checkpoint archive.

    Shows sizes, processes, sockets, privileges, and how the image was built. With --secrets, it searches memory, files,
    environment, annotations and config of any image, or of any archive of CRI-O or Podman.
    """
    if values and not secrets:
        raise click.UsageError("--values needs --secrets")
    if secrets:
        _show_secrets(shell, target, access, signed, values, as_json=as_json)
        return
    inspection = inspect_target(target, access=access, signed=signed)
    if as_json:
        shell.print_result(to_document(inspection, show_env=show_env))
    else:
        for section in list_sections(inspection, show_env=show_env):
            shell.out.print(make_section(section))


def _show_secrets(
    shell: Shell, target: str, access: RegistryAccess, signed: Trust, values: tuple[Path, ...], *, as_json: bool
) -> None:
    """Show the secrets in an image or archive.

    Raises:
        SecretError: one of the user's values is among them.
    """
    wanted = [one for file in values for one in read_values(file)]
    result = search_target(target, wanted, access=access, signed=signed)
    if as_json:
        shell.print_result(make_secrets_document(target, result))
    elif result.findings:
        shell.out.print(make_section(make_secrets_section(result)))
    else:
        shell.out.print("no secrets found")
    if found := [one.title for one in result.findings if one.kind == KNOWN]:
        raise SecretError(f"{target} holds {len(found)} of the values: {', '.join(found)}")
