"""The commands `build` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click

from warmstart.build.batch import Outcome, Status, Task, choose_outputs, find_exit_code, run_builds
from warmstart.build.context import BuildOptions
from warmstart.build.result import BuildResult
from warmstart.build.verify_source import verify_source
from warmstart.cli.board import Board
from warmstart.cli.build_job import Built, ClusterChoice, Job, run_job, run_job_apart
from warmstart.cli.check import RecipeOptions, check_recipes
from warmstart.cli.context import (
    Shell,
    allow_option,
    checkpoint_timeout_option,
    pass_shell,
    registry_options,
)
from warmstart.cli.options import (
    cluster_options,
    encryption_key_option,
    key_option,
    network_option,
    recipe_option,
    secret_option,
    sign_option,
)
from warmstart.cli.pods import compare_option, helper_options
from warmstart.cli.terminal import make_section, make_table, safe, show_error
from warmstart.cli.views.build import (
    describe_outcome,
    list_rows,
    make_build_document,
    make_outcome_document,
    make_outcomes_section,
)
from warmstart.core.privileges import Privilege
from warmstart.core.text import format_seconds
from warmstart.image.encryption import EncryptionKey
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.check import Trust
from warmstart.image.signatures.keyless import Signer
from warmstart.inspect.target import read_image_target
from warmstart.inspect.trust import trust
from warmstart.node.network import Network
from warmstart.pods.checkpoint import CheckpointOptions
from warmstart.recipe.find import find_recipes
from warmstart.recipe.load import load_recipe


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipes.")
@secret_option
@click.option("-t", "--tag", help="Tag, or whole name, of the new image.")
@click.option(
    "-o",
    "--output",
    metavar="KIND:PATH",
    help="oci:DIRECTORY or oci-archive:FILE instead of a registry. {name} in it is the recipe's name.",
)
@click.option("--check", is_flag=True, help="Only read the recipes and their objects.")
@click.option("--rebuild", is_flag=True, help="Build even if the target is up to date.")
@sign_option
@encryption_key_option
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of builds at the same time."
)
@click.option("--fail-fast", is_flag=True, help="Stop all builds when one fails.")
@registry_options
@click.option(
    "--runtime-endpoint",
    metavar="SOCKET",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    help="Build on the CRI-O at this socket, such as unix:///run/crio/crio.sock.",
)
@click.option(
    "--engine",
    type=click.Choice(["cri", "kubernetes"]),
    default="cri",
    show_default=True,
    help="Run the container on this machine, or in a pod of a cluster.",
)
@cluster_options
@helper_options
@compare_option
@checkpoint_timeout_option
@network_option
@allow_option
@click.option("--force", is_flag=True, help="Continue despite preflight errors.")
@click.option("--keep", is_flag=True, help="Keep all files if a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def build(
    shell: Shell,
    recipes: tuple[Path, ...],
    overrides: tuple[str, ...],
    secrets: tuple[str, ...],
    tag: str | None,
    output: str | None,
    check: bool,
    rebuild: bool,
    signer: Signer | None,
    encryption_keys: tuple[EncryptionKey, ...],
    jobs: int,
    fail_fast: bool,
    access: RegistryAccess,
    runtime_endpoint: str | None,
    engine: str,
    context: str | None,
    namespace: str | None,
    how: CheckpointOptions,
    checkpoint_timeout: float,
    network: str,
    allowed: tuple[Privilege, ...],
    force: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Build a warm image from RECIPE, verify it, and publish it.

    With a directory, all recipes in it are built. If the target has an image of the same recipe, base image and tools,
    nothing is built. With several recipes, the exit code is the lowest of the failures.
    """
    paths = find_recipes(recipes)
    if check:
        values = RecipeOptions(overrides, tag, secrets, allowed)
        check_recipes(shell, paths, values, as_json=as_json)
        return
    options = BuildOptions(
        cache=shell.cache,
        access=access,
        checkpoint_timeout_s=checkpoint_timeout,
        force=force,
        keep=keep,
        runtime_endpoint=runtime_endpoint,
        network=Network(network),
        allowed=allowed,
        signer=signer,
        encryption_keys=encryption_keys,
    )
    loaded = [load_recipe(path, overrides=overrides, tag=tag, secrets=secrets) for path in paths]
    outputs = choose_outputs(output, loaded)
    cluster = ClusterChoice(context, namespace, how) if engine == "kubernetes" else None
    planned = [
        Job(recipe, replace(options, output=to), rebuild, cluster) for recipe, to in zip(loaded, outputs, strict=True)
    ]
    if len(recipes) == 1 and not recipes[0].is_dir():
        _build_one(shell, planned[0], as_json=as_json)
    else:
        _build_all(shell, planned, at_once=jobs, fail_fast=fail_fast, as_json=as_json)


def _build_one(shell: Shell, job: Job, *, as_json: bool) -> None:
    progress = shell.progress()
    built = run_job(job, progress)
    if as_json:
        shell.print_json(make_build_document(built, progress))
    elif isinstance(built, BuildResult):
        shell.out.print(make_table(list_rows(built, progress)))
    else:
        shell.out.print(f"up to date: {safe(str(built))}", highlight=False, soft_wrap=True)


def _build_all(shell: Shell, jobs: Sequence[Job], *, at_once: int, fail_fast: bool, as_json: bool) -> None:
    """Build several images, and exit with the code of the failures, if any."""
    tasks = [
        Task(str(job.recipe.source or job.recipe.name), partial(run_job_apart, job, debug=shell.debug)) for job in jobs
    ]
    with Board(shell.err, [task.label for task in tasks], verbose=shell.verbose) as board:

        def show_end(outcome: Outcome[Built]) -> None:
            board.end(outcome.label, describe_outcome(outcome), ok=outcome.status is Status.DONE)

        outcomes = run_builds(tasks, at_once=at_once, fail_fast=fail_fast, listen=board.listen, on_end=show_end)
    if as_json:
        shell.print_json({"builds": [make_outcome_document(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            if outcome.error:
                show_error(shell.err, outcome.error, debug=False, label=outcome.label)
        shell.out.print(make_section(make_outcomes_section(outcomes)))
    if code := find_exit_code(outcome.error for outcome in outcomes if outcome.error):
        raise SystemExit(code)


@click.command()
@click.argument("image")
@key_option
@registry_options
@network_option
@recipe_option
@secret_option
@allow_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def verify(
    shell: Shell,
    image: str,
    signed: Trust,
    access: RegistryAccess,
    network: str,
    own: Path | None,
    secrets: tuple[str, ...],
    allowed: tuple[Privilege, ...],
    as_json: bool,
) -> None:
    """Verify that an image built by warmstart restores.

    IMAGE is restored twice on an empty node, each time under another address.
    """
    restores = verify_source(
        read_image_target(image),
        shell.cache,
        access,
        shell.progress(),
        Network(network),
        decide=trust(allowed, None if own is None else load_recipe(own, secrets=secrets), signed=signed, access=access),
        secrets=secrets,
    )
    if as_json:
        shell.print_json([asdict(restore) for restore in restores])
    else:
        rows = [(r.address, f"{r.how}, ready after {format_seconds(r.first_success_s)}") for r in restores]
        shell.out.print(make_table(rows))
