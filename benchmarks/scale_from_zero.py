"""How long a request waits for the first pod of the Spring Boot example, cold and restored: `make bench`.

An autoscaler keeps each Deployment at zero replicas. A request comes to an activator, which holds it; the autoscaler
reads the number of requests that wait, and adds a replica; the activator forwards the request when the pod is ready.
The time runs from the moment when the autoscaler has read the metric, since the interval at which it does is a setting
of the cluster. The cluster is that of the tests: one node, which shares this machine's processors with the control
plane. All images are on the node. The ways take turns; a round of each that is not counted comes first.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
from cluster import keep, make_deployments, time_in_turn, wait
from command import cache_option, run_command
from rich.console import Console
from support.activator import Activator, run_activator
from support.cluster.cluster import Cluster, open_cluster
from support.cluster.metrics import serve_metrics
from table import format_ways

from warmstart.cli.terminal import TerminalListener
from warmstart.core.errors import WarmstartError
from warmstart.core.progress import Progress
from warmstart.kube.apply import apply_manifests
from warmstart.kube.client import connect_cluster
from warmstart.recipe.pods import Block, mapping_at

PATH, PORT = "/greeting?name=zero", 8080
EMPTY_S = 120.0
LABEL = "app.kubernetes.io/name"


def rename(deployment: Block, name: str) -> Block:
    """The Deployment under another name, with pods of its own that end at once."""
    deployment = copy.deepcopy(deployment)
    deployment["metadata"]["name"] = name
    template = deployment["spec"]["template"]
    deployment["spec"]["selector"]["matchLabels"] = template["metadata"]["labels"] = {LABEL: name}
    template["spec"]["terminationGracePeriodSeconds"] = 1
    return deployment


def describe(name: str, processors: str | None, deployment: Block) -> list[Block]:
    """The Deployment, its Service, and an autoscaler that empties it at once."""
    deployment = rename(deployment, name)
    if processors:
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        mapping_at(container, "resources", "limits")["cpu"] = processors
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    target = {"type": "AverageValue", "averageValue": "1"}
    autoscaling = {
        "scaleTargetRef": reference,
        "minReplicas": 0,
        "maxReplicas": 1,
        "metrics": [{"type": "External", "external": {"metric": {"name": name}, "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }
    metadata = {"name": name}
    service = {"selector": {LABEL: name}, "ports": [{"port": PORT}]}
    return [
        deployment,
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata,
            "spec": autoscaling,
        },
    ]


@contextlib.contextmanager
def run_activators(cluster: Cluster, names: list[str]) -> Iterator[dict[str, Activator]]:
    """An activator for each Service, whose metrics the autoscalers read."""
    with contextlib.ExitStack() as running:
        activators = {name: running.enter_context(run_activator(cluster, name)) for name in names}
        running.enter_context(serve_metrics(cluster, {name: one.read_waiting for name, one in activators.items()}))
        yield activators


def is_empty(cluster: Cluster, name: str) -> bool:
    """Whether the autoscaler has removed all pods, and they are gone."""
    status = cluster.read("horizontalpodautoscalers", name).get("status", {})
    states = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return states.get("ScaledToZero") == "True" and not cluster.read("pods", selector=f"{LABEL}={name}")["items"]


def time_first_answer(cluster: Cluster, activator: Activator) -> float:
    """Seconds from the autoscaler's first look at a request that waits until its answer."""
    wait(lambda: is_empty(cluster, activator.service), EMPTY_S)
    activator.reset()
    status, body = activator.call(PATH)
    answered_at = time.monotonic()
    if status != 200 or activator.noticed_at is None:
        raise WarmstartError(f"{activator.service} answered {status}: {body}")
    return answered_at - activator.noticed_at


@click.command()
@click.option("-n", "--rounds", type=click.IntRange(1), default=10, show_default=True, help="Requests for each way.")
@click.option("--cpu", "processors", metavar="QUANTITY", help="Limit of each pod.  [default: the recipe's]")
@cache_option
def main(rounds: int, processors: str | None, cache_dir: Path) -> None:
    """Measure all ways, and print what a cold start takes of each."""
    console, cache = Console(), cache_dir.absolute()
    progress = Progress(TerminalListener(console, verbose=True))
    with open_cluster(cache, progress=progress.note) as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        deployments = make_deployments(cluster, cache, progress)
        with connect_cluster() as api, run_activators(cluster, list(deployments)) as activators:
            for way, deployment in deployments.items():
                list(apply_manifests(api, describe(way, processors, deployment)))
            took_s = time_in_turn(activators, partial(time_first_answer, cluster), rounds, progress)
    limit = f", at most {processors} processors for a pod" if processors else ""
    click.echo(f"Spring Boot, from zero replicas to the first answer, metric interval aside{limit}:\n")
    click.echo(format_ways(took_s))
    keep(f"scale-from-zero-{processors}" if processors else "scale-from-zero", took_s)


if __name__ == "__main__":
    run_command(main)
