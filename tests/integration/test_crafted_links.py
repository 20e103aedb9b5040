"""An image with links that would mount a directory of the host at the restore is refused before a runtime sees it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.builds import write_recipe
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import ANNOTATIONS, PROVENANCE, checkpoint, make_layout
from support.tars import extract

from warmstart.core.errors import ImageError
from warmstart.image.annotations import CREATED, write_provenance
from warmstart.image.compose import Run, add_layers, pack_layer
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

# CRI-O mounts /run/secrets and /run/.containerenv.
CRAFTED = tar_of(entry("run", type=tarfile.SYMTYPE, linkname="/x]:/host"))


def run(cache: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warmstart", "--cache-dir", cache, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_refused_at_the_build(base_archive: Path, cache: Path, tmp_path: Path) -> None:
    with tarfile.open(base_archive) as tar:
        extract(tar, tmp_path / "base")
    layer = pack_layer(io.BytesIO(CRAFTED), tmp_path / "crafted", "COPY run")
    how = Run(entrypoint=("/server",), cmd=("of-the-image",), user="")
    add_layers(tmp_path / "base", tmp_path / "crafted", [layer], how, {CREATED: "2026-01-01T00:00:00Z"}, {})
    image = {"image": f"oci:{tmp_path}/crafted"}
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, "localhost/tests/crafted:1", image)
    done = run(cache, "build", recipe, "-o", f"oci:{tmp_path}/out")
    assert done.returncode == ImageError.exit_code
    assert "leads through '/run -> /x]:/host': the name holds ]: or a control character" in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_is_refused_at_verify_and_inspect(base_archive: Path, cache: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", base_archive, "localhost/tests/crafted:1", {}))
    provenance = write_provenance(replace(PROVENANCE, recipe=recipe.document))
    members = checkpoint(**{"deleted.files": json.dumps([]).encode()})
    make_layout(tmp_path / "warm", CRAFTED, tar_of(*members), annotations={**ANNOTATIONS, **provenance})
    for command in ("verify", "inspect"):
        done = run(cache, command, f"oci:{tmp_path}/warm")
        assert done.returncode == ImageError.exit_code
        assert "the name holds ]: or a control character" in done.stderr
