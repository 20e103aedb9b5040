"""The agents for Python and Node in images with both restorers, and the pools of connections that they empty."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.builds import build, get
from support.engines import BuiltImage
from support.recipes import build_once

from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.publish import Output
from warmstart.build.services import open_companions
from warmstart.core.errors import AppError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.engine.cri import CriContainer
from warmstart.engine.cri_messages import Host
from warmstart.engine.local import LocalEngine
from warmstart.image.cache.layers import LayerCache
from warmstart.image.selfrestore.pack import COLD_START
from warmstart.node.keeper import Bind
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Recipe

TOP = Path(__file__).parents[2]
IMAGE = "localhost/tests/script:1"

pytestmark = pytest.mark.node


def await_probe(running: CriContainer, container: Container) -> None:
    wait_first_success(running, first_probe(container), limit_s=60)


# Generators of random numbers, timers, and callbacks that fail


@dataclass(frozen=True)
class Script:
    """A runtime: how it runs a program, generators that replicas share without hooks, and what its errors look like."""

    name: str
    run: str
    renewed: frozenset[str]
    error: str
    limit: str
    subnets: tuple[str, str]


PYTHON = Script(
    "python",
    "python3 -c",
    frozenset({"random", "ssl.RAND_bytes", "tempfile"}),
    r"OSError: no pool (callbacks: __main__.act)",
    r"TimeoutError: not done within 2 s (callbacks: __main__.act)",
    ("10.78.20.0/24", "10.78.21.0/24"),
)
NODE = Script(
    "node",
    "node -e",
    frozenset(
        {
            "Math.random",
            "crypto.randomUUID",
            "crypto.randomInt",
            "crypto.randomBytes",
            "crypto.getRandomValues",
        }
    ),
    r"RangeError: no pool (callbacks: anonymous)",
    r"not done within 2 s (callbacks: anonymous)",
    ("10.78.22.0/24", "10.78.23.0/24"),
)
FILES = {"python": "draws.py", "node": "draws.js"}
each_script = pytest.mark.parametrize("script", [PYTHON, NODE], ids=lambda script: script.name)


def write_draws(directory: Path, script: Script, fail: str = "", **more: object) -> Path:
    program = (TOP / "tests/programs" / FILES[script.name]).read_text()
    env = {"PROGRAM": program.replace("$", "$$"), "WARMSTART_HOOKS_LIMIT": "2", "FAIL": fail}
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "draws",
        "container": {
            "image": f"oci-archive:{TOP}/build/images/{script.name}.tar",
            "command": ["sh", "-c", f'exec {script.run} "$$PROGRAM" 8080'],
            "env": [{"name": name, "value": value} for name, value in env.items()],
            "securityContext": {"readOnlyRootFilesystem": True},
            "readinessProbe": {
                "httpGet": {"path": "/", "port": 8080},
                "periodSeconds": 1,
                "failureThreshold": 60,
            },
        },
        "hooks": [script.name],
        "late": ["FAIL"],
        "restore": ["runtime", "self"],
        "image": {"name": IMAGE},
        **more,
    }
    (directory / "recipe.yaml").write_text(json.dumps(document))
    return directory / "recipe.yaml"


def ask(running: CriContainer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(running, "/")[1])
    return found


def start_replicas(engine: LocalEngine, container: Container) -> list[dict[str, Any]]:
    """Start two replicas, and return their answers."""
    with engine.cri.start(container, IMAGE, "one") as one, engine.cri.start(container, IMAGE, "two") as two:
        await_probe(one, container)
        await_probe(two, container)
        return [ask(one), ask(two)]


def find_same(replicas: list[dict[str, Any]]) -> set[str]:
    one, two = (each["draws"] for each in replicas)
    return {name for name, value in one.items() if value == two[name]}


def check_renewed(replicas: list[dict[str, Any]]) -> None:
    assert find_same(replicas) == set()
    for replica in replicas:
        assert replica["said"] == ["before", "after"]
        # Timers do not catch up with the time between the checkpoint and the restore.
        for name, count in replica["ticks"].items():
            assert 0 < count <= replica["milliseconds"] / 10 + 5, name


@each_script
def test_replicas_differ_and_never_run_after_a_failed_hook(tree, cache, open_node, tmp_path, script):
    recipe = write_draws(tmp_path, script)
    built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
    assert [one.runtime.split()[0] for one in built.hooks] == [script.name]
    container = load_recipe(recipe).container
    image = BuiltImage(cache, tmp_path / "out", IMAGE)
    with open_node(*image.binds) as session:
        with image.open_engine(session, script.subnets[0], restore=True) as engine:
            check_renewed(start_replicas(engine, container))
        with image.open_engine(session, script.subnets[1], restore=False) as engine:
            container = replace(container, command=(), args=())
            check_renewed(start_replicas(engine, container))
            for fail, error in (("after throws", script.error), ("after hangs", script.limit)):
                check_starts_cold(engine, container, fail, error)


def check_starts_cold(engine: LocalEngine, container: Container, fail: str, error: str) -> None:
    env = tuple({**dict(container.env), "FAIL": fail}.items())
    with engine.cri.start(replace(container, env=env), IMAGE, "cold") as running:
        await_probe(running, container)
        assert ask(running)["said"] == []
        reasons = [found[1] for line in running.log_tail(50) if (found := COLD_START.match(line))]
    assert any(error in reason for reason in reasons), reasons


@each_script
def test_replicas_without_hooks_draw_the_same(tree, cache, open_node, tmp_path, script):
    recipe = write_draws(tmp_path, script, hooks="none", late=[], restore=["runtime"])
    build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
    image = BuiltImage(cache, tmp_path / "out", IMAGE)
    with (
        open_node(*image.binds) as session,
        image.open_engine(session, script.subnets[0], restore=True) as engine,
    ):
        # Others may be the same too: the agent renews more than is known to be.
        assert find_same(start_replicas(engine, load_recipe(recipe).container)) >= script.renewed


@pytest.mark.parametrize(
    ("script", "fail", "error"),
    [(PYTHON, "before throws", PYTHON.error), (NODE, "before hangs", NODE.limit)],
    ids=["python throws", "node hangs"],
)
def test_a_hook_that_fails_before_the_checkpoint_ends_the_build(tree, cache, tmp_path, script, fail, error):
    with pytest.raises(AppError, match=rf"\({script.name} .*\) failed: {re.escape(error)}"):
        build(write_draws(tmp_path, script, fail), BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


# Pools of connections

OTHER_PASSWORD = "of-the-pod"


def write_other(directory: Path, recipe: Path) -> Path:
    """Write a recipe with other services than those of its build."""
    document = yaml.safe_load(recipe.read_text().replace("../../build", f"{TOP}/build"))
    (secret,) = document["build"]["secrets"]
    document["build"]["secrets"] = {secret: {"password": OTHER_PASSWORD}}
    for service in document["build"]["services"]:
        # The second name is for a container whose environment nobody tells the hooks.
        service.update(name=f"other-{service['name']}", aliases=[service["name"]])
    for container in (document["container"], document["initContainers"][0]):
        container["env"] = [{**each, "value": f"other-{each['value']}"} for each in container["env"]]
    path = directory / "other.yaml"
    path.write_text(json.dumps(document))
    return path


def find_image_binds(recipe: Recipe) -> list[Bind]:
    """Return the archives with the images of the recipe's services and init containers."""
    images = {one.container.image for one in recipe.companions}
    return [Bind(image.removeprefix("oci-archive:")) for image in sorted(images)]


