"""Self-restoring images, built and started as a user would, on nodes without support for restores."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.builds import build, get, read_state, write_recipe
from support.engines import BuiltImage
from support.once import MakeOnce
from support.runtimes import find_application

from warmstart.build import touched
from warmstart.build.context import BuildOptions
from warmstart.build.launcher_report import read_launcher_times
from warmstart.build.pipeline import READ_AHEAD_BYTES
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.reference import Transport
from warmstart.dump.state import read as kernel
from warmstart.engine.cri import CriContainer
from warmstart.image.layout import read_image
from warmstart.inspect.inspection import inspect_target
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container, Resources, Restorer

pytestmark = pytest.mark.node

SUBNET = "10.78.0.0/24"
IMAGE = "localhost/tests/self:1"
LESS_BYTES = 32 << 20
FILLED = {"env": [{"name": "FILL_MB", "value": "8"}]}
# Enough for a list of what to read ahead.
FILLED_MB = str(READ_AHEAD_BYTES >> 20)
MUCH = {"env": [{"name": "FILL_MB", "value": FILLED_MB}]}
RESTRICTED = {
    "runAsUser": 1000,
    "runAsGroup": 1001,
    "supplementalGroups": [2000],
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


# Settings of the images that tests share.
ITSELF: dict[str, dict[str, object]] = {
    "root": {"container": {"args": ["another"]}},
    "restricted": {"container": {"securityContext": RESTRICTED, **MUCH}, "afterRestore": {"signal": "SIGCONT"}},
}
Make = Callable[..., tuple[BuiltImage, Container]]
Started = AbstractContextManager[CriContainer]


@pytest.fixture
def make(base_archive, cache, tmp_path) -> Make:
    """Build an image of the server, and return it with the container for a pod."""

    def make_one(
        *restore: str, container: dict[str, object] | None = None, directory: Path = tmp_path, **more: object
    ) -> tuple[BuiltImage, Container]:
        settings = {**FILLED, **(container or {})}
        recipe = write_recipe(
            directory / "recipe.yaml",
            base_archive,
            IMAGE,
            settings,
            restore=list(restore),
            warmup=[{"httpGet": {"path": "/state", "port": 8080}, "repeat": 3}],
            **{"memory": {"mapped": "all"}, **more},
        )
        built, _ = build(recipe, BuildOptions(cache, Output(Transport.OCI, directory / "out")))
        seen = [(each.restorer, each.launcher_ms is not None) for each in built.restores]
        assert seen == [(each, each == Restorer.SELF) for each in restore for _ in range(2)]
        return find_built(directory, cache)

    return make_one


@pytest.fixture(params=["root", "restricted"])
def itself(request, make, make_once, cache) -> tuple[BuiltImage, Container]:
    """Return an image that restores itself, of which all tests use one build, and the container for a pod."""
    return share(request.param, make, make_once, cache)


@pytest.fixture
def restricted(make, make_once, cache) -> tuple[BuiltImage, Container]:
    """Return the restricted one of them."""
    return share("restricted", make, make_once, cache)


def share(name: str, make: Make, make_once: MakeOnce, cache: Path) -> tuple[BuiltImage, Container]:
    def build_it(path: Path) -> None:
        path.mkdir()
        make("self", directory=path, **ITSELF[name])

    return find_built(make_once(f"itself-{name}", build_it), cache)


def find_built(directory: Path, cache: Path) -> tuple[BuiltImage, Container]:
    container = load_recipe(directory / "recipe.yaml").container
    return BuiltImage(cache, directory / "out", IMAGE), container.run_by_image()


@pytest.fixture
def run(open_node) -> Callable[..., AbstractContextManager[Callable[[Container], Started]]]:
    """Open a new node that has an image, by default one that does not support restores, and start containers there."""

    @contextmanager
    def run_node(image: BuiltImage, *, restore: bool = False) -> Iterator[Callable[[Container], Started]]:
        with (
            open_node(*image.binds) as session,
            image.open_engine(session, SUBNET, restore=restore, unpack_all=True) as engine,
        ):
            yield lambda container: engine.cri.start(container, IMAGE, "pod")

    return run_node


def assert_warm(running: CriContainer) -> None:
    """Check that the container continues the build's: by its memory and its number of requests."""
    assert get(running, "/check")[0] == 200
    assert int(str(read_state(running)["requests"])) > 4


def test_an_image_restores_itself_where_the_runtime_does_not(itself, run):
    image, container = itself
    with run(image) as start:
        with start(container) as running:
            assert read_launcher_times(running).restore_ms < 5000
            assert_warm(running)
            assert not running.restored
            assert ("/.warmstart/memory" in list_read_ahead(running)) == (("FILL_MB", FILLED_MB) in container.env)
        with start(switch_off(container)) as running:
            await_cold_reason(running)
            wait_until_it_answers(running)
            assert int(str(read_state(running)["requests"])) < 4


def list_read_ahead(running: CriContainer) -> set[str]:
    """Return the files of which an image lists parts, none of them empty; none without a list."""
    path = running.engine.proc / str(running.pid) / "root/.warmstart/read-ahead"
    lines = path.read_text().splitlines() if path.exists() else []
    assert all(int(line.split(" ")[1]) > 0 for line in lines)
    return {line.split(" ")[2] for line in lines}


