"""The container settings of the recipe apply in the build and after a restore."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.builds import build, find_process, get, read_limit, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.progress import SilentListener
from warmstart.core.reference import Transport
from warmstart.engine.local import start_engine
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

MARK = "made-by-test-container-settings"
SETTINGS = {
    "args": ["--first", "second word"],
    "env": [{"name": "MARK", "value": MARK}, {"name": "WITH_NEWLINE", "value": "a\nb"}],
    "workingDir": "/data",
    "resources": {"limits": {"memory": "96Mi", "cpu": "500m"}, "requests": {"cpu": "250m"}},
    "securityContext": {
        "runAsUser": 1234,
        "runAsGroup": 2345,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    },
}


@dataclass(frozen=True)
class Seen:
    """Properties of a process and its cgroup, from /proc."""

    uids: str
    gids: str
    no_new_privileges: str
    capabilities: str
    words: list[str]
    environment: set[str]
    directory: str
    root_options: set[str]
    memory_bytes: str
    cpu_quota: str
    cpu_shares: str


def see(process: Path) -> Seen:
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
    return Seen(
        uids=status["Uid"],
        gids=status["Gid"],
        no_new_privileges=status["NoNewPrivs"],
        capabilities=status["CapBnd"].lstrip("0"),
        words=(process / "cmdline").read_text().rstrip("\0").split("\0"),
        environment=set((process / "environ").read_text().rstrip("\0").split("\0")),
        directory=str((process / "cwd").readlink()),
        root_options=next(set(mount[5].split(",")) for mount in mounts if mount[4] == "/"),
        memory_bytes=read_limit(process, "memory.limit_in_bytes", "memory.max"),
        cpu_quota=read_limit(process, "cpu.cfs_quota_us", "cpu.max").split()[0],
        cpu_shares=read_limit(process, "cpu.shares", "cpu.weight"),
    )


class Witness(SilentListener):
    """Inspects the container when its preflight begins."""

    seen: Seen | None = None

    def begin(self, step: str) -> None:
        if step == "preflight":
            self.seen = see(find_process("server", MARK))


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def recipe(base_archive, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "recipe.yaml"
    return write_recipe(path, base_archive, "localhost/tests/settings:1", SETTINGS)


@pytest.fixture(scope="module")
def layout(recipe, witness, cache) -> Path:
    output = Output(Transport.OCI, recipe.parent / "out")
    build(recipe, BuildOptions(cache, output), witness)
    return output.path


@pytest.fixture(scope="module")
def restored(recipe, layout, open_node) -> Seen:
    container, name = load_recipe(recipe).container, "localhost/tests/settings:1"
    with open_node() as session:
        shutil.move(layout, session.workspace / "layout")
        with start_engine(session, "other", subnet="10.77.0.0/24") as engine:
            engine.import_image(session.workspace / "layout", name)
            with engine.cri.start(container, name, "pod") as running:
                assert running.restored
                assert get(running, "/ready")[0] == 200
                return see(session.proc / str(running.pid))


@pytest.fixture(params=["built", "restored"])
def seen(request, layout, witness, restored) -> Seen:
    return witness.seen if request.param == "built" else restored


def test_it_runs_as_who_the_recipe_says(seen):
    assert seen.uids.split("\t") == ["1234"] * 4
    assert seen.gids.split("\t") == ["2345"] * 4
    assert seen.no_new_privileges == "1"
    # CAP_NET_BIND_SERVICE
    assert int(seen.capabilities, 16) == 1 << 10


def test_it_is_started_as_the_recipe_says(seen):
    assert seen.words == ["/server", "--first", "second word"]
    assert {f"MARK={MARK}", "WITH_NEWLINE=a\nb", "FROM_IMAGE=yes"} <= seen.environment
    assert seen.directory == "/data"


def test_it_has_the_limits_and_the_root_of_the_recipe(seen):
    assert seen.memory_bytes == str(96 << 20)
    assert seen.cpu_quota == "50000"
    # What runc makes of 256 shares for cgroup v2.
    assert seen.cpu_shares in ("256", "35")
    assert "ro" in seen.root_options