def first_answer(running: CriContainer) -> dict[str, Any]:
    """Return the answer of the first connection that the container accepts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError):
            running.connect(8080, None, 1).close()
            break
        time.sleep(0.02)
    status, body = get(running, "/state", 60)
    assert status == 200, running.log_tail(20)
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("name", ["python-postgres", "node-postgres"])
def test_pools_are_empty_at_the_checkpoint_and_use_the_pods_services(tree, cache, open_node, make_once, tmp_path, name):
    path = TOP / "recipes" / name / "recipe.yaml"
    layout, built = build_once(make_once, path, cache)
    # It says `tcp: refuse`.
    assert [runtime.split()[0] for runtime in built.hooks] == [name.split("-")[0]]
    assert not [warning for warning in built.warnings if "[tcp-established]" in warning]
    recipe = load_recipe(write_other(tmp_path, path))
    itself = replace(recipe.container, command=(), args=())
    image = BuiltImage(cache, layout, str(recipe.image))
    with open_node(*image.binds, *find_image_binds(recipe)) as session:
        progress, layers = Progress(SilentListener()), LayerCache(cache)
        context = BuildContext(recipe, BuildOptions(cache), progress, session, layers=layers)
        with open_companions(context) as companions, companions.run() as beside:
            with (
                image.open_engine(session, "10.78.24.0/24", restore=True) as engine,
                beside.start(engine, recipe.container, image.name, "pod") as running,
            ):
                runtime = first_answer(running)
                assert running.restored
            hosts = tuple(Host(host.address, host.names[:1]) for host in beside.hosts)
            with (
                image.open_engine(session, "10.78.25.0/24", restore=False) as engine,
                replace(beside, hosts=hosts).start(engine, itself, image.name, "pod") as running,
            ):
                by_itself = first_answer(running)
    # The visits of both are in the pod's Redis.
    assert (runtime["visits"], by_itself["visits"]) == (1, 2)
    assert runtime["startedAt"] == by_itself["startedAt"]
