"""The command `deploy`, and the part of `doctor` that checks a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from warmstart.cli.context import Shell, allow_option, pass_shell, registry_options
from warmstart.cli.options import cluster_options, hint_at_container, key_option
from warmstart.cli.terminal import make_section
from warmstart.cli.views.inspect import list_security
from warmstart.core.errors import ClusterError, ManifestError, input_errors_as
from warmstart.core.privileges import Kind, Privilege, list_refused, require_allowed
from warmstart.core.text import Section, printable, printable_lines
from warmstart.core.yaml_document import read_documents
from warmstart.core.yaml_writing import write_yaml
from warmstart.inspect.build_info import ImageSummary, list_beyond_pod, read_build, require_restored, try_cluster
from warmstart.kube.apply import apply_manifests
from warmstart.kube.client import Cluster, connect_cluster
from warmstart.kube.frozen import list_new_warnings
from warmstart.kube.helper import Errand
from warmstart.kube.manifests import PAUSE_IMAGE, make_manifests, make_pre_pull, make_whole_patch
from warmstart.kube.node_programs import find_versions, make_fixes_document
from warmstart.kube.patch import Patched, patch_manifest
from warmstart.kube.settings import BuildInfo
from warmstart.kube.trial import Verdict, make_document
from warmstart.node.advisories import ADVISORIES
from warmstart.recipe.load import STDIN, read_input
from warmstart.recipe.model import Restorer

# What a pod refers to by name: nothing that a runtime restores.
_OF_OBJECTS = frozenset({Kind.CONFIG_MAP, Kind.FIELD, Kind.IMAGE, Kind.PULL_SECRET, Kind.SECRET})
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?")


@dataclass(frozen=True)
class DeployRequest:
    """The output requested for a build.

    Attributes:
        name: name of the objects; None for the recipe's.
        replicas: number of pods.
        namespace: namespace in the manifests; None for none, so that it is chosen when they are applied.
        manifest: existing manifest to change.
        container: container of that manifest.
        output: `manifest`, or `patch`.
        only_diff: whether to print only the changes.
        pre_pull: image of the waiting container in a DaemonSet that pulls ahead; None for no DaemonSet.
        accepted: frozen values of that manifest that may stay as in the build.
    """

    name: str | None
    replicas: int
    namespace: str | None
    manifest: Path | None
    container: str | None
    output: str
    only_diff: bool
    pre_pull: str | None
    accepted: tuple[str, ...] = ()


@click.command()
@click.argument("target", metavar="RECIPE|IMAGE")
@click.option(
    "-f", "--from", "manifest", type=click.Path(path_type=Path), help="Change this manifest to match the image."
)
@click.option("-c", "--container", help="Container of the manifest: NAME, OBJECT/NAME or KIND/OBJECT/NAME.")
@click.option(
    "--output",
    type=click.Choice(["manifest", "patch"]),
    default="manifest",
    show_default=True,
    help="A whole manifest, or a strategic merge patch, as Kustomize takes it.",
)
@click.option("--diff", "only_diff", is_flag=True, help="With --from: print only the changes, with reasons.")
@click.option(
    "--accept-frozen",
    multiple=True,
    metavar="NAME",
    help="With --from: keep the build's value of this variable, or of `command` or `args`; * for all.",
)
@click.option("--name", help="Name of the objects.  [default: the recipe's name]")
@click.option("--replicas", type=click.IntRange(0), help="Number of pods.  [default: 1]")
@click.option("--match-cpu", is_flag=True, help="Select nodes that have the processor features of the build.")
@click.option("--pre-pull", is_flag=True, help="Print a DaemonSet that pulls the image on all nodes instead.")
@click.option(
    "--pause-image",
    default=PAUSE_IMAGE,
    show_default=True,
    help="Image of the waiting container in the pods of --pre-pull.",
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("-t", "--tag", help="Tag, or whole name, of the image, as at the build.")
@allow_option
@key_option
@click.option("--apply", is_flag=True, help="Apply it to the cluster, server-side.")
@click.option("--force-conflicts", is_flag=True, help="With --apply: take over fields owned by other managers.")
@cluster_options
@registry_options
@pass_shell
def deploy(shell: Shell, /, target: str, **options: Any) -> None:
    """Print (or apply) a Deployment and Service for a warm image.

    RECIPE is enough; IMAGE, built by warmstart, has more details. With --from, your manifest is changed only as far as
    necessary, and standard error shows the changes with their reasons.
    """
    _refuse_contradictions(options)
    known = read_build(
        target,
        overrides=options["overrides"],
        tag=options["tag"],
        access=options["access"],
        match_cpu=options["match_cpu"],
        allowed=options["allowed"],
        signed=options["signed"],
    )
    wanted = DeployRequest(
        name=options["name"],
        replicas=1 if options["replicas"] is None else options["replicas"],
        namespace=options["namespace"],
        manifest=options["manifest"],
        container=options["container"],
        output=options["output"],
        only_diff=options["only_diff"],
        pre_pull=options["pause_image"] if options["pre_pull"] else None,
        accepted=options["accept_frozen"],
    )
    anew = options["manifest"] is None and not options["pre_pull"]
    _judge(shell, known, target, options["allowed"], anew=anew)
    text = _make(shell, known.build, wanted)
    if not options["apply"]:
        shell.out.out(text, end="", highlight=False)
        return
    cluster = connect_cluster(options["context"], options["namespace"])
    manifests = [document.value for document in read_documents(text, target)]
    with cluster:
        for applied in apply_manifests(cluster, manifests, force=options["force_conflicts"]):
            shell.out.out(printable(f"{applied} applied"), highlight=False)


def _judge(shell: Shell, known: ImageSummary, target: str, allowed: Sequence[Privilege], *, anew: bool) -> None:
    """Compare the requests of an image with the privileges the user allows.

    The user's own manifest gets no privilege from the image.

    Raises:
        PrivilegeError: the image has another name than the user gave, or its new manifest needs more privileges.
    """
    require_allowed([*known.name, *(list_beyond_pod(known.privileges) if anew else ())], allowed, target)
    warnings = [*known.warnings]
    if not anew and Restorer.RUNTIME in known.build.restorers:
        for name, value in list_security(known.checkpoint) if known.checkpoint else ():
            shell.err.out(printable(f"{name}: {value}"), highlight=False)
        warnings += [
            f"a runtime that restores the image grants {one}, whatever the pod says: {one.why}"
            for one in list_refused(known.privileges, allowed)
            if one.kind not in _OF_OBJECTS
        ]
    for warning in warnings:
        shell.progress().warn(warning)


def _refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that contradict each other."""
    given = {key for key, value in options.items() if value is not None and value is not False}
    anew = [key for key in ("name", "replicas", "pre_pull") if key in given]
    if options["manifest"] is not None and anew:
        raise click.UsageError(f"--{anew[0].replace('_', '-')} is for what is made anew, not for --from")
    if options["manifest"] is None and (options["container"] or options["only_diff"] or options["accept_frozen"]):
        raise click.UsageError("--container, --diff and --accept-frozen need a manifest: --from")
    if options["apply"] and (options["output"] == "patch" or options["only_diff"]):
        raise click.UsageError("--apply applies whole manifests")
    if options["name"] and not _NAME.fullmatch(options["name"]):
        raise click.UsageError(f"--name {options['name']}: lower case letters, digits and -, from a letter on")


