"""Builds of an application that attacks the launcher's privileges or a file of this machine."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.builds import build, write_recipe
from support.hostile import SECRET, Victim, make_hostile_archive, make_victim, read_layers

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.errors import VerifyError, WarmstartError
from warmstart.core.reference import Transport

pytestmark = pytest.mark.node

IMAGE = "localhost/tests/hostile:1"
PROBE = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 20}
ROOT: dict[str, object] = {}
USER = {"runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
STRANGER = r"(process|processes|daemon|stranger|not below)"


@pytest.fixture(scope="module")
def hostile_archive(open_node, make_once) -> Path:
    """Return the OCI archive of an image with the program."""

    def make(path: Path) -> None:
        with open_node() as session:
            make_hostile_archive(session, path)

    return make_once("hostile.tar", make)


@pytest.fixture
def victim(tmp_path) -> Victim:
    return make_victim(tmp_path / "victims")


@pytest.fixture
def make(hostile_archive, cache, tmp_path, victim) -> Callable[..., dict[str, bytes]]:
    """Build an image of the program in one of its modes, and return the layers created by the build."""

    def make_one(mode: str, context: dict[str, object], *restore: str, **more: object) -> dict[str, bytes]:
        container = {
            "args": [mode],
            "env": [{"name": "VICTIM", "value": str(victim.file)}],
            "readinessProbe": PROBE,
            "securityContext": context,
        }
        recipe = write_recipe(
            tmp_path / "recipe.yaml", hostile_archive, IMAGE, container, restore=list(restore or ["self"]), **more
        )
        build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "out")))
        return read_layers(tmp_path / "out")

    return make_one


def make_until_dumped_well(
    make: Callable[..., dict[str, bytes]], *arguments: object, **more: object
) -> dict[str, bytes]:
    """Build again if the dump caught an open file of a process that has ended.

    The program reads /proc all the time, and no restore can open such a file.
    """
    for _ in range(5):
        try:
            return make(*arguments, **more)
        except VerifyError as error:
            if "Can't open file proc/" not in str(error):
                raise
    raise AssertionError("each dump caught a file in /proc")


def list_names(tar: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        return set(members.getnames())


def assert_secret(layers: dict[str, bytes], victim: Victim) -> None:
    victim.assert_unchanged()
    assert layers
    assert [name for name, tar in layers.items() if SECRET in tar] == []


@pytest.mark.parametrize("context", [ROOT, USER], ids=["root", "user"])
def test_the_launcher_is_out_of_reach(make, victim, context):
    idle = {"exec": {"command": ["/hostile", "idle"]}}
    layers = make_until_dumped_well(make, "reach", context, warmup=[{**idle, "repeat": 3}], beforeCheckpoint=[idle])
    assert_secret(layers, victim)
    changed = list_names(layers["warmstart build: changed files"])
    assert not {"breach", "tmp/breach"} & changed
    assert not [name for name in changed if name.startswith(".warmstart")]
    checkpoint = list_names(layers["warmstart build: .warmstart"])
    assert ".warmstart/checkpoint/files.img" in checkpoint
    assert not [name for name in checkpoint if re.search(r"evil|breach|\.new$", name)]
    if context is ROOT:
        assert "usr/lib/criu/plugin.so" in changed


@pytest.mark.parametrize("context", [ROOT, USER], ids=["root", "user"])
def test_what_is_swapped_for_links_leads_nowhere(make, victim, context):
    # Once: test_no_race_is_ever_won repeats it.
    layers = make("swap", context)
    assert_secret(layers, victim)
    assert any(name.startswith("data/") for name in list_names(layers["warmstart build: changed files"]))


def test_a_daemon_is_stopped_with_the_others(make, victim):
    assert_secret(make("daemon", USER), victim)


def test_what_a_command_left_behind_is_refused(make, victim):
    with pytest.raises(WarmstartError) as caught:
        make("", USER, beforeCheckpoint=[{"exec": {"command": ["/hostile", "leave"]}}])
    assert re.search(STRANGER, "\n".join([caught.value.brief, *caught.value.details]))
    victim.assert_unchanged()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["swap", "daemon"])
def test_no_race_is_ever_won(make, victim, mode):
    for _ in range(10):
        if mode == "swap":
            assert_secret(make(mode, ROOT), victim)
            continue
        with pytest.raises(WarmstartError):
            make(mode, ROOT)
        victim.assert_unchanged()
