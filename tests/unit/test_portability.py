"""Commands that need no Linux run on other systems, and the others say that they need it. macOS is simulated."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
# Runs command lines in turn, each in a child of its own, and prints their exit codes and error output: an interpreter
# takes longer to start and to import than all of them.
RUN_EACH = f"""{PREAMBLE}
import importlib, json, os, sys, tempfile
from warmstart.__main__ import main
from warmstart.cli.main import COMMANDS
ended = []
for words in json.loads(sys.argv[1]):
    importlib.import_module(COMMANDS[words[2]].path.partition(":")[0])
    with tempfile.TemporaryFile() as errors:
        if not (pid := os.fork()):
            os.dup2(errors.fileno(), 2)
            sys.argv[1:] = words
            main()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        errors.seek(0)
        ended.append([code, errors.read().decode()])
print(json.dumps(ended))
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


def test_commands_that_need_linux_say_so(tmp_path):
    (tmp_path / "recipe.yaml").write_text(EXAMPLE)
    image, recipe, out = make_warm_image(tmp_path), tmp_path / "recipe.yaml", f"oci-archive:{tmp_path}/out.tar"
    commands = [
        ["build", recipe, "--output", out],
        ["build", recipe, "--rebuild", "--output", out],
        ["bench", recipe],
        ["verify", f"oci:{image}"],
        ["node", "setup"],
        ["node", "update"],
        ["node", "run", "true"],
    ]
    words = [["--cache-dir", f"{tmp_path}/cache", *map(str, command)] for command in commands]
    done = start(RUN_EACH, json.dumps(words))
    assert done.returncode == 0, done.stderr
    for command, (code, errors) in zip(commands, json.loads(done.stdout), strict=True):
        assert code == 4, command
        first, hint = errors.splitlines()
        assert first.startswith("error: cannot "), command
        assert first.endswith(": this needs Linux, and this machine runs macOS")
        assert hint == "hint: run the command on a Linux machine"


def test_doctor_checks_for_linux(tmp_path):
    done = start(RUN, "--cache-dir", tmp_path / "cache", "doctor")
    assert done.returncode == 4
    assert "macOS" in done.stdout