def _make(shell: Shell, build: BuildInfo, wanted: DeployRequest) -> str:
    if wanted.manifest is not None:
        return _change(shell, build, wanted, wanted.manifest)
    name = wanted.name or build.name
    if wanted.pre_pull is not None:
        return write_yaml(make_pre_pull(build, name, wanted.pre_pull, namespace=wanted.namespace))
    if wanted.output == "patch":
        return write_yaml(make_whole_patch(build, name, namespace=wanted.namespace))
    manifests = make_manifests(build, name, replicas=wanted.replicas, namespace=wanted.namespace)
    for warning in list_new_warnings(build, manifests):
        shell.progress().warn(warning)
    return write_yaml(*manifests)


def _change(shell: Shell, build: BuildInfo, wanted: DeployRequest, manifest: Path) -> str:
    """Return the changed manifest, its patch or its diff. Except for the diff, show the changes."""
    name = "<stdin>" if manifest == STDIN else str(manifest)
    with input_errors_as(ManifestError):
        data = read_input(manifest)
    with hint_at_container():
        patched = patch_manifest(data, name, wanted.container, build, wanted.accepted)
    for warning in patched.warnings:
        shell.progress().warn(warning)
    if wanted.only_diff:
        return patched.diff
    shell.err.out(printable_lines(patched.diff or f"{name}: nothing must differ\n"), end="", highlight=False)
    return _as_patch(patched, name) if wanted.output == "patch" else patched.text


