"""A build with real services: ready before the application, new ones for the verification, none left at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import evaluator
from support.evaluator import IMAGES, make_recipe, path_of
from support.leaks import take_snapshot, wait_until_clean
from support.strike import Striker

from warmstart.bench.result import Load
from warmstart.bench.run import bench_recipe
from warmstart.build import services
from warmstart.build.beside import ServiceError
from warmstart.build.context import BuildOptions
from warmstart.build.existing import find_existing
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.build.result import BuildResult
from warmstart.build.verify_source import verify_source
from warmstart.core import workspace
from warmstart.core.errors import AppError, EngineError, ImageError, RecipeError
from warmstart.core.privileges import parse_privilege
from warmstart.core.progress import Progress, ProgressListener, SilentListener
from warmstart.core.reference import Source, Transport
from warmstart.image.registry.credentials import DEFAULT_ACCESS
from warmstart.inspect.trust import trust
from warmstart.recipe.model import Recipe, Restorer

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(not (IMAGES / "postgres.tar").exists(), reason="make images"),
]

NAME = "localhost/tests/services:1"
# It does not start without Redis, keeps a connection to it, and connects again when that is closed.
BEGIN = """
def ask_redis(*words):
    for attempt in range(2):
        try:
            db.sendall((' '.join(words) + '\\r\\n').encode())
            if answer := db.recv(1000):
                return answer.decode().strip()
        except OSError:
            pass
        connect('redis.shop.svc')
    raise OSError('no answer')

def connect(host):
    global db
    db = socket.create_connection((host, 6379), 5)
    if 'REDIS_PASSWORD' in os.environ:
        db.sendall(f'AUTH {os.environ["REDIS_PASSWORD"]}\\r\\n'.encode())
        assert db.recv(1000) == b'+OK\\r\\n'

connect('redis')
assert ask_redis('SET', 'made-by', 'build') == '+OK'
"""
REDIS = {"name": "redis", "aliases": ["redis.shop.svc.cluster.local"], "container": evaluator.REDIS}
PASSWORD = {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
POSTGRES = {
    "name": "postgres",
    "container": {
        "image": f"oci-archive:{IMAGES / 'postgres.tar'}",
        "env": [PASSWORD],
        "ports": [{"containerPort": 5432}],
        # It answers while the database is being made, on a UNIX socket alone.
        "readinessProbe": {"exec": {"command": ["pg_isready"]}, "periodSeconds": 1, "failureThreshold": 60},
    },
}

# Ready as long as Redis answers.
PROBE = {
    "httpGet": {"port": 8080, "path": path_of("ask_redis('PING')")},
    "timeoutSeconds": 5,
    "periodSeconds": 1,
    "failureThreshold": 30,
}


def run_client(name: str, script: str, **more: object) -> dict[str, object]:
    """Return an init container that runs a script with the clients of PostgreSQL."""
    env = [{**PASSWORD, "name": "PGPASSWORD"}, {"name": "PGHOST", "value": "postgres"}]
    return {
        "name": name,
        "image": POSTGRES["container"]["image"],
        "env": [*env, {"name": "PGUSER", "value": "postgres"}],
        "command": ["sh", "-ec", script],
        **more,
    }


def make(*used: dict[str, object], begin: str = BEGIN, **more: object) -> Recipe:
    block = {"secrets": {"db": {"password": None}}, "services": [*used], **more.pop("build", {})}
    return make_recipe(NAME, begin=begin, build=block, **more)


class Space:
    """The directory of a build's temporary files, and everything else that it could leave."""

    def __init__(self, directory: Path, token: str) -> None:
        self._directory = directory
        self._token = token
        self._before = self._look()

    def _look(self) -> frozenset[str]:
        return take_snapshot(self._token, self._directory)

    def find_leaks(self) -> list[str]:
        return wait_until_clean(self._before, self._look, limit_s=60)


@pytest.fixture
def space(area, monkeypatch) -> Space:
    token, directory = secrets.token_hex(4), area / secrets.token_hex(4)
    (directory / "tmp").mkdir(parents=True)
    monkeypatch.setenv("WARMSTART_TMPDIR", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory / "tmp"))
    monkeypatch.setattr(workspace, "PREFIX", f"warmstart-{token}-")
    return Space(directory, token)


@pytest.fixture
def build(cache, tmp_path, space) -> Callable[..., BuildResult]:
    def run(recipe: Recipe, listener: ProgressListener | None = None) -> BuildResult:
        output = Output(Transport.OCI, tmp_path / "out")
        return build_image(recipe, BuildOptions(cache, output), Progress(listener or SilentListener()))

    return run


