"""Applications as they are used: built into images that restore themselves, and run where no runtime restores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

import pytest
from support.runtimes import (
    CriRuntime,
    CriStarted,
    find_application,
    open_crio,
    wait_for_line,
)

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.core.workspace import open_workspace
from warmstart.dump.criu.fingerprint import read_identity
from warmstart.node.session import enter
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Recipe

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(1200)]

TOP = Path(__file__).parents[2]
READY_S = 120.0


@dataclass(frozen=True)
class Application:
    """A recipe of this repository with changes, or the name of an image of tests/runtimes/images.

    `statuses` are the exit statuses after SIGTERM of a restored and a cold one, where they differ.
    """

    source: str
    overrides: tuple[str, ...] = ()
    statuses: tuple[int, int] | None = None

    def load(self) -> Recipe:
        """Its recipe, for an image that restores itself."""
        if self.source.endswith(".yaml"):
            return load_recipe(TOP / self.source, overrides=["restore=[self]", *self.overrides])
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": self.source,
            "container": {
                "image": f"oci-archive:{TOP}/build/images/{self.source}.tar",
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
                "securityContext": RESTRICTED,
            },
            "restore": ["self"],
            "image": {"name": f"localhost/tests/{self.source}:1"},
        }
        return parse_recipe(json.dumps(document), self.source)


RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
UVICORN = "[uvicorn, 'notes:app', --host=0.0.0.0, --port=8080, --no-access-log, --workers=2]"
APPLICATIONS = {
    "spring-boot": Application("examples/java-app/recipe.yaml"),
    "java": Application("recipes/java/recipe.yaml"),
    # It stops well, and then sends itself the signal again: which does nothing to who is process 1.
    "uvicorn": Application("recipes/python/recipe.yaml", statuses=(128 + SIGTERM, 0)),
    "uvicorn-workers": Application("recipes/python/recipe.yaml", (f"container.args={UVICORN}",)),
    "gunicorn": Application("recipes/python/gunicorn.recipe.yaml"),
    "node": Application("recipes/node/recipe.yaml"),
    "go": Application("recipes/go/recipe.yaml"),
    "nginx": Application("nginx"),
    "redis": Application("redis"),
}


@dataclass(frozen=True)
class Restored:
    """The image of an application, where it is run."""

    recipe: Recipe
    identity: str
    runtime: CriRuntime
    statuses: tuple[int, int] | None

    def await_restored(self, started: CriStarted) -> None:
        """See that it was restored, and answers."""
        wait_for_line(started, r"warmstart: restored in \d+ ms")
        wait_first_success(started.running, first_probe(self.recipe.container), limit_s=READY_S)
        assert read_identity(self.runtime.proc, find_application(self.runtime.proc, started.pid)) == self.identity

    def await_cold(self, started: CriStarted) -> None:
        """See that it was started cold, as it was told to, and answers."""
        wait_for_line(started, r"warmstart: cold start: WARMSTART is off \(\d+ ms\)")
        wait_first_success(started.running, first_probe(self.recipe.container), limit_s=READY_S)
        assert read_identity(self.runtime.proc, started.pid) != self.identity


@pytest.fixture(scope="module", params=list(APPLICATIONS))
def application(request, cache, tree, tmp_path_factory) -> Iterator[Restored]:
    """Each application in turn: built, and its image in the store of a CRI-O that does not restore."""
    chosen = APPLICATIONS[request.param]
    recipe = chosen.load()
    archive = tmp_path_factory.mktemp("images") / "image.tar"
    steps = Progress(SilentListener())
    built = build_image(recipe, BuildOptions(cache, Output(Transport.OCI_ARCHIVE, archive)), steps)
    assert steps.warnings == []
    container = replace(recipe.container, command=(), args=())
    with open_workspace("runtimes") as workspace, enter(tree, workspace) as session:
        shutil.move(archive, workspace / "image.tar")
        with open_crio(session, workspace / "image.tar", container) as runtime:
            yield Restored(recipe, built.provenance.identity, runtime, chosen.statuses)


def test_three_at_once(application):
    def run(number: int) -> None:
        with application.runtime.start(NUMBER=str(number)) as started:
            application.await_restored(started)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [None] * 3


def test_it_stops_as_a_cold_one_does_and_restarts(application):
    with application.runtime.start() as started:
        application.await_restored(started)
        status = started.stop()
        started.restart()
        application.await_restored(started)
    with application.runtime.start(WARMSTART="off") as started:
        application.await_cold(started)
        statuses = status, started.stop()
    assert statuses == (application.statuses or (status, status))


OLD_THREAD = "import subprocess, threading, time; threading.Thread(target=time.sleep, args=(9999,)).start(); "
OLD_THREAD += "subprocess.run(['python3', '-m', 'http.server', '8080'])"
SYSTEM_V = "import ctypes, http.server; libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p; "
SYSTEM_V += "libc.shmat(libc.shmget(0, 4096, 0o1600), None, 0); http.server.test(port=8080)"
BARE = ("warmup=[]", "beforeCheckpoint=[]", "container.readinessProbe={tcpSocket: {port: 8080}}")


@pytest.mark.parametrize(
    ("recipe", "overrides", "code", "fix"),
    [
        ("python", (f"container.command={['python3', '-c', OLD_THREAD]}", *BARE), "thread-before-process", "npm"),
        ("python", (f"container.command={['python3', '-c', SYSTEM_V]}", *BARE), "sysv-shm-self", "POSIX"),
        ("go", ("container.env=[]",), "mptcp", "multipathtcp=0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_fix(recipe, overrides, code, fix, cache, tree, tmp_path):
    recipe = Application(f"recipes/{recipe}/recipe.yaml", overrides).load()
    output = Output(Transport.OCI_ARCHIVE, tmp_path / "image.tar")
    with pytest.raises(PreflightError) as refused:
        build_image(recipe, BuildOptions(cache, output), Progress(SilentListener()))
    said = "\n".join(refused.value.details)
    assert f"[{code}]" in said
    assert fix in said
