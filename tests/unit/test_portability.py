"""Commands that need no Linux run on other systems, and the others say that they need it. macOS is simulated."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoint_archive import tar_of
from support.checkpoint_image import ANNOTATIONS, PROVENANCE, checkpoint, make_warm_image

from warmstart.cli.main import COMMANDS
from warmstart.image.annotations import write_provenance
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.reference import EXAMPLE

TESTS = Path(__file__).parents[1]
PREAMBLE = "from support.other_system import simulate\nsimulate()\n"
RUN = f"{PREAMBLE}from warmstart.__main__ import main\nmain()"
IMPORT_ALL = f"""{PREAMBLE}
import importlib, pkgutil
import warmstart
for module in pkgutil.walk_packages(warmstart.__path__, "warmstart."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
HELP = f"""{PREAMBLE}
from warmstart.cli.main import COMMANDS, cli
for words in [[], *([command] for command in COMMANDS)]:
    cli.main([*words, "--help"], standalone_mode=False)
"""
MANIFEST = (
    "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a/b:c, ports: [{containerPort: 80}]}]}}"
)


def start(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{program}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run(*arguments: object) -> str:
    done = start(RUN, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported():
    done = start(IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_every_command_has_help():
    done = start(HELP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(COMMANDS) + 1


def test_an_archive_is_inspected(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint()))
    assert "checkpoint" in run("inspect", tmp_path / "a.tar")


def test_an_image_is_inspected_and_deployed(tmp_path):
    recipe = parse_recipe(EXAMPLE, "example").document
    image = make_warm_image(tmp_path, {**ANNOTATIONS, **write_provenance(replace(PROVENANCE, recipe=recipe))})
    assert "restore" in run("inspect", f"oci:{image}")
    assert "kind: Deployment" in run("deploy", f"oci:{image}")


def test_recipes_are_made(tmp_path):
    image = make_warm_image(tmp_path)
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    (tmp_path / "recipe.yaml").write_text(run("init", "--from", tmp_path / "manifest.yaml"))
    assert load_recipe(tmp_path / "recipe.yaml").container.image == "a/b:c"
    assert f"image: oci:{image}\n" in run("init", f"oci:{image}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "RECIPE", "--output", "oci-archive:OUT"],
        ["build", "RECIPE", "--rebuild", "--output", "oci-archive:OUT"],
        ["bench", "RECIPE"],
        ["verify", "oci:IMAGE"],
        ["node", "setup"],
        ["node", "update"],
        ["node", "run", "true"],
    ],
    ids=" ".join,
)
def test_commands_that_need_linux_say_so(tmp_path, arguments):
    (tmp_path / "recipe.yaml").write_text(EXAMPLE)
    make_warm_image(tmp_path)
    paths = {"RECIPE": "recipe.yaml", "OUT": "out.tar", "IMAGE": "image"}
    for word, name in paths.items():
        arguments = [argument.replace(word, f"{tmp_path}/{name}") for argument in arguments]
    done = start(RUN, "--cache-dir", tmp_path / "cache", *arguments)
    assert done.returncode == 4
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: cannot ")
    assert first.endswith(": this needs Linux, and this machine runs macOS")
    assert hint == "hint: run the command on a Linux machine"


def test_doctor_checks_for_linux(tmp_path):
    done = start(RUN, "--cache-dir", tmp_path / "cache", "doctor")
    assert done.returncode == 4
    assert "macOS" in done.stdout
