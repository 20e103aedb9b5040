"""How long a Deployment of the Spring Boot example takes to scale up in a cluster, cold and restored: `make bench`.

The cluster is that of the tests: one node, which shares this machine's processors with the control plane. All images
are on the node before anything is measured. The ways take turns; a round of each that is not counted comes first.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from command import cache_option, run_command
from rich.console import Console
from support.cluster.cluster import Cluster, open_cluster
from support.cluster_images import push_image
from table import format_ways

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.cli.terminal import TerminalListener
from warmstart.core.errors import WarmstartError
from warmstart.core.progress import Progress
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.build_info import read_build
from warmstart.kube.apply import apply_manifests
from warmstart.kube.client import Cluster as Api
from warmstart.kube.client import connect_cluster
from warmstart.kube.manifests import make_deployment
from warmstart.node.open import open_node
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Restorer
from warmstart.recipe.pods import Block

TOP = Path(__file__).parents[1]
RECIPE, BASE = TOP / "examples/java-app/recipe.yaml", TOP / "build/images/java-app.tar"
# All replicas are to fit on the node, whatever its processors.
SMALL = ("container.resources.requests.cpu=50m", "container.resources.requests.memory=64Mi")
COLD = "cold"
FROM, TO = 1, 4
Way = TypeVar("Way")
READY_S, GONE_S, POLL_S = 300.0, 60.0, 0.02


def make_deployments(cluster: Cluster, cache: Path, progress: Progress) -> dict[str, Block]:
    """The same Deployment of the base image, and of a warm one for each restorer."""
    with open_node("bench", cache, progress) as session, progress.step("base image"):
        base = push_image(cluster, session, BASE, "java-app:1.0")
    deployments = {restorer.value: deploy_restored(cluster, cache, restorer, progress) for restorer in Restorer}
    cold = copy.deepcopy(deployments[Restorer.RUNTIME])
    cold["spec"]["template"]["spec"]["containers"][0]["image"] = base
    return {COLD: cold, **deployments}


def deploy_restored(cluster: Cluster, cache: Path, restorer: Restorer, progress: Progress) -> Block:
    """A Deployment of an image that is restored by this restorer alone."""
    name = f"{cluster.registry}/java-app:{restorer}"
    recipe = load_recipe(RECIPE, overrides=[*SMALL, f"restore=[{restorer}]"], tag=name)
    build_image(recipe, BuildOptions(cache, access=RegistryAccess((cluster.registry,))), progress)
    return make_deployment(read_build(name, access=RegistryAccess((cluster.registry,))).build, "java-app")


@contextlib.contextmanager
def deployed(api: Api, deployment: Block) -> Iterator[str]:
    """A Deployment whose first replicas are ready, for the length of a `with` block; its path."""
    deployment["spec"]["replicas"] = FROM
    list(apply_manifests(api, [deployment]))
    path = f"/apis/apps/v1/namespaces/{api.namespace}/deployments/{deployment['metadata']['name']}"
    try:
        wait(lambda: count_ready(api, path) == FROM, READY_S)
        yield path
    finally:
        api.request("DELETE", path)
        wait(lambda: not api.list_pods(api.namespace), GONE_S)


def count_ready(api: Api, path: str) -> int:
    """How many replicas are ready."""
    return int(api.request("GET", path)["status"].get("readyReplicas", 0))


def wait(until: Callable[[], bool], limit_s: float) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + limit_s
    while not until():
        if time.monotonic() > deadline:
            raise WarmstartError("the cluster did not reach the expected state in time")
        time.sleep(POLL_S)


def time_scaling(api: Api, deployment: Block) -> float:
    """Seconds from the request for more replicas until all are ready."""
    with deployed(api, deployment) as path:
        start = time.monotonic()
        body = {"spec": {"replicas": TO}}
        api.request("PATCH", f"{path}/scale", body, content_type="application/merge-patch+json")
        wait(lambda: count_ready(api, path) == TO, READY_S)
        took_s = time.monotonic() - start
        restarts = [c.restarts for pod in api.list_pods(api.namespace) for c in pod.containers]
        if any(restarts):
            raise WarmstartError("a container restarted during the measurement")
        return took_s


def keep(name: str, took_s: Mapping[str, list[float]]) -> None:
    """Leave the seconds of each way as JSON."""
    directory = TOP / "build/bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(took_s, indent=1))


def time_in_turn(
    ways: Mapping[str, Way], time_one: Callable[[Way], float], rounds: int, progress: Progress
) -> dict[str, list[float]]:
    """Return the seconds of each way in each round; before them, there is one that does not count."""
    took_s: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, subject in ways.items():
            with progress.step(f"{way} {number or 'first'}"):
                seconds = time_one(subject)
            if number:
                took_s[way].append(seconds)
    return took_s


@click.command()
@click.option("-n", "--rounds", type=click.IntRange(2), default=5, show_default=True, help="Scalings of each way.")
@cache_option
def main(rounds: int, cache_dir: Path) -> None:
    """Measure all ways, and print what a cold start takes of each."""
    console, cache = Console(), cache_dir.absolute()
    progress = Progress(TerminalListener(console, verbose=True))
    with open_cluster(cache, progress=progress.note) as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        deployments = make_deployments(cluster, cache, progress)
        with connect_cluster() as api:
            took_s = time_in_turn(deployments, partial(time_scaling, api), rounds, progress)
    click.echo(f"Spring Boot, {FROM} to {TO} replicas on one node until all are ready:\n\n{format_ways(took_s)}")
    keep("cluster", took_s)


if __name__ == "__main__":
    run_command(main)
