"""The agent for Java in an image with both restorers: two replicas differ in what a restore would make equal."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.builds import build, get
from support.engines import BuiltImage
from support.java_agent import TOP, compile_java

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.node.hooks import find_agents
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Runtime

IMAGE = "localhost/tests/draws:1"
SUBNETS = {True: "10.78.18.0/24", False: "10.78.19.0/24"}
GENERATORS = {
    "Random",
    "new Random",
    "Math.random",
    "ThreadLocalRandom",
    "SplittableRandom",
    "new SplittableRandom",
    "SHA1PRNG",
    "new SHA1PRNG",
    "DRBG",
    "UUID",
}

pytestmark = pytest.mark.node


def write(directory: Path, cache: Path, image: str) -> Path:
    agent = find_agents([Runtime.JAVA], cache, lambda _: None)["agent.jar"]
    classes = compile_java([TOP / "tests/programs/Draws.java"], agent, directory / "classes")
    # A cold start has no agent, so an application that uses org.crac has it itself.
    subprocess.run(["jar", "--extract", "--file", agent, "org"], cwd=classes, check=True)
    subprocess.run(["jar", "--create", "--file", directory / "draws.jar", "-C", classes, "."], check=True)
    jar = base64.b64encode((directory / "draws.jar").read_bytes()).decode()
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "draws",
        "container": {
            "image": f"oci-archive:{TOP}/build/images/{image}.tar",
            "command": ["sh", "-c", f"echo {jar} | base64 -d >/tmp/draws.jar; exec java -cp /tmp/draws.jar Draws"],
            "env": [
                {"name": "JAVA_TOOL_OPTIONS", "value": "-XX:+UseSerialGC -Xmx64m -XX:-UsePerfData"},
                {"name": "POD", "value": "build"},
            ],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 120},
        },
        "hooks": ["java"],
        "late": ["POD"],
        "restore": ["runtime", "self"],
        "image": {"name": IMAGE},
    }
    (directory / "recipe.yaml").write_text(json.dumps(document))
    return directory / "recipe.yaml"


def draw(running: CriContainer, container: Container) -> dict[str, str]:
    wait_first_success(running, first_probe(container), limit_s=60)
    drawn: dict[str, str] = json.loads(get(running, "/")[1])
    return drawn


def start(engine: LocalEngine, container: Container, pod: str) -> Any:
    return engine.cri.start(replace(container, env=tuple({**dict(container.env), "POD": pod}.items())), IMAGE, pod)


def check_replicas(engine: LocalEngine, container: Container) -> list[str]:
    """Start two replicas, compare them, and return their values of the late variable."""
    with start(engine, container, "one") as one, start(engine, container, "two") as two:
        replicas = [draw(one, container), draw(two, container)]
    same = {name for name in GENERATORS if len({replica[name] for replica in replicas}) == 1}
    assert not same, replicas
    # They are copies of one process: what it seeded itself goes on as it was.
    assert replicas[0]["Random(42)"] == replicas[1]["Random(42)"]
    for replica in replicas:
        assert replica["life"] == "before after"
        assert int(replica["ticks"]) <= int(replica["milliseconds"]) / 10 + 20, "tasks catch up"
    return [replica["POD"] for replica in replicas]


@pytest.mark.parametrize(
    ("image", "version"), [("java", "21"), pytest.param("java-27", "27", marks=pytest.mark.slow)], ids=["21", "27"]
)
def test_replicas_differ(tree, cache, open_node, tmp_path, image, version):
    built, *_ = build(write(tmp_path, cache, image), BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
    assert [one.runtime.split(".")[0] for one in built.hooks] == [f"java {version}"]
    container = load_recipe(tmp_path / "recipe.yaml").container
    image = BuiltImage(cache, tmp_path / "out", IMAGE)
    with open_node(*image.binds) as session:
        with image.open_engine(session, SUBNETS[True], restore=True) as engine:
            assert check_replicas(engine, container) == ["build", "build"]
        with image.open_engine(session, SUBNETS[False], restore=False) as engine:
            assert check_replicas(engine, replace(container, command=(), args=())) == ["one", "two"]
