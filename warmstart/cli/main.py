"""The command line: options in, one call, the result out. Nothing else of warmstart prints or exits."""

from __future__ import annotations

import io
import logging
import os
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class
from rich.console import Console

from warmstart import __version__
from warmstart.bench.page import write_page
from warmstart.bench.report import find_verdict, list_bench_sections, list_facts, make_bench_document
from warmstart.bench.result import Load
from warmstart.bench.run import bench_recipe, bench_source
from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import REGISTRY, parse_output
from warmstart.build.result import make_document
from warmstart.build.verify import verify_source
from warmstart.cli.context import (
    Shell,
    allow_option,
    checkpoint_timeout_option,
    pass_shell,
    registry_options,
    show_env_option,
)
from warmstart.cli.deploy import deploy, examine_cluster
from warmstart.cli.pods import COMMANDS, cluster_options, helper_options
from warmstart.cli.terminal import make_checks_table, make_section, make_table, safe, show_error, start_logging
from warmstart.cli.views.build import list_rows
from warmstart.cli.views.inspect import list_sections, to_document
from warmstart.core import process
from warmstart.core.disk_space import explain_full_disk
from warmstart.core.errors import HostError, PrivilegeError, WarmstartError
from warmstart.core.privileges import Privilege
from warmstart.core.reference import parse_source
from warmstart.core.text import format_seconds, printable_lines
from warmstart.core.workspace import open_workspace, use_for_temporary_files
from warmstart.engine.local import examine_runtime
from warmstart.image.open import open_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.inspection import inspect_target
from warmstart.inspect.trust import trust
from warmstart.kube.client import connect_cluster
from warmstart.kube.helper import DEFAULT_IMAGE, DEFAULT_NAMESPACE
from warmstart.node.doctor import examine_host, examine_host_programs, require
from warmstart.node.keeper import Bind
from warmstart.node.network import Network
from warmstart.node.record import list_tools, make_record_document
from warmstart.node.session import enter
from warmstart.node.tree import ensure_tree, read_records, remove_trees, require_tested, update_tree
from warmstart.pods.build import ClusterTarget, build_in_cluster
from warmstart.pods.checkpoint import CheckpointOptions
from warmstart.recipe.init import ImageConfig, init_from_image, init_from_manifest
from warmstart.recipe.load import load_recipe
from warmstart.recipe.schema import schema_text

INTERRUPTED = 130
TERMINATED = 143
PIPE_WIDTH = 200


