"""A build that is interrupted at any step leaves nothing behind, and publishes no incomplete image."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support.builds import READY, STATE, PrivateRegistry, build, write_recipe
from support.leaks import Traces, take_snapshot, wait_until_clean
from support.strike import Striker

from warmstart.build.context import BuildOptions
from warmstart.cli.interruption import TERMINATED
from warmstart.cli.main import INTERRUPTED
from warmstart.core import workspace
from warmstart.core.progress import SilentListener
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.launcher import ensure_launcher

pytestmark = pytest.mark.node

# What a killed build leaves is removed by its keeper, which needs a moment; as does a keeper that was just started when
# its build ended.
KEEPER_S = 60.0
CHILD_S = 60.0
# CRI-O gives an application a minute to obey a signal that it cannot see while it is frozen for its checkpoint.
HANG_S = 120.0
STRIKE = Path(__file__).parents[1] / "support" / "strike.py"
IMAGE = "tests/struck:1"
# The service takes a moment to be ready, and the volume is a mount of its own.
FAST = {"name": "fast", "emptyDir": {"medium": "Memory"}}
MOUNTED = {"volumeMounts": [{"name": "fast", "mountPath": "/fast"}]}
SLOW = {"env": [{"name": "START_MS", "value": "700"}], "readinessProbe": READY}
# Seconds after the moments at which the service starts, is beside the application, and beside the restored one.
WITH_SERVICE = {"services:slow": 0.4, "warm up": 0.0, "verify:restore 1 of 2": 0.1}


class InjectedError(Exception):
    """An error unknown to the code of the build."""


class Recorder(SilentListener):
    """Records the steps that report their progress."""

    def __init__(self) -> None:
        self._current = ""
        self.telling: list[str] = []

    def begin(self, step: str) -> None:
        self._current = step

    def note(self, text: str) -> None:
        if self._current not in self.telling:
            self.telling.append(self._current)


@dataclass(frozen=True)
class Scene:
    """The setting of interrupted builds, and the search for their leaks.

    `durations_s` has the steps of an uninterrupted build, `telling` the steps that report their progress.
    """

    recipe: Path
    options: BuildOptions
    registry: PrivateRegistry
    token: str
    directory: Path
    durations_s: dict[str, float]
    telling: list[str]

    def strike(self, name: str, moment: str, delay_s: float, recipe: Path) -> subprocess.CompletedProcess[str]:
        """Run a build that sends itself a signal; see strike.py."""
        return subprocess.run(
            [
                *[sys.executable, STRIKE, name, moment, f"{delay_s}", workspace.PREFIX],
                *["--cache-dir", self.options.cache, "build", recipe],
                *["--plain-http", self.registry.host, "--authfile", self.registry.auth_file],
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_S,
        )

    def is_late(self, done: subprocess.CompletedProcess[str]) -> bool:
        """Tell whether a build was struck after its verification: it has ended, or published its image."""
        return done.returncode == 0 or IMAGE in self.registry.list_images()

    def look(self) -> Traces:
        return take_snapshot(self.token, self.directory) | self.registry.list_images()

    def find_leaks(self, before: Traces, step: str, *, limit_s: float = 0.0) -> list[str]:
        """List the leaks of a build interrupted at a step. A complete image is allowed if it was being published."""
        if step == "publish":
            self.registry.remove_whole(IMAGE)
        return wait_until_clean(before, self.look, limit_s=limit_s)


@pytest.fixture(scope="module")
def scene(base_archive, private_registry, cache, area, make_once, tmp_path_factory) -> Iterator[Scene]:
    # Only the first build of all makes the launcher, and says so.
    ensure_launcher(cache, print)
    token = secrets.token_hex(4)
    directory = area / f"struck-{token}"
    (directory / "tmp").mkdir(parents=True)
    recipe = tmp_path_factory.mktemp("struck") / "recipe.yaml"
    write_recipe(recipe, base_archive, private_registry.name(IMAGE), warmup=[STATE], restore=["runtime", "self"])
    options = BuildOptions(cache, access=RegistryAccess((private_registry.host,), private_registry.auth_file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_TMPDIR", str(directory))
        patch.setenv("TMPDIR", str(directory / "tmp"))
        patch.setattr(workspace, "PREFIX", f"warmstart-{token}-")
        durations_s, telling = json.loads(make_once("struck.json", partial(record, recipe, options)).read_text())
        private_registry.remove_whole(IMAGE)
        # Only the first build of a base image unpacks it; see test_layer_cache.py.
        durations_s.pop("unpack", None)
        yield Scene(recipe, options, private_registry, token, directory, durations_s, telling)


def record(recipe: Path, options: BuildOptions, path: Path) -> None:
    """Write the steps of an uninterrupted build with their durations, and those that report their progress."""
    recorder = Recorder()
    _, steps = build(recipe, options, recorder)
    path.write_text(json.dumps([steps.durations_s, recorder.telling]))


def test_there_is_something_to_strike(scene):
    first, *_, last = scene.durations_s
    assert (first, last) == ("tools", "publish")
    assert {"start", "warm up", "verify", "publish"} <= set(scene.telling)


# In the same process


def test_an_error_at_any_step_leaves_nothing(scene):
    leaks = {}
    for step in scene.durations_s:
        before = scene.look()
        # In the middle of the step, where it says that it is there.
        striker = Striker(step, fail, noted=step in scene.telling)
        with pytest.raises(InjectedError):
            build(scene.recipe, scene.options, striker)
        leaks[step] = scene.find_leaks(before, step)
    assert_clean(leaks)


def fail() -> None:
    raise InjectedError


# From outside

MOMENT_S = 0.02
# SIGINT ends by an exception from the handler, as SIGTERM does; only the status is another one.
SIGNALS = [
    ("SIGTERM", TERMINATED, CHILD_S),
    ("SIGKILL", -signal.SIGKILL, KEEPER_S),
    pytest.param("SIGINT", INTERRUPTED, CHILD_S, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status", "limit_s"), SIGNALS)
def test_a_signal_in_the_middle_of_any_step_leaves_nothing(scene, name, status, limit_s):
    strike_steps(scene, list(scene.durations_s), name, status, limit_s)


@pytest.mark.parametrize(("name", "status", "limit_s"), SIGNALS[:2])
def test_a_signal_in_the_middle_of_every_other_step_leaves_nothing(scene, name, status, limit_s):
    """Between them, the two signals strike every step."""
    strike_steps(scene, list(scene.durations_s)[name == "SIGKILL" :: 2], name, status, limit_s)


def strike_steps(scene: Scene, steps: list[str], name: str, status: int, limit_s: float) -> None:
    leaks = {}
    for step in steps:
        before, delay_s = scene.look(), scene.durations_s[step] / 2
        done = scene.strike(name, step, delay_s, scene.recipe)
        while step != "publish" and scene.is_late(done) and delay_s > MOMENT_S:
            # The signal came after the step: the machine was busier when the steps were timed.
            scene.registry.remove_whole(IMAGE)
            delay_s /= 2
            done = scene.strike(name, step, delay_s, scene.recipe)
        late = step == "publish" and done.returncode == 0
        assert done.returncode == status or late, f"{step}: {done.returncode}\n{done.stderr}"
        if step == "tools":
            # There is no keeper yet. A killed command's workspace is empty, and the next command removes it.
            workspace.sweep_workspaces()
        leaks[step] = scene.find_leaks(before, step, limit_s=limit_s)
    assert_clean(leaks)


@pytest.mark.parametrize(
    ("name", "status", "limit_s"), [("SIGTERM", TERMINATED, CHILD_S), ("SIGKILL", -signal.SIGKILL, KEEPER_S)]
)
def test_a_signal_leaves_no_service_and_no_volume(scene, base_archive, tmp_path, name, status, limit_s):
    service = {"name": "slow", "container": {"image": f"oci-archive:{base_archive}", **MOUNTED, **SLOW}}
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base_archive,
        scene.registry.name(IMAGE),
        MOUNTED,
        build={"services": [{**service, "volumes": [FAST]}]},
        volumes=[FAST],
        warmup=[STATE],
        restore=["runtime"],
    )
    leaks = {}
    for moment, delay_s in WITH_SERVICE.items():
        before = scene.look()
        done = scene.strike(name, moment, delay_s, recipe)
        assert done.returncode == status, f"{moment}: {done.returncode}\n{done.stderr}"
        leaks[moment] = scene.find_leaks(before, moment, limit_s=limit_s)
    assert_clean(leaks)


def assert_clean(leaks: dict[object, list[str]]) -> None:
    assert not {where: found for where, found in leaks.items() if found}
