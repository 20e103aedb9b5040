"""Commands that print a text of the package: `completion`, `rbac`, `schema`.

They do not import what builds images, and end at once.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from warmstart.cli.context import Shell, pass_shell
from warmstart.kube.rbac import TASKS, read_role
from warmstart.recipe.schema import schema_text


@click.command()
@click.argument("task", type=click.Choice(TASKS))
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    help="Namespace of the pods; repeatable.  [default: all namespaces]",
)
@click.option(
    "--kubelet",
    is_flag=True,
    help="Request checkpoints from kubelets directly (port 10250), with fewer rights than through the proxy.",
)
@pass_shell
def rbac(shell: Shell, task: str, namespaces: tuple[str, ...], kubelet: bool) -> None:
    """Print a service account with the rights for TASK.

    Apply it with: warmstart rbac save | kubectl apply -f -
    """
    shell.out.out(read_role(task, namespaces, kubelet=kubelet), end="")


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
