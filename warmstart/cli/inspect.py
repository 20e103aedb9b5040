"""The command `inspect`."""

from __future__ import annotations

import click

from warmstart.cli.context import (
    Shell,
    pass_shell,
    registry_options,
    show_env_option,
)
from warmstart.cli.terminal import make_section
from warmstart.cli.views.inspect import list_sections, to_document
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.inspection import inspect_target


@click.command("inspect")
@click.argument("target", metavar="IMAGE|ARCHIVE")
@registry_options
@show_env_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def inspect_(shell: Shell, target: str, access: RegistryAccess, show_env: bool, as_json: bool) -> None:
    """Show the contents and origin of an image or checkpoint archive.

    Shows sizes, processes, sockets, privileges, and how the image was built.
    """
    inspection = inspect_target(target, access=access)
    if as_json:
        shell.print_result(to_document(inspection, show_env=show_env))
    else:
        for section in list_sections(inspection, show_env=show_env):
            shell.out.print(make_section(section))
