"""Pods of images that restore themselves: their variables and volumes are not the build's, and steps come first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.evaluator import PORT, RESTRICTED, ask, make_recipe, path_of, with_container

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.build.verify_source import verify_source
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import start_engine
from warmstart.image.registry.credentials import DEFAULT_ACCESS
from warmstart.image.selfrestore.pack import COLD_START, RESTORED, STEP_FAILED
from warmstart.recipe.model import (
    Container,
    Exec,
    HttpGet,
    Recipe,
    Restorer,
    Step,
    Volume,
    VolumeFile,
    VolumeKind,
    VolumeMount,
)

pytestmark = pytest.mark.node

NAME = "localhost/tests/pods:1"
SECRET = "of the build alone"
GROUP = 4321
# A log, a changed file and a mapped one; a Secret inside of the volume.
BEGIN = """
import mmap
log = open('/data/app.log', 'a')
log.write('built')
log.flush()
changed = open('/data/changed', 'w+b')
changed.write(bytes(4096))
changed.flush()
mapped = mmap.mmap(changed.fileno(), 4096)
mapped[:6] = b'mapped'
read = open('/data/conf/key').read()
"""
# A step that reads the pod's password. The next one asks the application itself.
STEP = """
import os, sys, time
time.sleep(float(os.environ['SLEEP_S']))
password = open('/data/step', 'w').write(os.environ['PASSWORD'])
sys.exit(3 if os.environ['PASSWORD'] == 'wrong' else 0)
"""
ASK = "[open('/data/step').read(), open('/data/asked', 'w').write('x')]"
VARIABLES = {"MODE": "build", "URL": "db://build", "PASSWORD": "password of the build", "SLEEP_S": "0"}


def find_mounts(key: str) -> tuple[VolumeMount, ...]:
    conf = Volume("conf", VolumeKind.FILES, (VolumeFile("key", key.encode()),))
    return (VolumeMount(Volume("data", VolumeKind.EMPTY_DIR), "/data"), VolumeMount(conf, "/data/conf"))


def make() -> Recipe:
    """Return a recipe with a literal MODE, and other variables from elsewhere."""
    recipe = make_recipe(NAME, begin=BEGIN, restore=["self"], container={"env": [{"name": "MODE", "value": "build"}]})
    recipe = with_container(
        recipe,
        env=tuple(VARIABLES.items()),
        volume_mounts=find_mounts(SECRET),
        security_context=RESTRICTED,
        fs_group=GROUP,
    )
    steps = (Step(Exec(("python3", "-c", STEP))), Step(HttpGet(PORT, path_of(ASK))))
    return replace(recipe, late=("PASSWORD", "SLEEP_S"), after_restore=steps)


Start = Callable[..., AbstractContextManager[CriContainer]]


@pytest.fixture(scope="module")
def built(open_node, cache, make_once) -> Iterator[Start]:
    """Build the image, and return a function that starts a container with changed variables."""
    recipe = make()

    def build(path: Path) -> None:
        build_image(recipe, BuildOptions(cache, Output(Transport.OCI, path)), Progress(SilentListener()))

    layout = make_once("self-pods", build)
    with open_node() as session:
        shutil.copytree(layout, session.workspace / "layout")
        with start_engine(session, "node", subnet="10.76.0.0/24", restore=False) as engine:
            engine.import_image(session.workspace / "layout", NAME)

            @contextmanager
            def start(**changes: str | None) -> Iterator[CriContainer]:
                env = {name: value for name, value in {**VARIABLES, **changes}.items() if value is not None}
                container: Container = replace(
                    recipe.container,
                    command=(),
                    args=(),
                    env=tuple(env.items()),
                    volume_mounts=find_mounts("of the pod"),
                )
                with engine.cri.start(container, NAME, "pod") as running:
                    yield running

            yield start


def find_line(running: CriContainer, pattern: object) -> str:
    """Wait for a line of the launcher, and return it."""
    for _ in range(3000):
        for line in running.log_tail(50):
            if pattern.match(line):  # type: ignore[attr-defined]
                return line
        time.sleep(0.02)
    pytest.fail("\n".join(running.log_tail(50)))


def ask_first(running: CriContainer, expression: str) -> str:
    """Evaluate an expression as soon as connections are not refused."""
    for _ in range(3000):
        with suppress(ConnectionRefusedError):
            return ask(running, expression)
        time.sleep(0.02)
    pytest.fail("nobody answers")


def test_the_first_client_from_outside_is_served_after_the_steps(built):
    with built(PASSWORD="of the pod", SLEEP_S="1.5") as running:
        started = time.monotonic()
        said = ask_first(running, "[open(f'/data/{name}').read() for name in ('step', 'asked')]")
        assert said == "['of the pod', 'x']"
        assert time.monotonic() - started > 1
        match = RESTORED.match(find_line(running, RESTORED))
        assert match is not None
        assert int(match["steps"]) >= 1500


def test_files_in_use_on_an_emptydir_are_put_back_and_others_are_the_pods(built):
    with built() as running:
        assert RESTORED.match(find_line(running, RESTORED))
        assert ask(running, "open('/data/app.log').read(), log.write('more'), log.flush()") == "('built', 4, None)"
        assert ask(running, "open('/data/app.log').read()") == "builtmore"
        assert ask(running, "open('/data/changed').read(6), mapped[:6]") == "('mapped', b'mapped')"
        assert ask(running, "read, open('/data/conf/key').read()") == f"('{SECRET}', 'of the pod')"
        assert ask(running, "glob.glob('/.warmstart/seed/**', recursive=True)").count("app.log") == 1
        assert "key" not in ask(running, "glob.glob('/.warmstart/seed/**', recursive=True)")


def test_a_late_variable_may_differ_and_is_read_again(built):
    with built(PASSWORD="another") as running:
        find_line(running, RESTORED)
        new = "dict(one.partition('=')[::2] for one in open('/.warmstart/env').read().split(chr(0)))['PASSWORD']"
        assert ask(running, f"os.environ['PASSWORD'], {new}") == "('password of the build', 'another')"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"URL": "db://hidden"}, "the variable URL differs from the checkpoint's"),
        ({"URL": None}, "the variable URL (not set) differs from the checkpoint's"),
        ({"URL": "db://hidden", "MODE": "hidden"}, "the variables MODE, URL differ from the checkpoint's"),
    ],
)
def test_a_frozen_variable_that_differs_starts_cold_with_its_name(built, changes, named):
    with built(**changes) as running:
        line = find_line(running, COLD_START)
        assert f"cold start: {named} (" in line
        assert "hidden" not in "".join(running.log_tail(50))


def test_a_literal_variable_may_be_left_out(built):
    with built(MODE=None) as running:
        find_line(running, RESTORED)
        assert ask(running, "os.environ['MODE']") == "build"
    with built(MODE=None, WARMSTART="off") as running:
        find_line(running, COLD_START)
        assert ask_first(running, "os.environ['MODE']") == "build"


def test_a_difference_may_be_a_warning_and_new_variables_are_named(built):
    with built(URL="db://hidden", MORE="hidden", WARMSTART_ON_DIFFERENCE="warn") as running:
        find_line(running, RESTORED)
        assert ask(running, "os.environ['URL']") == "db://build"
        said = "\n".join(running.log_tail(50))
    assert "warmstart: warning: the variable URL differs from the checkpoint's" in said
    assert "because the build did not have it: MORE\n" in f"{said}\n"
    assert "hidden" not in said


def test_a_step_that_fails_ends_the_container(built):
    with built(PASSWORD="wrong") as running:
        assert "but after-restore step 1 (exec python3) failed: exit status 3" in find_line(running, STEP_FAILED)
        for _ in range(3000):
            if running.state().exited:
                break
            time.sleep(0.02)
        assert running.state().exit_code == 70


def test_an_image_with_other_secrets_is_verified_with_a_warning(cache, tmp_path):
    """The build's secrets were made up at random, and so are those of the verification."""
    secret = {"secretKeyRef": {"name": "db", "key": "password"}}
    env = {"env": [{"name": "PASSWORD", "valueFrom": secret}]}
    layout = tmp_path / "out"
    recipe = make_recipe("localhost/tests/secret:1", restore=["self"], container=env)
    build_image(recipe, BuildOptions(cache, Output(Transport.OCI, layout)), Progress(SilentListener()))
    source = Source(Transport.OCI, path=layout)
    progress = Progress(SilentListener())
    restores = verify_source(source, cache, DEFAULT_ACCESS, progress, decide=lambda _layout, _source, claimed: claimed)
    assert [restore.restorer for restore in restores] == [Restorer.SELF] * 2
