"""Self-restoring images, built and started as a user would, on nodes without support for restores."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.builds import build, get, read_state, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.launcher_report import read_launcher_times
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.reference import Transport
from warmstart.dump.state import read as kernel
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import start_engine
from warmstart.image.layout import read_image
from warmstart.inspect.inspection import inspect_target
from warmstart.node.session import Session
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Resources, Restorer

pytestmark = pytest.mark.node

SUBNET = "10.78.0.0/24"
IMAGE = "localhost/tests/self:1"
LESS_BYTES = 32 << 20
FILLED = {"env": [{"name": "FILL_MB", "value": "8"}]}
RESTRICTED = {
    "runAsUser": 1000,
    "runAsGroup": 1001,
    "supplementalGroups": [2000],
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture
def make(base_archive, cache, tmp_path) -> Callable[..., tuple[Path, Container]]:
    """Build an image of the server, and return its layout and the container for a pod."""

    def make_one(*restore: str, container: dict[str, object] | None = None, **more: object) -> tuple[Path, Container]:
        settings = {**FILLED, **(container or {})}
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            base_archive,
            IMAGE,
            settings,
            restore=list(restore),
            warmup=[{"httpGet": {"path": "/state", "port": 8080}, "repeat": 3}],
            **{"memory": {"mapped": "all"}, **more},
        )
        built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
        seen = [(each.restorer, each.launcher_ms is not None) for each in built.restores]
        assert seen == [(each, each == Restorer.SELF) for each in restore for _ in range(2)]
        return tmp_path / "out", replace(load_recipe(recipe).container, command=(), args=())

    return make_one


@pytest.fixture
def start(open_node) -> Callable[..., AbstractContextManager[CriContainer]]:
    """Start a container of an image on a new node, by default one that does not support restores."""

    @contextmanager
    def start_one(layout: Path, container: Container, *, restore: bool = False) -> Iterator[CriContainer]:
        with open_node() as session:
            yield from run(session, layout, container, restore)

    def run(session: Session, layout: Path, container: Container, restore: bool) -> Iterator[CriContainer]:
        # Another file system, where /tmp is in memory.
        place = Path(shutil.move(layout, session.workspace / "layout"))
        try:
            with start_engine(session, "node", subnet=SUBNET, restore=restore) as engine:
                engine.import_image(place, IMAGE)
                with engine.cri.start(container, IMAGE, "pod") as running:
                    yield running
        finally:
            shutil.move(place, layout)

    return start_one


def assert_warm(running: CriContainer) -> None:
    """Check that the container continues the build's: by its memory and its number of requests."""
    assert get(running, "/check")[0] == 200
    assert int(str(read_state(running)["requests"])) > 4


@pytest.mark.parametrize("context", [{}, RESTRICTED], ids=["root", "restricted"])
def test_an_image_restores_itself_where_the_runtime_does_not(make, start, context):
    layout, container = make("self", container={"securityContext": context})
    with start(layout, container) as running:
        assert read_launcher_times(running).restore_ms < 5000
        assert_warm(running)
        assert not running.restored
    with start(layout, replace(container, env=(*container.env, ("WARMSTART", "off")))) as running:
        while read_cold_reason(running) is None:
            pass
        wait_until_it_answers(running)
        assert int(str(read_state(running)["requests"])) < 4


def wait_until_it_answers(running: CriContainer) -> None:
    """Wait until the application responds. The launcher logs the reason of a cold start before."""
    for _ in range(200):
        with suppress(ConnectionRefusedError):
            read_state(running)
            return
        time.sleep(0.05)
    pytest.fail("nobody answers")


def read_cold_reason(running: CriContainer) -> str | None:
    """Wait for the launcher's reason for a cold start, and return it."""
    return next((line for line in running.log_tail(20) if line.startswith("warmstart: cold start: ")), None)


def run_hook(running: CriContainer) -> tuple[int, str]:
    """Run a pod's hook, and return the number of its requests to the application, and what it said before a time."""
    before = int(str(read_state(running)["requests"]))
    result = running.exec(["/.warmstart/launcher", "steps"], timeout_s=10)
    assert result.exit_code == 0, result.stderr
    # The last request is the one for the state.
    return int(str(read_state(running)["requests"])) - before - 1, result.stderr.rpartition(" in ")[0]


