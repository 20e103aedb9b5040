"""The same checkpoint, edited and packed twice, makes the same layers."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard
from support.builds import STATE, build, write_recipe

from warmstart.build import pipeline
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.publish import parse_output
from warmstart.build.result import EditedDump, SelfCheckpoint
from warmstart.image.compose import Layer
from warmstart.image.layout import open_blob, read_image
from warmstart.image.manifest import Descriptor
from warmstart.image.packer import Packer
from warmstart.image.selfrestore.pack import MEMORY_OF_RUNTIME, pack_checkpoint
from warmstart.recipe.model import Restorer

pytestmark = pytest.mark.node


def copy_later(launched: Path, into: Path) -> Path:
    """Copy a directory of the launcher with owners and modes; its checkpoint is an hour younger."""
    subprocess.run(["cp", "-a", launched, into], check=True)
    for path in (into / "manifest", into / "checkpoint", *(into / "checkpoint").iterdir()):
        moment = path.lstat().st_mtime + 3600
        os.utime(path, (moment, moment), follow_symlinks=False)
    return into


def list_members(layout: Path, layer: Descriptor) -> list[tuple[object, ...]]:
    """List the members of a layer, to tell how one differs from another."""
    with open_blob(layout, layer) as blob:
        plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return [
            (
                one.name,
                one.mode,
                one.uid,
                one.gid,
                one.mtime,
                sha256(tar.extractfile(one).read() if one.isfile() else one.linkname.encode()).hexdigest(),
            )
            for one in tar
        ]


def test_a_checkpoint_makes_the_same_layers_again(base_archive, cache, tmp_path, monkeypatch):
    launched: list[tuple[Layer | None, Layer | None]] = []
    of_runtime: list[tuple[tuple[Descriptor, ...], tuple[Descriptor, ...]]] = []
    copies: dict[str, Path] = {}
    edit_launched, pack_launched = pipeline.edit_launched, pipeline.pack_launched
    read_archive, make_layout = pipeline.read_archive, pipeline.make_layout

    def edit_twice(context: BuildContext, packer: Packer, found: SelfCheckpoint) -> EditedDump:
        copies["launched"] = copy_later(found.directory, context.workspace / "again")
        dump = edit_launched(context, packer, found)
        with Packer() as other:
            again = edit_launched(context, other, replace(found, directory=copies["launched"]))
        assert dump.memory_layer
        assert again.memory_layer
        launched.append((dump.memory_layer.result(), again.memory_layer.result()))
        return dump

    def pack_twice(context: BuildContext, found, dump, layout: Path, programs) -> list[Layer]:
        layers = pack_launched(context, found, dump, layout, programs)
        again = pack_checkpoint(copies["launched"], layout, context.recipe.compression)
        assert list_members(layout, layers[-1].blob) == list_members(layout, again.blob)
        launched.append((layers[-1], again))
        return layers

    def read_and_copy(context: BuildContext, file: Path, completion=None):
        copies["archive"] = Path(shutil.copy(file, context.workspace / "again.tar"))
        return read_archive(context, file, completion)

    def make_twice(context: BuildContext, container, dumped, archive, dump, *rest):
        first = read_image(make_layout(context, container, dumped, archive, dump, *rest)).manifest.layers
        for name in ("checkpoint", "addition"):
            shutil.rmtree(context.workspace / name)
        second = context.workspace / "second"
        second.mkdir()
        archive = read_archive(context, copies["archive"], dumped.completion)
        with pipeline.open_container(context.session, second) as other, Packer() as packer:
            dump = pipeline.edit_dump(context, packer, dumped, archive, MEMORY_OF_RUNTIME)
            layout = make_layout(context, other, dumped, archive, dump, *rest)
        again = read_image(layout).manifest.layers
        assert list_members(layout, first[-1]) == list_members(layout, again[-1])
        of_runtime.append((first, again))
        return layout

    monkeypatch.setattr(pipeline, "edit_launched", edit_twice)
    monkeypatch.setattr(pipeline, "pack_launched", pack_twice)
    monkeypatch.setattr(pipeline, "read_archive", read_and_copy)
    monkeypatch.setattr(pipeline, "make_layout", make_twice)

    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base_archive,
        "localhost/tests/again:1",
        {"env": [{"name": "FILL_MB", "value": "8"}]},
        memory={"mapped": "all"},
        warmup=[STATE],
        restore=[str(restorer) for restorer in Restorer],
    )
    build(recipe, BuildOptions(cache, parse_output(f"oci:{tmp_path}/image")))
    # The memory and the rest of the launcher's dump, and all layers with the checkpoint for the runtime.
    assert [first == second for first, second in launched] == [True, True]
    [(first, second)] = of_runtime
    assert first == second
