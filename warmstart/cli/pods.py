"""Commands that speak to a Kubernetes cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from warmstart.build.publish import REGISTRY, parse_output
from warmstart.cli.context import (
    HIDDEN,
    Shell,
    allow_option,
    checkpoint_timeout_option,
    pass_shell,
    registry_options,
    show_env_option,
)
from warmstart.cli.options import cluster_options, key_option, secrets_options, sign_option
from warmstart.cli.terminal import make_table
from warmstart.core.errors import ClusterError, ImageError
from warmstart.core.privileges import Privilege, require_allowed
from warmstart.core.text import format_bytes, format_seconds, printable_lines
from warmstart.core.yaml_writing import write_yaml
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import Trust
from warmstart.image.signatures.keyless import Signer
from warmstart.inspect.inspection import inspect_image
from warmstart.inspect.target import read_image_target
from warmstart.inspect.trust import list_saved_privileges
from warmstart.kube.client import connect_cluster
from warmstart.kube.helper import DEFAULT_DIRECTORY, DEFAULT_IMAGE, DEFAULT_NAMESPACE, Errand
from warmstart.kube.pods import make_copy, place_pod
from warmstart.kube.recorded import make_recorded_pod
from warmstart.pods.checkpoint import CheckpointOptions, FetchedCheckpoint, find_target, take_checkpoint
from warmstart.pods.migrate import Migration, PodOutcome, check_movable, drain_node, migrate_pod
from warmstart.pods.save import RestoredPod, SavedImage, SaveOptions, push_record, read_record, restore_pod, save_pod
from warmstart.recipe.model import SecretSearch
from warmstart.recipe.pods import hide_values


def helper_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a checkpoint is fetched from its node; the function is given `how`."""
    options = [
        click.option(
            "--helper-image",
            default=DEFAULT_IMAGE,
            show_default=True,
            envvar="WARMSTART_HELPER_IMAGE",
            help="Image of the helper pod that reads the checkpoint; needs cat, stat, rm and sleep, for `build` also"
            " sh, chmod, mkdir and head.",
        ),
        click.option(
            "--helper-namespace",
            default=DEFAULT_NAMESPACE,
            show_default=True,
            help="Namespace of the helper pod; must admit privileged pods.",
        ),
        click.option(
            "--checkpoints-dir",
            default=DEFAULT_DIRECTORY,
            show_default=True,
            help="Directory of checkpoints on the node.",
        ),
        click.option(
            "--kubelet-ca",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="CA of the kubelets' certificates, if warmstart must ask them directly.",
        ),
    ]

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        helper_image: str,
        helper_namespace: str,
        checkpoints_dir: str,
        kubelet_ca: Path | None,
        **kwargs: Any,
    ) -> Any:
        errand = Errand(helper_image, helper_namespace, checkpoints_dir.rstrip("/"))
        return function(*args, how=CheckpointOptions(errand, kubelet_ca=kubelet_ca), **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def compare_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option to compare the kernel state; it is in the function's `how`."""

    @click.option(
        "--compare-state",
        is_flag=True,
        help="Compare the kernel state before the checkpoint with that after a restore. The helper pod then sees the "
        "processes of its node.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, how: CheckpointOptions, compare_state: bool, **kwargs: Any) -> Any:
        errand = replace(how.errand, sees_processes=compare_state)
        return function(*args, how=replace(how, errand=errand), **kwargs)

    return wrapped


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Those, and how long the checkpoint may take."""

    @helper_options
    @checkpoint_timeout_option
    @functools.wraps(function)
    def wrapped(*args: Any, how: CheckpointOptions, checkpoint_timeout: float, **kwargs: Any) -> Any:
        return function(*args, how=replace(how, timeout_s=checkpoint_timeout), **kwargs)

    return wrapped


@click.command()
@click.argument("pod")
@click.option("-c", "--container", help="Container of the pod.")
@click.option(
    "-o",
    "--output",
    "archive",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar",
    help="Path of the archive.",
)
@click.option("--keep", is_flag=True, help="Also keep the archive on the node.")
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
    """Checkpoint a container of POD and fetch the archive.

    The container keeps running. The archive contains its memory, including secrets.
    """
    with connect_cluster(context, namespace) as cluster:
        found = find_target(cluster, pod, container)
        taken = take_checkpoint(cluster, *found, archive, replace(how, keep=keep), shell.progress())
    if as_json:
        shell.print_result(describe_taken(taken))
    else:
        shell.out.print(make_table(list_taken(taken)))


def describe_taken(taken: FetchedCheckpoint) -> dict[str, Any]:
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


def list_taken(taken: FetchedCheckpoint) -> list[tuple[str, str]]:
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


def ready_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says how long a restored pod may take: `ready_timeout`."""
    return click.option(
        "--ready-timeout",
        type=click.FloatRange(min=1),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="Time limit until the restored pod is ready.",
    )(function)


@click.command()
@click.argument("pod")
@click.option("-c", "--container", help="Container of the pod.")
@click.option("--image", required=True, metavar="NAME", help="Name of the image.")
@click.option("-o", "--output", metavar="KIND:PATH", help="oci:DIRECTORY or oci-archive:FILE instead of a registry.")
@sign_option
@secrets_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@registry_options
@cluster_options
@checkpoint_options
@pass_shell
def save(
    shell: Shell,
    pod: str,
    container: str | None,
    image: str,
    output: str | None,
    signer: Signer | None,
    search: SecretSearch,
    as_json: bool,
    access: RegistryAccess,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
) -> None:
    """Save a container of POD as an image.

    The container keeps running. `warmstart restore` makes a pod from the image. Before the image is published, its
    memory, files and annotations are searched for secrets.
    """
    to = parse_output(output) if output else REGISTRY
    options = SaveOptions(shell.cache, how, to, access, signer=signer, search=search)
    with connect_cluster(context, namespace) as cluster:
        saved = save_pod(cluster, *find_target(cluster, pod, container), image, options, shell.progress())
    if as_json:
        shell.print_result(describe_saved(saved))
    else:
        shell.out.print(make_table(list_saved(saved)))


@click.command()
@click.argument("image")
@click.option("--name", help="Name of the pod.  [default: the saved pod's]")
@click.option("--to", "node", metavar="NODE", help="Node to run it on.  [default: any]")
@allow_option
@key_option
@click.option("--dry-run", is_flag=True, help="Print the pod without creating it.")
@show_env_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@ready_option
@registry_options
@cluster_options
@pass_shell
def restore(
    shell: Shell,
    image: str,
    name: str | None,
    node: str | None,
    allowed: tuple[Privilege, ...],
    signed: Trust,
    dry_run: bool,
    show_env: bool,
    as_json: bool,
    ready_timeout: float,
    access: RegistryAccess,
    context: str | None,
    namespace: str | None,
) -> None:
    """Restore a pod from an image made by `warmstart save`.

    Prints the pod, creates it, and checks that it was restored and becomes ready. Privileges, other images and objects
    of the namespace that the image asks for need --allow; the error lists all of them. An image in a file
    (oci-archive:FILE) is pushed to the name under which it was saved, if you pass --allow image=NAME.
    """
    source, progress = read_image_target(image), shell.progress()
    record = read_record(source, access=access)
    inspection = inspect_image(source, access=access, signed=signed)
    if inspection.image is None or inspection.image.digest != record.digest:
        raise ImageError(f"{image} was replaced while it was read", hint="use a tag that nobody moves")
    if inspection.checkpoint is None:
        require_allowed(record.privileges, allowed, image)
    require_allowed([*record.privileges, *list_saved_privileges(inspection, record.context)], allowed, image)
    with connect_cluster(context, namespace) as cluster:
        recorded = make_recorded_pod(record.manifest, cluster.namespace)
        manifest = make_copy(recorded, record.container, str(record.name), name=name or "")
        if node is not None:
            place_pod(manifest, node, there=True)
        shown = manifest if show_env else hide_values(manifest, HIDDEN)
        if dry_run:
            if as_json:
                shell.print_json(shown)
            else:
                shell.out.out(printable_lines(write_yaml(shown)), end="", highlight=False)
            return
        shell.err.out(printable_lines(write_yaml(shown)), end="", highlight=False)
        if source.reference is None:
            with progress.step("push"):
                push_record(source, record, access=access)
        restored = restore_pod(cluster, manifest, record.container, ready_timeout, progress)
    if as_json:
        shell.print_result(describe_restored(restored))
    else:
        shell.out.print(make_table(list_restored(restored)))


@click.command()
@click.argument("pod")
@click.option("-c", "--container", help="Container of the pod.")
@click.option("--to", "node", required=True, metavar="NODE", help="Node to move the pod to.")
@click.option("--image", required=True, metavar="NAME", help="Name of the intermediate image.")
@sign_option
@secrets_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@ready_option
@registry_options
@cluster_options
@checkpoint_options
@compare_option
@pass_shell
def migrate(
    shell: Shell,
    pod: str,
    container: str | None,
    node: str,
    image: str,
    signer: Signer | None,
    search: SecretSearch,
    as_json: bool,
    ready_timeout: float,
    access: RegistryAccess,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
) -> None:
    """Move POD with its state to another node.

    A new pod is restored there, and then the old one is removed. Connections of the old pod are closed. Changes that it
    makes after the checkpoint are lost.
    """
    options = SaveOptions(shell.cache, how, REGISTRY, access, ready_timeout, signer, search)
    with connect_cluster(context, namespace) as cluster:
        found = find_target(cluster, pod, container)
        check_movable(found[0])
        migrated = migrate_pod(cluster, *found, node, image, options, shell.progress())
    if as_json:
        shell.print_result(describe_migrated(migrated))
    else:
        shell.out.print(make_table(list_migrated(migrated)))


@click.command("drain-save")
@click.argument("node")
@click.option("-l", "--selector", required=True, help="Label selector of the pods.")
@click.option(
    "--image", required=True, metavar="REPOSITORY", help="Repository of the images; the names of the pods become tags."
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=1),
    required=True,
    metavar="SECONDS",
    help="Time until the node can disappear.",
)
@sign_option
@secrets_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@ready_option
@registry_options
@cluster_options
@checkpoint_options
@pass_shell
def drain_save(
    shell: Shell,
    node: str,
    selector: str,
    image: str,
    deadline: float,
    signer: Signer | None,
    search: SecretSearch,
    as_json: bool,
    ready_timeout: float,
    access: RegistryAccess,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
) -> None:
    """Save pods of NODE, then restore them on other nodes.

    All checkpoints leave the node before the deadline. Then the pods are restored, several at once. Failures are
    reported, and the exit code is not 0.
    """
    options = SaveOptions(shell.cache, how, REGISTRY, access, ready_timeout, signer, search)
    with connect_cluster(context, namespace) as cluster:
        fates = drain_node(cluster, node, selector, image, deadline, options, shell.progress())
    if as_json:
        shell.print_json([describe_fate(fate) for fate in fates])
    else:
        shell.out.print(make_table([(fate.pod.name, tell_fate(fate)) for fate in fates]))
    lost = [fate for fate in fates if fate.error is not None]
    if lost:
        brief = f"{len(lost)} of {len(fates)} pods of {node} are not on another node"
        raise ClusterError(brief, details=[f"{fate.pod.name}: {fate.error}" for fate in lost])


def describe_saved(saved: SavedImage) -> dict[str, Any]:
    """A container that was saved, as a document."""
    return {
        "image": saved.name,
        "digest": saved.image.manifest.digest,
        "destination": saved.destination,
        "closedSockets": saved.closed,
        "findings": [one.document for one in saved.secrets],
        "checkpoint": {**describe_taken(saved.taken), "archive": None},
    }


def list_saved(saved: SavedImage) -> list[tuple[str, str]]:
    """A container that was saved, as rows of a table."""
    return [
        ("image", saved.name),
        ("digest", saved.image.manifest.digest),
        ("published", saved.destination),
        *list_taken(saved.taken)[1:],
        ("connections", f"{saved.closed} closed in what is restored"),
    ]


def describe_restored(restored: RestoredPod) -> dict[str, Any]:
    """A pod that was restored, as a document."""
    pod = restored.pod
    return {
        "namespace": pod.namespace,
        "pod": pod.name,
        "node": pod.node,
        "address": pod.ip,
        "readySeconds": restored.ready_s,
    }


def list_restored(restored: RestoredPod) -> list[tuple[str, str]]:
    """A pod that was restored, as rows of a table."""
    pod = restored.pod
    return [
        ("pod", f"{pod.namespace}/{pod.name}"),
        ("node", pod.node),
        ("ready", f"{format_seconds(restored.ready_s)} after it was created"),
    ]


def describe_migrated(migrated: Migration) -> dict[str, Any]:
    """A pod that was moved, as a document."""
    return {
        "from": migrated.saved.taken.pod.name,
        "saved": describe_saved(migrated.saved),
        "restored": describe_restored(migrated.restored),
        "downtimeSeconds": migrated.saved.taken.stopped_s,
        "gapSeconds": migrated.gap_s,
        "overlapSeconds": migrated.overlap_s,
    }


def list_migrated(migrated: Migration) -> list[tuple[str, str]]:
    """A pod that was moved, as rows of a table."""
    old, stopped_s = migrated.saved.taken.pod, migrated.saved.taken.stopped_s
    return [
        ("moved", f"{old.namespace}/{old.name} from {old.node}"),
        *list_restored(migrated.restored),
        *list_saved(migrated.saved),
        ("downtime", f"no longer than {format_seconds(stopped_s)}, while it was frozen; clients waited"),
        ("gap", f"{format_seconds(migrated.gap_s)} from the checkpoint until the new pod was ready"),
        ("overlap", f"{format_seconds(migrated.overlap_s)} from then on until the old pod was told to end"),
    ]


def describe_fate(fate: PodOutcome) -> dict[str, Any]:
    """What became of a pod, as a document."""
    return {
        "pod": fate.pod.name,
        "saved": fate.taken is not None,
        "migrated": None if fate.migrated is None else describe_migrated(fate.migrated),
        "error": None if fate.error is None else fate.error.brief,
    }


def tell_fate(fate: PodOutcome) -> str:
    """What became of a pod, in a line."""
    if fate.migrated is not None:
        new = fate.migrated.restored.pod
        return f"{new.name} on {new.node}, {format_seconds(fate.migrated.gap_s)} after its checkpoint"
    return "not restored elsewhere" if fate.taken is not None else "not saved"