def default_cache() -> Path:
    """The user's cache directory, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warmstart"


network_option = click.option(
    "--network",
    type=click.Choice([network.value for network in Network]),
    default=Network.NONE.value,
    show_default=True,
    help="What the container reaches on the embedded node: nothing, or all that this machine does.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="warmstart")
@click.option("-v", "--verbose", is_flag=True, help="Show each step even where there is no terminal.")
@click.option("--debug", is_flag=True, help="Show every program that is run, and a traceback with an error.")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="WARMSTART_CACHE",
    default=default_cache,
    show_default="~/.cache/warmstart",
    help="Where the tree of tools is kept.",
)
@click.pass_context
def cli(context: click.Context, verbose: bool, debug: bool, cache_dir: Path) -> None:
    """Build container images that are restored from a checkpoint instead of started cold."""
    err = Console(stderr=True, emoji=False)
    start_logging(sys.stderr, logging.DEBUG if debug else logging.WARNING)
    logging.getLogger("sh").setLevel(logging.WARNING)
    out = Console(emoji=False)
    if not out.is_terminal:
        # A digest that is cut into lines is of no use to what reads the pipe.
        out = Console(width=PIPE_WIDTH, emoji=False)
    context.obj = Shell(out, err, verbose or debug, debug, cache_dir.absolute())


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@click.option("-t", "--tag", help="The tag, or the whole name, of the image to make.")
@click.option("-o", "--output", metavar="KIND:PATH", help="oci:DIRECTORY or oci-archive:FILE instead of a registry.")
@registry_options
@click.option(
    "--runtime-endpoint",
    metavar="SOCKET",
    envvar="CONTAINER_RUNTIME_ENDPOINT",
    help="Build on the CRI-O that listens here instead of the embedded one, such as unix:///run/crio/crio.sock.",
)
@click.option(
    "--engine",
    type=click.Choice(["cri", "kubernetes"]),
    default="cri",
    show_default=True,
    help="Where the container runs: on this machine, or in a pod of a cluster.",
)
@cluster_options
@helper_options
@checkpoint_timeout_option
@network_option
@allow_option
@click.option("--force", is_flag=True, help="Go on where preflight finds errors.")
@click.option("--keep", is_flag=True, help="Leave everything to look at when a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def build(
    shell: Shell,
    recipe: Path,
    overrides: tuple[str, ...],
    tag: str | None,
    output: str | None,
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
    """Build the image of RECIPE, see it restore, and publish it."""
    options = BuildOptions(
        cache=shell.cache,
        output=parse_output(output) if output else REGISTRY,
        access=access,
        checkpoint_timeout_s=checkpoint_timeout,
        force=force,
        keep=keep,
        runtime_endpoint=runtime_endpoint,
        network=Network(network),
        allowed=allowed,
    )
    progress = shell.progress()
    loaded = load_recipe(recipe, overrides=overrides, tag=tag)
    if engine == "kubernetes":
        with connect_cluster(context, namespace) as cluster:
            built = build_in_cluster(loaded, options, ClusterTarget(cluster, how), progress)
    else:
        built = build_image(loaded, options, progress)
    if as_json:
        shell.print_json(make_document(built, progress))
    else:
        shell.out.print(make_table(list_rows(built, progress)))


recipe_option = click.option(
    "--recipe",
    "own",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The recipe that IMAGE was built from; it counts instead of what the image says.",
)


@cli.command()
@click.argument("image")
@registry_options
@network_option
@recipe_option
@allow_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def verify(
    shell: Shell,
    image: str,
    access: RegistryAccess,
    network: str,
    own: Path | None,
    allowed: tuple[Privilege, ...],
    as_json: bool,
) -> None:
    """Restore IMAGE, which warmstart built, on an empty node under another address, twice."""
    decide = trust(allowed, None if own is None else load_recipe(own))
    restores = verify_source(
        parse_source(image), shell.cache, access, shell.progress(), Network(network), decide=decide
    )
    if as_json:
        shell.print_json([asdict(restore) for restore in restores])
    else:
        rows = [(r.address, f"{r.how}, ready after {format_seconds(r.first_success_s)}") for r in restores]
        shell.out.print(make_table(rows))


@cli.command()
@click.argument("target", metavar="RECIPE|IMAGE")
@click.option("-n", "--rounds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Starts of each way.")
@click.option("--replicas", type=click.IntRange(0, 64), default=0, help="Start so many at once, too.")
@click.option("--requests", type=click.IntRange(0, 10_000), default=0, help="Time the first requests after a start.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the recipe.")
@registry_options
@network_option
@recipe_option
@allow_option
@click.option("--force", is_flag=True, help="Go on where preflight finds errors.")
@click.option("--keep", is_flag=True, help="Leave everything to look at when a step fails.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots, too.")
@pass_shell
def bench(
    shell: Shell,
    target: str,
    rounds: int,
    replicas: int,
    requests: int,
    overrides: tuple[str, ...],
    access: RegistryAccess,
    network: str,
    own: Path | None,
    allowed: tuple[Privilege, ...],
    force: bool,
    keep: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    """Measure what restoring gains RECIPE, or IMAGE that warmstart built: cold and restored starts, in turn.

    RECIPE is a file, or - for standard input. Nothing is published.
    """
    if html is not None and not html.absolute().parent.is_dir():
        raise click.UsageError(f"--html {html}: there is no such directory")
    options = BuildOptions(
        cache=shell.cache,
        access=access,
        force=force,
        keep=keep,
        network=Network(network),
        allowed=allowed,
    )
    load, progress = Load(rounds, replicas, requests), shell.progress()
    if target == "-" or Path(target).is_file():
        if own:
            raise click.UsageError(f"--recipe needs an image, and {target} is a recipe")
        result = bench_recipe(load_recipe(Path(target), overrides=overrides), options, load, progress)
    elif overrides:
        raise click.UsageError(f"--set needs a recipe, and {target} is not a file")
    else:
        decide = trust(allowed, None if own is None else load_recipe(own))
        result = bench_source(parse_source(target), options, load, progress, decide=decide)
    if html is not None:
        write_page(html, result)
    if as_json:
        shell.print_json(make_bench_document(result))
    else:
        shell.out.print(safe(find_verdict(result)), style="bold", highlight=False)
        for section in (*list_bench_sections(result), list_facts(result)):
            shell.out.print()
            shell.out.print(make_section(section))


@cli.command("inspect")
@click.argument("target", metavar="IMAGE|ARCHIVE")
@registry_options
@show_env_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@pass_shell
def inspect_(shell: Shell, target: str, access: RegistryAccess, show_env: bool, as_json: bool) -> None:
    """Say what is in an image or a checkpoint archive: from what it was made, how large, processes and sockets."""
    inspection = inspect_target(target, access=access)
    if as_json:
        shell.print_json(to_document(inspection, show_env=show_env))
    else:
        for section in list_sections(inspection, show_env=show_env):
            shell.out.print(make_section(section))


@cli.command()
@click.argument("shell_name", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@pass_shell
def completion(shell: Shell, shell_name: str) -> None:
    """Print the completion script for SHELL: eval "$(warmstart completion bash)"."""
    completer = get_completion_class(shell_name)
    assert completer is not None
    shell.out.out(completer(cli, {}, "warmstart", "_WARMSTART_COMPLETE").source())


@cli.command()
@click.option(
    "--runtime-endpoint", metavar="SOCKET", envvar="CONTAINER_RUNTIME_ENDPOINT", help="A CRI-O to ask as well."
)
@click.option("--cluster", is_flag=True, help="Look at a cluster instead: run --image on a node of each kind.")
@click.option("--image", help="An image that warmstart built, which the cluster can pull.")
@click.option("--node-programs", is_flag=True, help="Show a node's /usr to a helper pod, to ask runc, crun and CRIU.")
@click.option(
    "--helper-image",
    default=DEFAULT_IMAGE,
    show_default=True,
    envvar="WARMSTART_HELPER_IMAGE",
    help="Image of the helper pod of --node-programs; with sh and sleep.",
)
@click.option(
    "--helper-namespace",
    default=DEFAULT_NAMESPACE,
    show_default=True,
    help="The namespace of that pod; it must admit privileged pods.",
)
@allow_option
@cluster_options
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@pass_shell
def doctor(
    shell: Shell, /, runtime_endpoint: str | None, cluster: bool, image: str | None, as_json: bool, **options: Any
) -> None:
    """Say what this machine has for a build, what is missing, and what to do about it.

    A small process is dumped and restored to find out. The exit code is 0 when a build would work.

    With --cluster, say which nodes of a cluster restore an image, and with --node-programs whether their runc, crun
    and CRIU have the fixes for crafted links in images. The exit code is 0 when all restore it.
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