def test_an_image_copes_with_other_services_than_those_of_its_build(build, cache, tmp_path, space):
    dumped = {"name": "dumped", "mountPath": "/dumped"}
    # The restored application keeps the password of the build's Redis.
    password = {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    locked = {
        "args": ["redis-server", "--requirepass", "$(REDISCLI_AUTH)"],
        "env": [{"name": "REDISCLI_AUTH", **password}],
    }
    recipe = make(
        POSTGRES,
        {**REDIS, "container": {**REDIS["container"], **locked}},
        begin=BEGIN + 'assert "CREATE DATABASE shop" in open("/dumped/all").read()\n',
        build={
            "init": [{"container": "migrate"}, {"container": "dump"}],
            "secrets": {"db": {"password": None}, "redis": {"password": "only-the-build-knows"}},
        },
        container={
            "env": [{"name": "REDIS_PASSWORD", **password}],
            "volumeMounts": [dumped],
            "readinessProbe": PROBE,
        },
        volumes=[{"name": "dumped", "emptyDir": {}}],
        initContainers=[
            run_client("migrate", "createdb shop"),
            run_client("wait", "exit 1"),
            run_client("dump", "pg_dumpall >/dumped/all", volumeMounts=[dumped]),
        ],
        warmup=[{"httpGet": {"port": 8080, "path": path_of("ask_redis('GET', 'made-by')")}}],
        restore=["runtime"],
    )
    assert recipe.close_tcp
    built = build(recipe)
    assert [restore.restorer for restore in built.restores] == [Restorer.RUNTIME] * 2
    assert space.find_leaks() == []
    # The images of services are part of its key.
    assert find_existing(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out"))) is not None
    # Again, with nothing but the image and the password.
    source = Source(Transport.OCI, path=tmp_path / "out")
    allowed = [parse_privilege(f"image={one['container']['image']}") for one in (POSTGRES, REDIS)]
    verify = partial(verify_source, source, cache, DEFAULT_ACCESS, Progress(SilentListener()), decide=trust(allowed))
    with pytest.raises(RecipeError, match=r"needs the build's value of redis\.password"):
        verify()
    (tmp_path / "password").write_text("only-the-build-knows")
    assert len(verify(secrets=[f"redis.password={tmp_path / 'password'}"])) == 2


def test_an_image_that_restores_itself_copes_too(build, space):
    recipe = make(
        REDIS,
        container={"readinessProbe": PROBE},
        restore=["self", "runtime"],
    )
    built = build(recipe)
    assert [restore.restorer for restore in built.restores] == [Restorer.SELF] * 2 + [Restorer.RUNTIME] * 2
    assert space.find_leaks() == []


def test_measured_containers_have_services(cache, space):
    recipe = make(REDIS, container={"readinessProbe": PROBE}, restore=["runtime"], memory={"mapped": "none"})
    bench = bench_recipe(recipe, BuildOptions(cache), Load(rounds=1, replicas=2), Progress(SilentListener()))
    assert all(len(series.starts) == 1 and series.failures == () for series in bench.series)
    assert [series.way.name for series in bench.series] == ["cold", "plain"]
    assert any(note.startswith("no memory is mapped: ") for note in bench.notes)
    assert bench.warmed == ()
    assert space.find_leaks() == []


# Errors

NO_PASSWORD = {**POSTGRES, "container": {**POSTGRES["container"], "env": []}}
DEAF = {**REDIS, "container": {**REDIS["container"], "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}}}
MISSING = {**REDIS, "container": {**REDIS["container"], "image": "oci-archive:/nowhere/redis.tar"}}
NOT_STARTED = {**REDIS, "container": {**REDIS["container"], "command": ["/nowhere"]}}


@pytest.mark.parametrize(
    ("recipe", "kind", "brief", "detail"),
    [
        (make(NO_PASSWORD), ServiceError, "the service postgres did not start: the container exited", "is not set"),
        (make(DEAF), ServiceError, "the service redis did not start: the container was not ready", "Ready to accept"),
        (make(MISSING), ImageError, "cannot fetch the image of redis: ", ""),
        (make(NOT_STARTED), EngineError, "the service redis did not start: could not", ""),
        (
            make(
                REDIS,
                warmup=[{"httpGet": {"port": 8080, "path": path_of("ask_redis('SHUTDOWN NOSAVE')")}}],
            ),
            ServiceError,
            "the service redis has ended",
            "bye bye",
        ),
        (
            make(REDIS, begin=BEGIN + "db.sendall(b'SHUTDOWN NOSAVE\\r\\n'); __import__('time').sleep(600)"),
            ServiceError,
            "the service redis has ended",
            "bye bye",
        ),
        (
            make(
                POSTGRES,
                REDIS,
                build={"init": [{"container": "migrate"}]},
                initContainers=[run_client("migrate", "dropdb nothing")],
            ),
            ServiceError,
            "the init container migrate failed with exit code",
            'database "nothing" does not exist',
        ),
        # Without the service, the application says itself what it lacks.
        (make(POSTGRES), AppError, "the container exited", "gaierror"),
    ],
    ids=["exits", "deaf", "missing", "no program", "dies in warm-up", "dies at start", "init fails", "unknown"],
)
def test_a_failure_is_clear_and_leaves_nothing(build, space, monkeypatch, recipe, kind, brief, detail):
    monkeypatch.setattr(services, "READY_S", 6.0)
    with pytest.raises(kind) as caught:
        build(recipe)
    assert caught.value.brief.startswith(brief)
    assert detail in "\n".join(caught.value.details)
    assert space.find_leaks() == []


class InjectedError(Exception):
    """An error unknown to the build."""


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("pull redis", KeyboardInterrupt()),
        ("services", InjectedError()),
        ("warm up", KeyboardInterrupt()),
        ("verify", InjectedError()),
    ],
)
def test_an_interruption_leaves_no_service(build, space, step, error):
    def strike() -> None:
        raise error

    with pytest.raises(type(error)):
        build(make(REDIS, restore=["runtime"]), Striker(step, strike))
    assert space.find_leaks() == []
