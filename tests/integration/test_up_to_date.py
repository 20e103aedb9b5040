"""Skipped builds of images that are up to date, and builds of several recipes in one call."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.builds import STATE, write_recipe
from support.checkpoint_image import edit_annotations
from support.leaks import take_snapshot, wait_until_clean
from support.tars import extract

from warmstart.cli.interruption import TERMINATED
from warmstart.cli.main import INTERRUPTED
from warmstart.image.annotations import read_provenance
from warmstart.image.layout import read_image

pytestmark = pytest.mark.node

END_S = 60.0


def run(cache: Path, *words: str | Path) -> Any:
    """Run `warmstart build --json`, and return its document."""
    command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_build_is_skipped_until_something_changes(cache, base_archive, tmp_path):
    base, archive = tmp_path / "base", tmp_path / "app.tar"
    with tarfile.open(base_archive) as tar:
        extract(tar, base)
    recipe = write_recipe(tmp_path / "recipe.yaml", f"oci:{base}", "localhost/tests/app:1")
    command = (recipe, "-o", f"oci-archive:{archive}")
    built = run(cache, *command)
    assert built["status"] == "built"

    again = run(cache, *command)
    assert again == {"status": "up-to-date", **{key: built[key] for key in ("image", "digest", "destination")}}
    rebuilt = run(cache, *command, "--rebuild")
    assert rebuilt["status"] == "built"
    assert rebuilt["digest"] != built["digest"]

    # Each other change is one of tests/unit/build/test_existing.py.
    edit_annotations(base, lambda annotations: annotations.update(changed="yes"))
    assert run(cache, *command)["status"] == "built"
    assert run(cache, *command)["status"] == "up-to-date"


def test_several_recipes_are_built_at_the_same_time(cache, base_archive, tmp_path):
    recipes, layout, names = tmp_path / "recipes", tmp_path / "layout", ("one", "two")
    recipes.mkdir()
    for name in names:
        write_recipe(recipes / f"{name}.yaml", base_archive, f"localhost/tests/{name}:1")
    (recipes / "deployment.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n")
    command = (recipes, "-o", f"oci:{layout}", "--jobs", "2")
    builds = run(cache, *command)["builds"]
    assert [(one["recipe"], one["status"]) for one in builds] == [(f"{recipes}/{name}.yaml", "built") for name in names]
    images = [read_image(layout, f"localhost/tests/{name}:1") for name in names]
    assert [one["digest"] for one in builds] == [image.manifest.digest for image in images]
    identities = {read_provenance(image.manifest.annotations).identity for image in images}
    assert len(identities) == 2
    assert [one["status"] for one in run(cache, *command)["builds"]] == ["up-to-date", "up-to-date"]


def test_one_failure_does_not_stop_the_others(cache, base_archive, tmp_path):
    broken = {"command": ["/nothing/here"]}
    bad = write_recipe(tmp_path / "bad.yaml", base_archive, "localhost/tests/bad:1", broken)
    good = write_recipe(tmp_path / "good.yaml", base_archive, "localhost/tests/good:1")
    command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", bad, good]
    done = subprocess.run([*command, "-o", f"oci:{tmp_path}/out"], capture_output=True, text=True, check=False)
    assert done.returncode > 2
    assert f"error: {bad}: " in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["recipe", "result"], [str(bad), "failed"], [str(good), "built"]]
    assert read_image(tmp_path / "out", "localhost/tests/good:1")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        # Ends by an exception from the handler, as SIGTERM does; only the status is another one.
        pytest.param(signal.SIGINT, INTERRUPTED, marks=pytest.mark.slow),
        (signal.SIGTERM, TERMINATED),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_ends_all_builds_and_leaves_nothing(cache, base_archive, area, tmp_path, number, status):
    token = secrets.token_hex(4)
    place = area / token
    place.mkdir()
    # A warm-up that is still running when the signal arrives.
    endless = [{**STATE, "repeat": 1_000_000, "timeoutSeconds": 600}]
    recipes = [
        write_recipe(tmp_path / f"{name}.yaml", base_archive, f"localhost/tests/{name}:1", warmup=endless)
        for name in ("one", "two", "three")
    ]
    command = [sys.executable, "-m", "warmstart", "-v", "--cache-dir", cache, "build", *recipes, "--jobs", "2"]
    before = take_snapshot(token, place)
    with subprocess.Popen(
        [*command, "-o", f"oci:{place}/out"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WARMSTART_TMPDIR": str(place)},
    ) as builds:
        ready = {line.split()[1] for line in read_until_ready(builds, 2)}
        workspaces = [path.name for path in place.glob("warmstart-build-*")]
        builds.send_signal(number)
        builds.stderr.read()
    assert ready == {f"{recipe}:" for recipe in recipes[:2]}
    assert len(workspaces) == 2
    assert builds.returncode == status

    def look() -> frozenset[str]:
        cgroups = {trace for name in workspaces for trace in take_snapshot(name) if name in trace}
        return take_snapshot(token, place) | cgroups

    assert wait_until_clean(before, look, limit_s=END_S) == []


def read_until_ready(builds: subprocess.Popen[str], count: int) -> list[str]:
    """Read lines until this many builds are ready, and return them."""
    found: list[str] = []
    while len(found) < count and (line := builds.stderr.readline()):
        found += [line] if line.split()[2:3] == ["ready"] else []
    return found
