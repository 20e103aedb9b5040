"""Ten builds at the same time. Two of them: test_several_recipes_are_built_at_the_same_time in test_up_to_date.py."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
from support.builds import write_recipe

from warmstart.image.cache.layers import NEW, OLD, RECORD, LayerCache
from warmstart.image.layout import read_image

pytestmark = pytest.mark.node


@pytest.mark.slow
def test_ten_builds_of_three_recipes_share_the_cache(base_archive, cache, tmp_path):
    """Each image has the same layers as one built alone, and the cache contains only complete layers."""
    ways = {"runtime": ["runtime"], "self": ["self"], "both": ["runtime", "self"]}
    recipes = {
        name: write_recipe(tmp_path / f"{name}.yaml", base_archive, f"localhost/tests/{name}:1", restore=restore)
        for name, restore in ways.items()
    }
    command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build"]
    builds = []
    for number, name in zip(range(10), cycle(ways), strict=False):
        output = tmp_path / f"{name}-{number}"
        builds.append((name, output, subprocess.Popen([*command, recipes[name], "-o", f"oci:{output}"])))
    assert [build.wait(timeout=600) for _, _, build in builds] == [0] * 10
    counts = {(name, len(read_image(output).manifest.layers)) for name, output, _ in builds}
    assert len(counts) == len(ways)
    base = read_image(builds[0][1]).config.diff_ids[:-1]
    layers = LayerCache(Path(cache))
    with layers.hold(base) as stores:
        assert stores
        assert all((store / RECORD).exists() for store in stores)
    assert not [path for path in layers.directory.iterdir() if path.name.startswith((NEW, OLD))]