@cli.command()
@click.argument("image", required=False)
@click.option("-f", "--from", "manifest", type=click.Path(path_type=Path), help="A Deployment or another manifest.")
@click.option("-c", "--container", help="Which container of the manifest.")
@registry_options
@pass_shell
def init(
    shell: Shell,
    image: str | None,
    manifest: Path | None,
    container: str | None,
    access: RegistryAccess,
) -> None:
    """Write a commented recipe to standard output, from IMAGE or from a manifest (--from)."""
    if (image is None) == (manifest is None):
        raise click.UsageError("give an IMAGE, or a manifest with --from")
    if manifest is not None:
        text = init_from_manifest(manifest, container=container)
    else:
        assert image is not None
        source = parse_source(image)
        with open_image(source, access=access) as opened:
            config = opened.image.config
        text = init_from_image(
            image,
            ImageConfig(
                entrypoint=config.entrypoint,
                cmd=config.cmd,
                exposed_ports=config.exposed_ports,
                env=tuple(f"{name}={value}" for name, value in config.env),
                user=config.user,
            ),
        )
    shell.out.out(text, end="")


@cli.group()
def node() -> None:
    """The embedded node: the tree of tools it is made of."""


@node.command()
@click.option("--locked", is_flag=True, help="Fail if they are not made of the tested versions of Debian's packages.")
@pass_shell
def setup(shell: Shell, locked: bool) -> None:
    """Make the tree of tools now, instead of at the first build."""
    progress = shell.progress()
    with progress.step("tools"):
        tree = ensure_tree(shell.cache, progress.note, progress.warn)
        if locked:
            require_tested(shell.cache)
    shell.out.out(str(tree))


