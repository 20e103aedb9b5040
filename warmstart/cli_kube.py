"""Commands that speak to a Kubernetes cluster; `warmstart.cli` registers what is in COMMANDS."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from warmstart.checkpoint import CheckpointOptions, Taken, find_target, take_checkpoint
from warmstart.core.text import format_bytes, format_seconds
from warmstart.kube.client import connect_cluster
from warmstart.kube.helper import DEFAULT_DIRECTORY, DEFAULT_IMAGE, DEFAULT_NAMESPACE, Errand
from warmstart.kube.rbac import TASKS, read_role
from warmstart.shell import Shell, pass_shell
from warmstart.terminal import make_table

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


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a checkpoint is taken and fetched; the function is given `how`."""
    options = [
        click.option(
            "--checkpoint-timeout",
            type=click.FloatRange(min=1),
            default=120.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the checkpoint may take.",
        ),
        click.option(
            "--helper-image",
            default=DEFAULT_IMAGE,
            show_default=True,
            envvar="WARMSTART_HELPER_IMAGE",
            help="Image of the pod that fetches the checkpoint from its node; with cat, stat, rm, sleep.",
        ),
        click.option(
            "--helper-namespace",
            default=DEFAULT_NAMESPACE,
            show_default=True,
            help="The namespace of that pod; it must admit privileged pods.",
        ),
        click.option(
            "--checkpoints-dir",
            default=DEFAULT_DIRECTORY,
            show_default=True,
            help="Where the kubelet of the node leaves checkpoints.",
        ),
        click.option(
            "--kubelet-ca",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="Authority of the kubelets' certificates, should the API server not let us reach them.",
        ),
    ]

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        checkpoint_timeout: float,
        helper_image: str,
        helper_namespace: str,
        checkpoints_dir: str,
        kubelet_ca: Path | None,
        **kwargs: Any,
    ) -> Any:
        errand = Errand(helper_image, helper_namespace, checkpoints_dir.rstrip("/"))
        how = CheckpointOptions(errand, checkpoint_timeout, kubelet_ca)
        return function(*args, how=how, **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


@command()
@click.argument("pod")
@click.option("-c", "--container", help="Which container of the pod.")
@click.option(
    "-o",
    "--output",
    "archive",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar",
    help="Where to put the archive.",
)
@click.option("--keep", is_flag=True, help="Leave the archive on the node, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@cluster_options
@checkpoint_options
@pass_shell
def checkpoint(
    shell: Shell,
    pod: str,
    container: str | None,
    archive: Path,
    keep: bool,
    as_json: bool,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
) -> None:
    """Take a checkpoint of a container of POD, which goes on, and fetch the archive.

    The archive holds the container's memory, and with it its secrets.
    """
    with connect_cluster(context, namespace) as cluster:
        found = find_target(cluster, pod, container)
        taken = take_checkpoint(cluster, *found, archive, replace(how, keep=keep), shell.steps())
    if as_json:
        shell.print_json(describe_taken(taken))
    else:
        shell.out.print(make_table(list_taken(taken)))


def describe_taken(taken: Taken) -> dict[str, Any]:
    """A checkpoint as a document; sizes in bytes, times in seconds."""
    return {
        "namespace": taken.pod.namespace,
        "pod": taken.pod.name,
        "container": taken.container.name,
        "node": taken.pod.node,
        "image": taken.container.image_id or taken.container.image,
        "archive": str(taken.archive),
        "sizeBytes": taken.size_bytes,
        "onNode": taken.on_node,
        "frozenSeconds": taken.frozen_s,
        "stoppedAtMostSeconds": taken.stopped_s,
    }


def list_taken(taken: Taken) -> list[tuple[str, str]]:
    """A checkpoint as rows of a table."""
    frozen = "" if taken.frozen_s is None else f"{format_seconds(taken.frozen_s)} by CRIU, "
    rows = [
        ("archive", str(taken.archive)),
        ("size", format_bytes(taken.size_bytes)),
        ("container", f"{taken.container.name} of {taken.pod.namespace}/{taken.pod.name} on {taken.pod.node}"),
        ("image", taken.container.image_id or taken.container.image),
        ("frozen", f"{frozen}no longer than {format_seconds(taken.stopped_s)} in all"),
    ]
    return [*rows, ("on the node", taken.on_node)] if taken.on_node else rows
