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

    `statuses` are the exit statuses after SIGTERM of a restored and a cold one, where they differ. `command` is one of
    the entrypoints in `image`, which start as root, and `port` that of their server. `path` is for a probe by HTTP.
    """

    source: str
    overrides: tuple[str, ...] = ()
    statuses: tuple[int, int] | None = None
    command: tuple[str, ...] = ()
    port: int = 8080
    user: int = 0
    image: str = ""
    path: str = ""

    def load(self) -> Recipe:
        """Its recipe, for an image that restores itself."""
        if self.source.endswith(".yaml"):
            return load_recipe(TOP / self.source, overrides=["restore=[self]", *self.overrides])
        action = (
            {"httpGet": {"path": self.path, "port": self.port}} if self.path else {"tcpSocket": {"port": self.port}}
        )
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": self.source,
            "container": {
                "image": f"oci-archive:{TOP}/build/images/{self.image or self.source}.tar",
                "readinessProbe": {**action, "periodSeconds": 1, "failureThreshold": 60},
                "securityContext": {"runAsUser": self.user} if self.command else RESTRICTED,
                **({"command": self.command} if self.command else {}),
            },
            "restore": ["runtime", "self"] if self.command else ["self"],
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
    "spring-boot-on-26": Application(
        "examples/java-app/recipe.yaml", (f"container.image=oci-archive:{TOP}/build/images/java-app-26.tar",)
    ),
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
# With the entrypoints of their official images.
POSTGRES = "postgres-entrypoint postgres -c listen_addresses=* -c dynamic_shared_memory_type=mmap"
PHP = "php-fpm8.4 -d opcache.jit=disable -d opcache.jit_buffer_size=0 -y /etc/php/fpm.conf"
UWSGI = "uwsgi --http-socket :8080 --plugin python3 --wsgi-file /app/wsgi.py --master --processes 2 --uid www-data"
INITS = "tini -- dumb-init setpriv --reuid=1000 --regid=1000 --clear-groups python3 -m http.server 8080"
ENTRYPOINTS = {
    "postgres": (POSTGRES.split(), 5432, 0),
    "redis": (["redis-entrypoint", "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"], 6379, 0),
    "nginx": (["nginx-entrypoint", "nginx", "-g", "daemon off;"], 80, 0),
    "php-fpm": (PHP.split(), 9000, 0),
    "puma": (["puma", "-p", "9292", "-t", "2:2", "/app/config.ru"], 9292, 0),
    "mariadb": (["mariadb-entrypoint", "mariadbd", "--datadir=/var/lib/data/mysql", "--bind-address=0.0.0.0"], 3306, 0),
    "apache": (["apache-foreground", "-c", "StartServers 1"], 80, 0),
    "haproxy": (["haproxy", "-W", "-db", "-f", "/etc/haproxy.cfg"], 80, 1000),
    "memcached": (["memcached"], 11211, 1000),
    "uwsgi": (UWSGI.split(), 8080, 0),
    "supervisord": (["supervisord", "-c", "/etc/supervisor/both.conf"], 8080, 0),
    "inits": (INITS.split(), 8080, 0),
    "file-capabilities": (["python-caps", "-m", "http.server", "80"], 80, 1000),
}
# What is warned of, and does not keep them from running.
KNOWN = ("[sysv-shm-self]", "[lost-socket-option]", "[lost-lock]")
SERVERS = {
    "tomcat": (["/usr/share/tomcat10/bin/catalina.sh", "run"], 8080, 0),
    "sidekiq": (["sidekiq-entrypoint", "sidekiq", "-r", "/app/jobs.rb"], 8080, 0),
}
# It listens seconds before it accepts connections.
PATHS = {"tomcat": "/"}
# Ruby ends by the signal, too, and with 1 if that does nothing.
STATUSES = {"puma": (128 + SIGTERM, 1)}
APPLICATIONS |= {
    f"{name}-entrypoint": Application(
        f"{name}-entrypoint", (), STATUSES.get(name), tuple(command), port, user, image, PATHS.get(name, "")
    )
    for image, entrypoints in (("entrypoints", ENTRYPOINTS), ("servers", SERVERS))
    for name, (command, port, user) in entrypoints.items()
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
        wait_for_line(started, r"warmstart: restored in \d+ ms(, hooks in \d+ ms)?")
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
    assert [warning for warning in steps.warnings if not warning.endswith(KNOWN)] == []
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
BARE = ("warmup=[]", "beforeCheckpoint=[]", "container.readinessProbe={tcpSocket: {port: 8080}}")


@pytest.mark.parametrize(
    ("recipe", "overrides", "code", "fix"),
    [
        ("python", (f"container.command={['python3', '-c', OLD_THREAD]}", *BARE), "thread-before-process", "npm"),
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
