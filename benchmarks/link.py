"""Pulling and starting over a link of 1 Gb/s, from a registry behind it, on a node that has nothing.

The registry lives in a network namespace of its own, which a veth pair joins to that of the embedded node; a token
bucket (tc-tbf(8)) at each end holds back what exceeds the rate.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from statistics import median

from warmstart.bench.measure import Way, measure_start
from warmstart.bench.result import COLD
from warmstart.bench.run import Subject
from warmstart.core.network import connect_in
from warmstart.engine.local import start_engine
from warmstart.node.session import Session

# Networks of stores that come one after the other; a bridge outlives its runtime.
SUBNETS = "10.93.{}.0/24"
NODE_LINK = "to-registry"
NODE, REGISTRY, PORT = "10.94.0.1", "10.94.0.2", 5000
LINK = f"""\
set -eu
ip netns add registry
ip link add {NODE_LINK} type veth peer name to-node netns registry
ip address add {NODE}/30 dev {NODE_LINK}
ip -n registry address add {REGISTRY}/30 dev to-node
ip link set {NODE_LINK} up
ip -n registry link set to-node up
tc qdisc add dev {NODE_LINK} root tbf rate 1gbit burst 256kb latency 50ms
tc -n registry qdisc add dev to-node root tbf rate 1gbit burst 256kb latency 50ms
"""
COPY_S = 600
SERVE_S = 30


def compare_pulls(
    session: Session, subject: Subject, rounds: int, note: Callable[[str], object]
) -> tuple[float, float]:
    """Pull and start in turn: seconds until the probe succeeds, cold and restored in the fastest way (medians)."""
    chosen = [subject.candidates[0], subject.candidates[-1]]
    seconds: dict[str, list[float]] = {candidate.way.name: [] for candidate in chosen}
    with run_registry(session) as registry:
        for candidate in chosen:
            target = f"docker://{registry}/{candidate.way.name}:1"
            skopeo(session, "--dest-tls-verify=false", f"oci:{candidate.layout}", target)
        for number in range(2 * rounds):
            # a b b a a b b a
            way = chosen[(number + 1) // 2 % 2].way
            note(f"{number // 2 + 1} of {rounds}: {way.name}")
            seconds[way.name].append(pull_and_start(session, subject, way, registry, number))
    return median(seconds[COLD]), median(seconds[chosen[-1].way.name])


def pull_and_start(session: Session, subject: Subject, way: Way, registry: str, number: int) -> float:
    """Pull an image to an empty store and start it; seconds for both."""
    with start_engine(session, f"pull-{number}", subnet=SUBNETS.format(number)) as engine:
        began = time.monotonic()
        store = f"containers-storage:[overlay@{engine.root}+{engine.runroot}]{way.image}"
        skopeo(session, "--src-tls-verify=false", f"docker://{registry}/{way.name}:1", store)
        pulled_s = time.monotonic() - began
        return pulled_s + measure_start(engine, way, subject.recipe.container, "pulled").total_s


def skopeo(session: Session, *arguments: str) -> None:
    """Copy an image, in the network of the node."""
    session.run(["skopeo", "copy", "--quiet", *arguments], timeout_s=COPY_S)


@contextlib.contextmanager
def run_registry(session: Session) -> Iterator[str]:
    """A registry behind the link; its HOST:PORT."""
    config = session.workspace / "registry.json"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(session.workspace / "registry")}},
        "http": {"addr": f"{REGISTRY}:{PORT}", "secret": "of no use"},
    }
    config.write_text(json.dumps(settings))
    session.run(["sh", "-c", LINK], timeout_s=10)
    command = ["ip", "netns", "exec", "registry", "docker-registry", "serve", config]
    with session.background(command, log_file=session.workspace / "registry.log"):
        wait_until_serving(session)
        yield f"{REGISTRY}:{PORT}"


def wait_until_serving(session: Session) -> None:
    """Wait until the registry answers."""
    deadline = time.monotonic() + SERVE_S
    while True:
        try:
            connect_in(session.network, (REGISTRY, PORT), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