def test_one_image_is_restored_by_the_runtime_and_by_itself(make, start):
    steps = [{"signal": "SIGCONT"}, {"httpGet": {"path": "/ready", "port": 8080}}]
    layout, container = make("runtime", "self", container={"securityContext": RESTRICTED}, afterRestore=steps)
    with start(layout, container, restore=True) as running:
        assert running.restored
        assert_warm(running)
        # Its memory is that of the dump, before any step.
        assert run_hook(running) == (1, "warmstart: after-restore steps")
    with start(layout, container, restore=False) as running:
        assert not running.restored
        read_launcher_times(running)
        assert_warm(running)
        assert run_hook(running) == (0, "")
    with start(layout, replace(container, env=(*container.env, ("WARMSTART", "off")))) as running:
        wait_until_it_answers(running)
        assert run_hook(running) == (0, "")
    facts = inspect_target(str(layout)).image
    assert facts is not None
    assert facts.restorers == ("CRI-O", "itself")


def test_a_filter_of_the_applications_own_survives_by_each_restorer(make, start):
    env = {"env": [*FILLED["env"], {"name": "DENY", "value": "mkdir"}]}
    layout, container = make("runtime", "self", container=env)
    for restore in (True, False):
        with start(layout, container, restore=restore) as running:
            assert running.restored is restore
            assert_warm(running)
            assert get(running, "/denied") == (200, str(errno.EACCES))
            proc = running.engine.proc
            threads = [
                facts for name, facts in kernel.read_state(proc, running.pid).subjects.items() if "thread" in name
            ]
            server = next(each for each in threads if each["name"] == "server")
            # CRI-O's, the launcher's, its own.
            assert (server["Seccomp_filters"], server["NoNewPrivs"]) == ("3", "1")


def test_a_filter_that_would_not_let_a_restore_end_is_refused(make):
    with pytest.raises(PreflightError, match="would not dump or restore") as raised:
        make("self", container={"env": [{"name": "DENY", "value": "munmap"}]})
    (line,) = raised.value.details
    assert "does not allow munmap" in line
    assert line.endswith("[seccomp-filter]")


def test_a_pod_of_another_user_starts_cold(make, start):
    layout, container = make("self", container={"securityContext": RESTRICTED})
    other = replace(container, security_context=replace(container.security_context, run_as_user=1002))
    with start(layout, other) as running:
        while (reason := read_cold_reason(running)) is None:
            pass
        assert "uid is 1002, the checkpoint was made as 1000" in reason


def test_a_pod_with_less_memory_than_was_dumped_starts_cold(make, start):
    filled = {"env": [{"name": "FILL_MB", "value": "64"}]}
    layout, container = make("self", container=filled, memory={"mapped": "none"})
    less = replace(container, env=(("FILL_MB", "1"),), resources=Resources(memory_limit_bytes=LESS_BYTES))
    with start(layout, less) as running:
        while (reason := read_cold_reason(running)) is None:
            pass
        assert f"the memory limit is {LESS_BYTES} bytes, the checkpoint has " in reason


def test_the_launcher_is_the_same_layer_of_all_images(make):
    layout, _ = make("self", container={"args": ["another"]})
    first = read_image(layout)
    layout, _ = make("self", container={"securityContext": RESTRICTED}, afterRestore={"signal": "SIGCONT"})
    second = read_image(layout)
    names = dict(zip(first.config.history, first.manifest.layers, strict=True))
    others = dict(zip(second.config.history, second.manifest.layers, strict=True))
    shared = "warmstart build: launcher"
    assert names[shared] == others[shared]
    assert first.config.entrypoint == ("/.warmstart/launcher", "start", "--", "/server")
    assert (first.config.cmd, second.config.cmd) == (("another",), ("of-the-image",))
    checkpoint = inspect_target(str(layout)).checkpoint
    assert checkpoint is not None
    assert (checkpoint.container.user.uid, checkpoint.container.user.groups) == (1000, (2000,))