def switch_off(container: Container) -> Container:
    return replace(container, env=(*container.env, ("WARMSTART", "off")))


def wait_until_it_answers(running: CriContainer) -> None:
    """Wait until the application responds. The launcher logs the reason of a cold start before."""
    for _ in range(1200):
        with suppress(ConnectionRefusedError):
            read_state(running)
            return
        time.sleep(0.05)
    pytest.fail("nobody answers")


def await_cold_reason(running: CriContainer) -> str:
    """Wait for the launcher's reason for a cold start, and return it."""
    for _ in range(3000):
        for line in running.log_tail(20):
            if line.startswith("warmstart: cold start: "):
                return line
        time.sleep(0.02)
    pytest.fail("\n".join(running.log_tail(20)))


def run_hook(running: CriContainer) -> tuple[int, str]:
    """Run a pod's hook, and return the number of its requests to the application, and what it said before a time."""
    before = int(str(read_state(running)["requests"]))
    result = running.exec(["/.warmstart/launcher", "steps"], timeout_s=60)
    assert result.exit_code == 0, result.stderr
    # The last request is the one for the state.
    return int(str(read_state(running)["requests"])) - before - 1, result.stderr.rpartition(" in ")[0]


def test_one_image_is_restored_by_the_runtime_and_by_itself(make, run):
    steps = [{"signal": "SIGCONT"}, {"httpGet": {"path": "/ready", "port": 8080}}]
    settings = {"securityContext": RESTRICTED, **MUCH}
    image, container = make("runtime", "self", container=settings, afterRestore=steps)
    with run(image, restore=True) as start, start(container) as running:
        assert running.restored
        assert_warm(running)
        # Its memory is that of the dump, before any step.
        assert run_hook(running) == (1, "warmstart: after-restore steps")
    with run(image) as start:
        with start(container) as running:
            assert not running.restored
            read_launcher_times(running)
            assert_warm(running)
            assert run_hook(running) == (0, "")
            assert "/.warmstart/memory" in list_read_ahead(running)
        with start(switch_off(container)) as running:
            wait_until_it_answers(running)
            assert run_hook(running) == (0, "")
    facts = inspect_target(str(image.layout)).image
    assert facts is not None
    assert facts.restorers == ("CRI-O", "itself")


def test_a_large_memory_of_a_lazy_image_has_its_touched_parts_in_a_file_of_their_own(make, run, monkeypatch):
    monkeypatch.setattr(touched, "FIRST_LIMIT_BYTES", 16 << 20)
    settings = {"securityContext": RESTRICTED, **MUCH}
    image, container = make("runtime", "self", container=settings, lazy="zstd-chunked")
    with run(image) as start, start(container) as running:
        read_launcher_times(running)
        assert {"/.warmstart/memory", "/.warmstart/memory-touched"} <= list_mapped(running)
        assert_warm(running)
        assert "/.warmstart/memory" not in list_read_ahead(running)
        assert "/.warmstart/memory-touched" in list_read_ahead(running)
    with run(image, restore=True) as start, start(container) as running:
        assert running.restored
        assert_warm(running)


def list_mapped(running: CriContainer) -> set[str]:
    """Return the files that the application has mapped."""
    proc = running.engine.proc
    application = find_application(proc, running.pid)
    lines = (proc / str(application) / "maps").read_text().splitlines()
    return {words[5] for line in lines if len(words := line.split(maxsplit=5)) == 6}


def test_a_filter_of_the_applications_own_survives_by_each_restorer(make, run):
    env = {"env": [*FILLED["env"], {"name": "DENY", "value": "mkdir"}]}
    image, container = make("runtime", "self", container=env)
    for restore in (True, False):
        with run(image, restore=restore) as start, start(container) as running:
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


def test_a_pod_of_another_user_starts_cold(restricted, run):
    image, container = restricted
    other = replace(container, security_context=replace(container.security_context, run_as_user=1002))
    with run(image) as start, start(other) as running:
        assert "uid is 1002, the checkpoint was made as 1000" in await_cold_reason(running)


def test_a_pod_with_less_memory_than_was_dumped_starts_cold(make, run):
    filled = {"env": [{"name": "FILL_MB", "value": "64"}]}
    image, container = make("self", container=filled, memory={"mapped": "none"})
    less = replace(container, env=(("FILL_MB", "1"),), resources=Resources(memory_limit_bytes=LESS_BYTES))
    with run(image) as start, start(less) as running:
        assert f"the memory limit is {LESS_BYTES} bytes, the checkpoint has " in await_cold_reason(running)


def test_the_launcher_is_the_same_layer_of_all_images(make, make_once, cache):
    layouts = [share(name, make, make_once, cache)[0].layout for name in ("root", "restricted")]
    first, second = map(read_image, layouts)
    names = dict(zip(first.config.history, first.manifest.layers, strict=True))
    others = dict(zip(second.config.history, second.manifest.layers, strict=True))
    shared = "warmstart build: launcher"
    assert names[shared] == others[shared]
    assert first.config.entrypoint == ("/.warmstart/launcher", "start", "--", "/server")
    assert (first.config.cmd, second.config.cmd) == (("another",), ("of-the-image",))
    checkpoint = inspect_target(str(layouts[1])).checkpoint
    assert checkpoint is not None
    assert (checkpoint.container.user.uid, checkpoint.container.user.groups) == (1000, (2000,))
