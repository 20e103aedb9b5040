"""Whether the shop's connections survive many restores in a cluster, with hooks and another database than the build's.

    PYTHONPATH=tests benchmarks/hooks_on_cluster.py [--restores N] [--replicas N] [--restorer self|runtime]

The recipe has `hooks: [java]` and `tcp: refuse`, and no `afterRestore`: only the hooks renew the pool. The pods have
another JDBC URL, user and password. If the image restores itself, the URL is a variable; a runtime keeps the build's
variables, and the URL is a file of the Secret, which Spring reads by `configtree:`.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from command import cache_option, run_command
from rich.console import Console
from support.cluster.cluster import Cluster, open_cluster
from support.cluster_images import push_image
from support.cluster_user import User
from support.shop import (
    IMAGES,
    START_S,
    TOP,
    Credentials,
    Replica,
    copy_example,
    make_configuration,
    read_replicas,
    run_services,
)

from warmstart.cli.terminal import TerminalListener, make_section
from warmstart.core.errors import WarmstartError
from warmstart.core.progress import Progress
from warmstart.core.text import Section
from warmstart.core.yaml_document import read_documents
from warmstart.core.yaml_writing import write_yaml
from warmstart.node.open import open_node
from warmstart.recipe.model import Restorer
from warmstart.recipe.pods import Block

BUILD = Credentials("builder", "opens-only-the-database-of-the-build", "token-of-the-build")
POD = Credentials()
URL_KEY, MOUNTED = "spring.datasource.url", "/etc/shop/db"
BUILD_URL = "jdbc:postgresql://postgres:5432/shop"
# The pods know no host `postgres`.
HOST, CLIENT = "orders-db", "pod"
POD_URL = f"jdbc:postgresql://{HOST}:5432/shop?ApplicationName={CLIENT}"
REQUESTS = 25
PATHS = ("/products?q=oak", "/state", "/cart", "/products/7")
HOOKS = re.compile(r"^warmstart: restored in \d+ ms, hooks in (\d+) ms", re.MULTILINE)
COLD = ":: Spring Boot ::"
# In the log of a pod: Hikari found a connection that was closed, or could not open one.
STALE_CLIENT = re.compile(r"Failed to validate connection|marked as broken|PSQLException|Connection reset")
# In the log of PostgreSQL, which also logs clients that go away without a word.
STALE_SERVER = re.compile(r"authentication failed|reset by peer|unexpected EOF|Broken pipe")
CLIENTS = """\
SELECT usename, application_name FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


@dataclass(frozen=True)
class Restored:
    """What a pod did that was to be restored.

    Attributes:
        cold: whether it started cold.
        hooks_ms: how long the hooks took by the launcher's log; None if a runtime restored it.
        is_first_right: whether the first query reached the pods' database as their user.
        failed: requests without the right status.
        stale: stale connections by the log.
        log: the log.
    """

    cold: bool
    hooks_ms: int | None
    is_first_right: bool
    failed: int
    stale: int
    log: str


def build_shop(user: User, example: Path, restorer: Restorer, secrets: Path) -> Any:
    """Build the example with hooks, and return the build's report."""
    [document] = read_documents((example / "recipe.yaml").read_bytes(), "recipe")
    recipe: Block = document.value
    values = {"shop-db.username": BUILD.user, "shop-db.password": BUILD.password, "shop-admin.token": BUILD.token}
    del recipe["afterRestore"], recipe["late"]
    recipe |= {"hooks": ["java"], "restore": [str(restorer)], "tcp": "refuse"}
    if restorer is Restorer.SELF:
        recipe["late"] = ["*"]
    else:
        recipe["container"]["env"].append({"name": "SPRING_CONFIG_IMPORT", "value": f"configtree:{MOUNTED}/"})
        recipe["build"]["secrets"]["shop-db"][URL_KEY] = BUILD_URL
    (example / "recipe.yaml").write_text(write_yaml(recipe))
    words = []
    for name, value in values.items():
        (secrets / name).write_text(value)
        words.append(f"--secret={name}={secrets / name}")
    return user.call("build", example / "recipe.yaml", "--plain-http", user.cluster.registry, "--json", *words).result


def run_database(cluster: Cluster, example: Path) -> list[Block]:
    """Run PostgreSQL and Redis with the pods' configuration, and return the pods' names for them."""
    make_configuration(cluster, "The cluster's shop", POD)
    cluster.kubectl("patch", "configmap", "shop-config", "-p", write_yaml({"data": {"DB_URL": POD_URL}}))
    cluster.kubectl("patch", "secret", "shop-db", "-p", write_yaml({"stringData": {URL_KEY: POD_URL}}))
    addresses = run_services(cluster, example / "k8s")
    names = {"postgres": HOST, "redis": "redis"}
    return [{"ip": addresses[service], "hostnames": [name]} for service, name in names.items()]


def deploy_shop(user: User, example: Path, image: str, restorer: Restorer, hosts: list[Block], replicas: int) -> None:
    """Migrate the database once, and deploy the shop alone."""
    file = example / "k8s/shop.yaml"
    manifests: list[Block] = [document.value for document in read_documents(file.read_bytes(), "shop")]
    pod = manifests[-1]["spec"]["template"]["spec"]
    pod["hostAliases"] = hosts
    [migrate] = [one for one in pod.pop("initContainers") if one["name"] == "migrate"]
    once = {**pod, "containers": [migrate], "restartPolicy": "Never"}
    user.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "migrate"}, "spec": once})
    words = ["wait", "pod/migrate", "--for=jsonpath={.status.phase}=Succeeded", f"--timeout={START_S}s"]
    user.cluster.kubectl(*words, timeout_s=START_S + 10)
    [shop] = pod["containers"] = [one for one in pod["containers"] if one["name"] == "shop"]
    shop["readinessProbe"]["periodSeconds"] = 1
    if restorer is Restorer.RUNTIME:
        shop["env"].append({"name": "SPRING_CONFIG_IMPORT", "value": f"configtree:{MOUNTED}/"})
    manifests[-1]["spec"]["replicas"] = replicas
    file.write_text(write_yaml(*manifests))
    line = ["deploy", image, "--from", file, "--apply", "--accept-frozen=*", "--plain-http", user.cluster.registry]
    done = user.call(*line)
    if done.code:
        raise WarmstartError(f"deploy failed: {done.err}")