@node.command()
@pass_shell
def update(shell: Shell) -> None:
    """Make the tree of tools anew, of the newest packages; a build that is running keeps the old one."""
    progress = shell.progress()
    with progress.step("tools"):
        tree = update_tree(shell.cache, progress.note)
    shell.out.out(str(tree))


@node.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with all packages.")
@pass_shell
def status(shell: Shell, as_json: bool) -> None:
    """Show the versions and the age of the tools, and where they differ from the tested versions."""
    records = read_records(shell.cache)
    if as_json:
        shell.print_json([make_record_document(path, record) for path, record in records])
    else:
        for section in list_tools(records):
            shell.out.print(make_section(section))


@node.command()
@pass_shell
def remove(shell: Shell) -> None:
    """Remove the tree of tools, and all older ones."""
    remove_trees(shell.cache)


@node.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--bind", "binds", multiple=True, type=click.Path(path_type=Path, exists=True), help="Let it see this.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_shell
def run(shell: Shell, binds: tuple[Path, ...], command: tuple[str, ...]) -> None:
    """Run COMMAND in the tree of tools, in the current directory; it has buildah, skopeo, criu, mmdebstrap.

    Of this machine it sees the current directory, the network, and what --bind names.
    """
    progress = shell.progress()
    with progress.step("tools"):
        tree = ensure_tree(shell.cache, progress.note, progress.warn)
    here = Path.cwd()
    seen = [Bind(str(path.absolute()), writable=True) for path in (here, *binds)]
    with open_workspace("run") as workspace, enter(tree, workspace, binds=seen) as session:
        status = process.attach(session.argv(command, host_network=True, cwd=str(here)), env=session.environment)
    sys.exit(status)


@cli.command()
@pass_shell
def schema(shell: Shell) -> None:
    """Print the JSON Schema of recipes."""
    shell.out.out(schema_text())


for command in (*COMMANDS, deploy):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; whatever goes wrong is shown, and becomes an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    use_for_temporary_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the user's locale cannot show is escaped, as it is on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # click answers with the exit code of what ends early, such as --help.
        sys.exit(cli.main(prog_name=_find_own_name(sys.argv[0]), standalone_mode=False) or 0)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(printable_lines(usage.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        Console(stderr=True, emoji=False).print("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        shown = _explain(error)
        show_error(Console(stderr=True, emoji=False), shown, debug="--debug" in sys.argv)
        sys.exit(shown.exit_code)


def _find_own_name(program: str) -> str | None:
    """What the user called us: kubectl runs kubectl-warmstart for `kubectl warmstart`; None for what it looks like."""
    name = Path(program).name
    return name.replace("-", " ", 1) if name.startswith("kubectl-") else None


def _explain(error: Exception) -> WarmstartError:
    """What went wrong, for the user; its cause is what happened."""
    full = explain_full_disk(error)
    if isinstance(error, PrivilegeError) and error.refused:
        line = shlex.join([*sys.argv[1:], *(word for name in error.refused for word in ("--allow", name))])
        hint = f"if you trust it with them: warmstart {line}"
        return PrivilegeError(error.brief, details=error.details, hint=hint, refused=error.refused)
    if full is None and isinstance(error, WarmstartError):
        return error
    if full is not None:
        shown: WarmstartError = full
    elif isinstance(error, MemoryError):
        shown = HostError("there is not enough memory")
    elif isinstance(error, OSError) and error.strerror:
        named = f": {error.filename}" if error.filename else ""
        shown = HostError(f"{error.strerror}{named}", hint="with --debug before the command, it is shown where")
    else:
        brief = f"this is a bug in warmstart: {type(error).__name__}: {error}"
        shown = WarmstartError(brief, hint="please report it, with what --debug before the command shows")
    shown.__cause__ = error
    return shown


def _terminate(_number: int, _frame: object) -> None:
    """End as Ctrl-C does, cleaning up on the way."""
    raise SystemExit(TERMINATED)
