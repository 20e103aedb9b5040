"""Commands that speak to a Kubernetes cluster; `warmstart.cli` registers what is in COMMANDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from warmstart.kube.rbac import TASKS, read_role
from warmstart.shell import Shell, pass_shell

#: The commands of this module.
COMMANDS: list[click.Command] = []


def command(*args: Any, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """As `click.command`, and adds the command to COMMANDS."""

    def register(function: Callable[..., Any]) -> click.Command:
        made: click.Command = click.command(*args, **kwargs)(function)
        COMMANDS.append(made)
        return made

    return register


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cluster, and where in it: `context` and `namespace`."""
    function = click.option("-n", "--namespace", help="The namespace; that of the context if it is not given.")(
        function
    )
    return click.option(
        "--context", metavar="NAME", help="The context of the kubeconfig; its current one if not given."
    )(function)


@command()
@click.argument("task", type=click.Choice(TASKS))
@pass_shell
def rbac(shell: Shell, task: str) -> None:
    """Print the manifest of a service account that may do TASK: warmstart rbac save | kubectl apply -f -."""
    shell.out.out(read_role(task), end="")