def find_new(cluster: Cluster, known: set[str]) -> Iterator[Replica]:
    """Yield replicas that are ready, and were not before."""
    for replica in read_replicas(cluster):
        if replica.name not in known:
            known.add(replica.name)
            yield replica


def examine(replica: Replica) -> Restored:
    """Send requests to a replica that has just become ready, and read its log."""
    failed, is_first_right = 0, False
    for number in range(REQUESTS):
        try:
            answer = replica.call("GET", "/state" if not number else PATHS[number % len(PATHS)])
            if not number:
                is_first_right = answer.status == 200 and answer.json["databaseUser"] == POD.user
            failed += answer.status != 200
        except OSError:
            failed += 1
    log = replica.read_log()
    hooks = HOOKS.search(log)
    stale = len(STALE_CLIENT.findall(log))
    return Restored(COLD in log, int(hooks[1]) if hooks else None, is_first_right, failed, stale, log)


def restore_often(cluster: Cluster, count: int, replicas: int, progress: Progress) -> tuple[list[Restored], int]:
    """Delete all replicas again and again, and return what the new ones did, and other clients of the database."""
    known: set[str] = set()
    found: list[Restored] = []
    others = 0
    with ThreadPoolExecutor(replicas) as pool:
        while len(found) < count:
            begin, running = time.monotonic(), []
            while len(running) < replicas:
                running += [pool.submit(examine, replica) for replica in find_new(cluster, known)]
                if time.monotonic() > begin + START_S:
                    raise WarmstartError(f"{len(running)} of {replicas} replicas were ready in time")
                time.sleep(0.05)
            found += [one.result() for one in running]
            others += count_others(cluster)
            progress.note(f"{len(found)} restores, the last {replicas} in {time.monotonic() - begin:.1f} s")
            if len(found) < count:
                cluster.kubectl("delete", "pods", "--selector=app=shop", "--wait=false")
    return found, others


def count_others(cluster: Cluster) -> int:
    """Return how many of the database's clients are there as another user, or by another URL, than the pods have."""
    words = ["psql", f"--username={POD.user}", "--dbname=shop", "-tA", "-F,", "-c", CLIENTS]
    clients = cluster.kubectl("exec", "postgres-0", "--", *words).splitlines()
    return sum(client != f"{POD.user},{CLIENT}" for client in clients)


def list_results(restorer: Restorer, found: list[Restored], others: int, server: list[str]) -> Section:
    """Return the table of the results."""
    hooks = [one.hooks_ms for one in found if one.hooks_ms is not None]
    return Section(
        f"The shop with hooks, restored by {restorer}",
        (),
        (
            ("restores", f"{sum(not one.cold for one in found)} of {len(found)} starts"),
            ("first query wrong", str(sum(not one.is_first_right for one in found))),
            ("failed requests", f"{sum(one.failed for one in found)} of {REQUESTS * len(found)}"),
            ("stale connections in the pods' logs", str(sum(one.stale for one in found))),
            ("stale connections in PostgreSQL's log", str(len(server))),
            ("clients that are not the pods'", str(others)),
            ("hooks, median", f"{statistics.median(hooks):g} ms" if hooks else "not in the log"),
        ),
    )


@click.command()
@click.option("--restores", type=click.IntRange(1), default=50, show_default=True, help="How many at least.")
@click.option("--replicas", type=click.IntRange(1), default=4, show_default=True, help="Restored at once.")
@click.option("--restorer", type=click.Choice([str(one) for one in Restorer]), default="self", show_default=True)
@cache_option
def main(restores: int, replicas: int, restorer: str, cache_dir: Path) -> None:
    """Build, deploy and restore the shop, and print what became of its connections."""
    console, cache, by = Console(), cache_dir.absolute(), Restorer(restorer)
    progress = Progress(TerminalListener(console, verbose=True))
    with open_cluster(cache, progress=progress.note) as cluster, tempfile.TemporaryDirectory() as directory:
        user = User(cluster, cache, "", "")
        with open_node("bench", cache, progress) as session, progress.step("base images"):
            for name, tag in IMAGES.items():
                push_image(cluster, session, TOP / "build/images" / f"{name}.tar", f"{name}:{tag}")
        example, secrets = copy_example(Path(directory), cluster.registry), Path(directory) / "secrets"
        secrets.mkdir()
        with progress.step("build"):
            built = build_shop(user, example, by, secrets)
        console.print(f"closed sockets: {built['edits']['closedSockets']}, hooks: {built['hooks']}")
        console.print(*built["warnings"], f"restores: {built['restores']}", sep="\n")
        with progress.step("deploy"):
            deploy_shop(user, example, built["image"], by, run_database(cluster, example), replicas)
        with progress.step("restores"):
            found, others = restore_often(cluster, restores, replicas, progress)
        log = cluster.kubectl("logs", "postgres-0").splitlines()
        server = [line for line in log if STALE_SERVER.search(line)]
        odd = [one.log for one in found if one.cold or one.failed or one.stale or not one.is_first_right]
        console.print(*server, *odd[:1], sep="\n", markup=False)
        console.print(make_section(list_results(by, found, others, server)))


if __name__ == "__main__":
    run_command(main)
