"""The command `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from warmstart.cli.context import (
    Shell,
    allow_option,
    pass_shell,
    registry_options,
)
from warmstart.cli.deploy import examine_cluster
from warmstart.cli.options import cluster_options, key_option
from warmstart.cli.terminal import make_checks_table
from warmstart.engine.local import examine_runtime
from warmstart.kube.helper import DEFAULT_IMAGE, DEFAULT_NAMESPACE
from warmstart.node.doctor import examine_host, examine_host_programs, require


@click.command()
@click.option(
    "--runtime-endpoint",
    metavar="SOCKET",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    help="Also check the CRI-O at this socket.",
)
@click.option("--cluster", is_flag=True, help="Check a cluster instead: run --image on a node of each kind.")
@click.option("--image", help="Image built by warmstart that the cluster can pull.")
@click.option(
    "--node-programs",
    is_flag=True,
    help="Ask runc, crun and CRIU of each node, through a helper pod that sees its /usr.",
)
@click.option(
    "--helper-image",
    default=DEFAULT_IMAGE,
    show_default=True,
    envvar="WARMSTART_HELPER_IMAGE",
    help="Image of the helper pod of --node-programs; needs sh and sleep.",
)
@click.option(
    "--helper-namespace",
    default=DEFAULT_NAMESPACE,
    show_default=True,
    help="Namespace of the helper pod; must admit privileged pods.",
)
@allow_option
@key_option
@cluster_options
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@pass_shell
def doctor(
    shell: Shell, /, runtime_endpoint: str | None, cluster: bool, image: str | None, as_json: bool, **options: Any
) -> None:
    """Check whether builds work here, or whether nodes restore.

    Dumps and restores a small process. The exit code is 0 if a build would work.

    With --cluster, check the nodes of a cluster by running --image on one of each kind. With --node-programs, also
    check whether their runc, crun and CRIU have the fixes for crafted links in images. The exit code is 0 if all nodes
    restore.
    """
    if cluster != (image is not None):
        raise click.UsageError("--cluster and --image belong together")
    if options["node_programs"] and not cluster:
        raise click.UsageError("--node-programs needs --cluster")
    if image is not None:
        examine_cluster(shell, image, options, as_json=as_json)
        return
    checks = examine_host(shell.cache)
    if runtime_endpoint is not None:
        checks += [examine_runtime(runtime_endpoint), *examine_host_programs()]
    if as_json:
        shell.print_json([asdict(check) for check in checks])
    else:
        shell.out.print(make_checks_table(checks))
    require(checks)
    if not as_json:
        shell.out.print("A build would work on this machine.")
