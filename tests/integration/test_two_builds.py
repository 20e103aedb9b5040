"""Two builds at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.builds import write_recipe

from warmstart.image.annotations import read_provenance
from warmstart.image.layout import read_image

pytestmark = pytest.mark.node


def test_they_do_not_disturb_one_another(base_archive, cache, tmp_path):
    names = ["one", "two"]
    builds = {}
    for name in names:
        recipe = write_recipe(tmp_path / f"{name}.yaml", base_archive, f"localhost/tests/{name}:1")
        command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", recipe]
        builds[name] = subprocess.Popen(
            [*command, "-o", f"oci:{tmp_path}/{name}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    for name, build in builds.items():
        _, stderr = build.communicate(timeout=120)
        assert build.returncode == 0, f"{name}: {stderr}"
    identities = {read_provenance(read_image(tmp_path / name).manifest.annotations).identity for name in names}
    assert len(identities) == 2