def _as_patch(patched: Patched, name: str) -> str:
    if patched.patch is None:
        raise ManifestError(f"{name}: nothing must differ, so that there is no patch")
    return write_yaml(patched.patch)


def examine_cluster(shell: Shell, image: str, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Show the nodes of a cluster, and whether each restores an image.

    Raises:
        ClusterError: some nodes do not restore it.
    """
    known = read_build(image, access=options["access"], signed=options["signed"])
    require_allowed([*known.name, *list_beyond_pod(known.privileges)], options["allowed"], image)
    if not known.identity:
        raise click.UsageError(f"--image {image}: give an image that warmstart built, not a recipe")
    for warning in known.warnings:
        shell.progress().warn(warning)
    with connect_cluster(options["context"], options["namespace"]) as cluster:
        verdicts = try_cluster(cluster, known, shell.progress())
        versions = [_find_versions(shell, cluster, verdict, options) for verdict in verdicts]
    if as_json:
        documents = zip(map(make_document, verdicts), map(make_fixes_document, versions), strict=True)
        shell.print_json([document | {"fixes": fixes} for document, fixes in documents])
    else:
        shell.out.print(make_section(list_verdicts(verdicts)))
        shell.out.print()
        shell.out.print(make_section(list_fixes(verdicts, versions)))
    require_restored(verdicts)


def _find_versions(shell: Shell, cluster: Cluster, verdict: Verdict, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the programs on the tried node; empty unless requested."""
    if not options["node_programs"] or not verdict.node:
        return {}
    try:
        return find_versions(cluster, verdict.node, Errand(options["helper_image"], options["helper_namespace"]))
    except ClusterError as error:
        shell.progress().warn(f"the programs of {verdict.node} cannot be asked: {error.brief}")
        return {}


def list_fixes(verdicts: Sequence[Verdict], versions: Sequence[Mapping[str, str]]) -> Section:
    """Return a table that shows whether each node's programs have the fixes for crafted links in images."""
    rows = []
    for verdict, found in zip(verdicts, versions, strict=True):
        node = verdict.node or verdict.pool.nodes[0]
        for advisory in ADVISORIES:
            said = advisory.describe(found.get(advisory.program, ""))
            rows.append((printable(node), advisory.program, printable(said)))
    return Section("Fixes for crafted links in images", ("node", "program", "version"), tuple(rows))


def list_verdicts(verdicts: Sequence[Verdict]) -> Section:
    """Return the table of verdicts."""
    columns = ("nodes", "runtime", "kubelet", "system", "architecture", "restored by", "why not")
    rows = []
    for verdict in verdicts:
        pool = verdict.pool
        names = pool.nodes[0] if len(pool.nodes) == 1 else f"{pool.nodes[0]} and {len(pool.nodes) - 1} more"
        by = verdict.how if verdict.restored else f"nobody: {verdict.how}"
        cells = (names, pool.runtime, pool.kubelet, pool.os_image, pool.architecture, by, verdict.reason)
        rows.append(tuple(map(printable, cells)))
    return Section("", columns, tuple(rows))
