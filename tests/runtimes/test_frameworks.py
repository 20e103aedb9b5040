"""Java frameworks with hooks: what they close before the checkpoint, and their first answers after a real restore."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.builds import build

from warmstart.build.beside import Beside
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.publish import Output
from warmstart.build.services import open_companions
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport
from warmstart.core.workspace import open_workspace
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine, start_engine
from warmstart.node.keeper import Bind
from warmstart.node.session import enter
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(1200)]

TOP = Path(__file__).parents[2]
IMAGE = "localhost/tests/framework:1"
MAIN = "com.example.Application"
# A periodic task that catches up is far below, and one that a busy machine delays is not.
LEAST_PACE = 30
AWHILE_S = 3
RESTORED = re.compile(r"warmstart: restored in \d+ ms, hooks in \d+ ms")


@dataclass(frozen=True)
class Framework:
    """An application of images/frameworks.

    Attributes:
        name: its directory.
        command: its program, if it is not a main class.
        late: the variable with the database's password, if the hooks bind the pool to the pod's.
    """

    name: str
    command: tuple[str, ...] = ()
    late: str = ""

    def write(self, path: Path) -> Path:
        """Write its recipe: it refuses a checkpoint with an open connection."""
        command = self.command or ("java", "-cp", f"/app/{self.name}/*", MAIN)
        access = {"USERNAME": "app", "PASSWORD": "only-the-build-knows", "URL": "jdbc:postgresql://postgres/app"}
        env = {
            "JAVA_TOOL_OPTIONS": "-XX:+UseSerialGC -Xmx128m -XX:-UsePerfData",
            "DB_USER": access["USERNAME"],
            "SPRING_DATASOURCE_HIKARI_MAXIMUM_POOL_SIZE": "3",
            **{f"DB_{name}": access[name] for name in ("URL", "PASSWORD")},
            **{f"SPRING_DATASOURCE_{name}": value for name, value in access.items()},
        }
        postgres = {
            "image": f"oci-archive:{TOP}/build/images/postgres.tar",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"},
                {"name": "POSTGRES_PASSWORD", "value": access["PASSWORD"]},
            ],
            "readinessProbe": {
                "exec": {"command": ["pg_isready", "--host=127.0.0.1", "--username=app"]},
                "periodSeconds": 1,
                "failureThreshold": 120,
            },
        }
        document = {
            "apiVersion": "warmstart/v1alpha1",
            "name": self.name,
            "container": {
                "image": f"oci-archive:{TOP}/build/images/frameworks.tar",
                "command": command,
                "env": [{"name": name, "value": value} for name, value in env.items()],
                "readinessProbe": {
                    "httpGet": {"path": "/", "port": 8080},
                    "periodSeconds": 1,
                    "timeoutSeconds": 5,
                    "failureThreshold": 120,
                },
            },
            "build": {"services": [{"name": "postgres", "container": postgres}]},
            "warmup": [{"httpGet": {"path": "/", "port": 8080}, "repeat": 50}],
            "hooks": ["java"],
            "late": [self.late] if self.late else [],
            "tcp": "refuse",
            "restore": ["runtime", "self"],
            "image": {"name": IMAGE},
        }
        path.write_text(json.dumps(document))
        return path


FRAMEWORKS = [
    Framework("spring-boot-3", late="SPRING_DATASOURCE_PASSWORD"),
    Framework("spring-boot-4", late="SPRING_DATASOURCE_PASSWORD"),
    Framework("micronaut-plain"),
    Framework("micronaut-crac"),
    Framework("quarkus", ("java", "-jar", "/app/quarkus/quarkus-run.jar")),
    Framework("netty"),
    Framework("tomcat"),
]


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_a_framework_is_restored_with_hooks(framework, cache, tree, tmp_path):
    path = framework.write(tmp_path / "recipe.json")
    output = Output(Transport.OCI, tmp_path / "out")
    built, steps = build(path, BuildOptions(cache, output))
    assert not [warning for warning in steps.warnings if "tcp-established" in warning]
    print(framework.name, [f"{one.runtime}: {one.before_s * 1000:.0f} ms before" for one in built.hooks])
    recipe, number = load_recipe(path), 60 + FRAMEWORKS.index(framework)
    images = {one.container.image.removeprefix("oci-archive:") for one in recipe.companions}
    binds = [Bind(str(tmp_path)), *map(Bind, sorted(images))]
    with open_workspace("frameworks") as workspace, enter(tree, workspace, binds=binds) as session:
        context = BuildContext(recipe, BuildOptions(cache, output), Progress(SilentListener()), session)
        began = time.time()
        with open_companions(context) as companions, companions.run() as beside:
            for itself in (False, True):
                name, subnet = ("self", f"10.78.{number}.0/25") if itself else ("runtime", f"10.78.{number}.128/25")
                container = replace(recipe.container, command=(), args=()) if itself else recipe.container
                with start_engine(session, name, subnet=subnet, restore=not itself) as engine:
                    engine.import_image(output.path, IMAGE)
                    with beside.start(engine, container, IMAGE, "pod") as running:
                        check_restored(running, began, itself=itself)
                    if itself and framework.late:
                        check_rotated(framework, engine, container, beside, began)


def check_rotated(
    framework: Framework, engine: LocalEngine, container: Container, beside: Beside, began: float
) -> None:
    """Change the database's password, and check that a container that is started with it is restored and uses it."""
    statement = "ALTER USER app PASSWORD 'rotated'"
    command = ["psql", "--username=app", "--dbname=app", "--command", statement]
    result = beside.services[0].running.exec(command, 30)
    assert result.exit_code == 0, result
    rotated = replace(container, env=tuple({**dict(container.env), framework.late: "rotated"}.items()))
    with beside.start(engine, rotated, IMAGE, "restarted") as running:
        check_restored(running, began, itself=True)


def check_restored(running: CriContainer, began: float, *, itself: bool) -> None:
    """Check the first answer, and that the periodic task has its pace then and later."""
    begin = time.monotonic()
    first = ask_when_it_listens(running)
    took = time.monotonic() - begin
    log = "\n".join(running.log_tail(50))
    restored = RESTORED.search(log)
    assert bool(restored) == itself, log
    assert running.restored != itself
    assert first["database"] >= began - 1, "it asked the database of the build"
    time.sleep(AWHILE_S)
    later = ask(running)
    assert min(first["pace"], later["pace"]) > LEAST_PACE, "its periodic task catches up"
    print(f"first answer after {took * 1000:.0f} ms, {restored[0] if restored else 'by the runtime'}, {later}")


def ask(running: CriContainer) -> dict[str, float]:
    """Return the application's answer."""
    client = HTTPConnection("test")
    with running.connect(8080, None, 1) as client.sock:
        client.sock.settimeout(10)
        client.request("GET", "/", headers={"Connection": "close"})
        response = client.getresponse()
        body = response.read()
    assert response.status == 200, running.log_tail(20)
    answer: dict[str, float] = json.loads(body)
    return answer


def ask_when_it_listens(running: CriContainer) -> dict[str, float]:
    """Return the answer to the first request that the container accepts."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError):
            running.connect(8080, None, 1).close()
            break
        time.sleep(0.005)
    return ask(running)
