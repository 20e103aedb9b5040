"""The hooks of an application, before its checkpoint and after restores by the runtime and by the image itself.

The application speaks the protocol itself: the agents of the runtimes have tests of their own.
"""

from __future__ import annotations

import json
import re
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.builds import build, get
from support.engines import BuiltImage

from warmstart.build.context import BuildOptions
from warmstart.build.launcher_report import read_launcher_times
from warmstart.build.publish import Output
from warmstart.build.result import BuildResult
from warmstart.core.errors import AppError
from warmstart.core.reference import Source, Transport
from warmstart.engine.cri import CriContainer
from warmstart.engine.local import LocalEngine
from warmstart.image.open import open_image
from warmstart.image.selfrestore.pack import COLD_START
from warmstart.probe.readiness import first_probe, wait_first_success
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Container

TOP = Path(__file__).parents[2]
IMAGE = "localhost/tests/hooked:1"
PROGRAM = (TOP / "tests/programs/hooked.py").read_text()
ENV = {"PYTHONPATH": "/opt", "WARMSTART_HOOKS_LIMIT": "1", "FAIL": ""}
SUBNETS = {True: "10.78.8.0/24", False: "10.78.9.0/24"}

pytestmark = pytest.mark.node


def write(directory: Path, **env: str) -> Path:
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "hooked",
        "container": {
            "image": f"oci-archive:{TOP}/build/images/python.tar",
            # Without the agent for Python: only one of a process can answer.
            "command": ["python3", "-S", "-c", PROGRAM.replace("$", "$$")],
            "env": [{"name": name, "value": value} for name, value in {**ENV, **env}.items()],
            "securityContext": {
                "runAsNonRoot": True,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
        },
        "hooks": "auto",
        "late": ["FAIL"],
        "restore": ["runtime", "self"],
        "image": {"name": IMAGE},
    }
    (directory / "recipe.yaml").write_text(json.dumps(document))
    return directory / "recipe.yaml"


def make(cache: Path, directory: Path, **env: str) -> BuildResult:
    return build(write(directory, **env), BuildOptions(cache, Output(Transport.OCI, directory / "out")))[0]


def ask(running: CriContainer, container: Container) -> dict[str, Any]:
    wait_first_success(running, first_probe(container), limit_s=60)
    found: dict[str, Any] = json.loads(get(running, "/")[1])
    return found


def start(engine: LocalEngine, container: Container, **env: str) -> Any:
    changed = replace(container, env=tuple({**dict(container.env), **env}.items()))
    return engine.cri.start(changed, IMAGE, "pod")


@pytest.mark.parametrize("fail", ["", "asks"])
def test_hooks_are_called_at_the_checkpoint_and_after_each_restore(tree, cache, open_node, tmp_path, fail):
    built = make(cache, tmp_path, FAIL=fail)
    assert [(one.runtime, one.asked) for one in built.hooks] == [("test 1", bool(fail))]
    assert [restore.hooks_ms is not None for restore in built.restores] == [False, False, True, True]
    assert list_hooks(tmp_path / "out") >= {"reply", "python/sitecustomize.py"}
    assert list_hooks(tmp_path / "out").isdisjoint({"checkpoint", "restored", "agent.jar"})
    if fail:
        return
    container = load_recipe(tmp_path / "recipe.yaml").container
    itself = replace(container, command=(), args=())
    image = BuiltImage(cache, tmp_path / "out", IMAGE)
    with open_node(*image.binds) as session:
        with image.open_engine(session, SUBNETS[True], restore=True) as engine, start(engine, container) as running:
            assert ask(running, container)["said"] == ["beforeCheckpoint", "afterRestore"]
            assert running.restored
        with image.open_engine(session, SUBNETS[False], restore=False) as engine:
            check_restores_by_itself(engine, itself)


def check_restores_by_itself(engine: LocalEngine, container: Container) -> None:
    with start(engine, container) as running:
        found = ask(running, container)
        assert found["said"] == ["beforeCheckpoint", "afterRestore"]
        assert found["env"]["PYTHONPATH"] == "/.warmstart/hooks/python:/opt"
        assert read_launcher_times(running).hooks_ms is not None
    with start(engine, container, WARMSTART="off") as running:
        found = ask(running, container)
        assert (found["said"], found["env"]["PYTHONPATH"]) == ([], "/.warmstart/hooks/python:/opt")
    # Never ready and broken: the application starts cold.
    for fail, reason in (
        (
            "afterRestore fails",
            r'after-restore hook of process \d+ failed: com.example.Refused: "no" \\xc3\\xbc\\x0a',
        ),
        ("afterRestore ends", "the restored application exited with status 70 right after the restore"),
        ("afterRestore hangs", r"the after-restore hooks of process \d+ did not end within 6 s"),
    ):
        with start(engine, container, FAIL=fail) as running:
            assert ask(running, container)["said"] == []
            lines = running.log_tail(20)
            assert any((found := COLD_START.match(line)) and re.fullmatch(reason, found[1]) for line in lines), lines


def list_hooks(layout: Path) -> set[str]:
    """List the files of the hooks in an image."""
    found: set[str] = set()
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers:
            with opened.open_layer(layer) as content, closing(tarfile.open(fileobj=content, mode="r|")) as tar:
                found |= {name.partition("hooks/")[2] for name in tar.getnames() if ".warmstart/hooks/" in name}
    return found


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("beforeCheckpoint fails", r'process \d+ \(test 1\) failed: com\.example\.Refused: "no" ü\\n$'),
        ("beforeCheckpoint hangs", r"the beforeCheckpoint hooks of process \d+ \(test 1\) did not end within 1 s"),
        (
            "beforeCheckpoint ends",
            "the application ended during its beforeCheckpoint hooks|the container exited during",
        ),
    ],
)
def test_a_hook_before_the_checkpoint_that_fails_ends_the_build(tree, cache, tmp_path, fail, message):
    with pytest.raises(AppError, match=message):
        make(cache, tmp_path, FAIL=fail)
    assert not (tmp_path / "out").exists()
