"""Images that are made of a base image and of layers on top, and taken apart again."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from warmstart.core.errors import ImageError
from warmstart.image.annotations import CREATED
from warmstart.image.compose import Run, add_layers, compose_image, pack_addition, pack_file, take_apart
from warmstart.image.layout import open_blob, read_image
from warmstart.recipe.model import Compression


def file_of(name: str, content: bytes, owner: tuple[int, int] = (0, 0)) -> tuple[tarfile.TarInfo, list[bytes]]:
    """The arguments of `pack_file` for a file, with its content in two pieces."""
    file = tarfile.TarInfo(name)
    file.size, file.mode = len(content), 0o400
    file.uid, file.gid = owner
    return file, [content[:5000], content[5000:]]


def tar_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def config_of(*layers: bytes, **more: object) -> dict:
    diff_ids = [f"sha256:{sha256(layer).hexdigest()}" for layer in layers]
    return {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **more}


@pytest.fixture
def base(layout):
    """The layout of an image with two layers, of which one is mentioned in its history."""
    layers = (tar_of("one"), tar_of("two"))
    config = config_of(*layers, history=[{"created_by": "somebody"}], config={"Entrypoint": ["/app"], "Env": ["A=b"]})
    layout.list(layout.image(*layers, config=config))
    return layout.path


@pytest.fixture
def composed(layout, base, tmp_path):
    """The layout of an image made of it, a file, and a checkpoint."""
    addition = type(layout)(tmp_path / "addition")
    checkpoint = tar_of("checkpoint")
    config = config_of(checkpoint, created="2025-01-01T00:00:00Z", config={"Labels": {"by": "tests"}})
    addition.list(addition.image(checkpoint, config=config, manifest={"annotations": {"key": "value"}}))
    memory = file_of(".warmstart/memory", bytes(100_000), (7, 8))
    target = tmp_path / "composed"
    compose_image(base, addition.path, target, [pack_file(*memory, target), *pack_addition(addition.path, target)])
    return target


def test_the_base_is_below_and_what_was_added_on_top(base, composed):
    image, below = read_image(composed), read_image(base)
    assert image.manifest.layers[:2] == below.manifest.layers
    assert image.manifest.annotations == {"key": "value"}
    assert image.config.labels == {"by": "tests"}
    assert image.config.entrypoint == ("/app",)
    names = []
    for layer in image.manifest.layers[2:]:
        with open_blob(composed, layer) as blob:
            plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            names += [(member.name, member.mode, member.uid, member.gid, member.size) for member in tar]
    assert (".warmstart/memory", 0o400, 7, 8, 100_000) in names
    assert names[-1][0] == "checkpoint"


def test_a_packed_file_is_a_tar_that_others_read(tmp_path):
    """The tar is written without tarfile, and read by GNU tar."""
    content = os.urandom(3 << 20) + b"end"
    layer = pack_file(*file_of("a/b/memory", content, (7, 1 << 22)), tmp_path)
    with open_blob(tmp_path, layer.blob) as blob:
        plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
    assert layer.diff_id == f"sha256:{sha256(plain).hexdigest()}"
    (tmp_path / "tar").write_bytes(plain)
    listed = subprocess.run(["tar", "--numeric-owner", "-tvf", tmp_path / "tar"], capture_output=True, text=True)
    assert listed.stderr == ""
    assert [(line.split()[1], line.split()[-1]) for line in listed.stdout.splitlines()] == [
        ("0/0", "a/"),
        ("0/0", "a/b/"),
        (f"7/{1 << 22}", "a/b/memory"),
    ]
    unpacked = subprocess.run(["tar", "-xOf", tmp_path / "tar", "a/b/memory"], capture_output=True)
    assert unpacked.stdout == content


def test_small_layers_are_smaller_and_of_the_same_content(tmp_path):
    content = b"".join(path.read_bytes() for path in Path(os.__file__).parent.glob("*.py"))
    fast, small = (
        pack_file(*file_of("memory", content), tmp_path, compression)
        for compression in (Compression.FAST, Compression.SMALL)
    )
    assert small.diff_id == fast.diff_id
    assert small.blob.size_bytes < 0.8 * fast.blob.size_bytes
    for layer in (fast, small):
        with open_blob(tmp_path, layer.blob) as blob:
            plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
        assert f"sha256:{sha256(plain).hexdigest()}" == layer.diff_id


def test_the_same_content_makes_the_same_layer_however_it_arrives(tmp_path):
    content = b"".join(path.read_bytes() for path in Path(os.__file__).parent.glob("*.py"))
    file, pieces = file_of("memory", content)
    small = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    assert pack_file(file, small, tmp_path / "small") == pack_file(file, pieces, tmp_path / "large")


def test_a_layer_that_fails_leaves_nothing_behind(tmp_path):
    def fail():
        yield b"begin"
        raise ImageError("of the content")

    file, _ = file_of("memory", bytes(100))
    with pytest.raises(ImageError, match="of the content"):
        pack_file(file, fail(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_taken_apart_it_is_the_base_image_again(base, composed, tmp_path):
    before = {path: path.read_bytes() for path in composed.rglob("*") if path.is_file()}
    again, below = take_apart(composed, tmp_path / "base"), read_image(base)
    assert again.manifest.layers == below.manifest.layers
    assert again.manifest.annotations == {}
    assert again.config.history == below.config.history
    assert (again.config.entrypoint, again.config.env) == (below.config.entrypoint, below.config.env)
    # Another image to a node, which names images by the digest of their config.
    assert again.manifest.config.digest != read_image(composed).manifest.config.digest
    for layer in again.manifest.layers:
        with open_blob(tmp_path / "base", layer) as blob:
            blob.read()
    assert {path: path.read_bytes() for path in composed.rglob("*") if path.is_file()} == before


def test_what_was_not_added_to_stays_as_it_is(base, tmp_path):
    assert take_apart(base, tmp_path / "again").manifest.layers == read_image(base).manifest.layers


def test_taken_apart_it_starts_without_its_launcher(base, tmp_path):
    own, layout = read_image(base).config.entrypoint, tmp_path / "launched"
    layers = [pack_file(*file_of("memory", b"memory"), layout)]
    add_layers(base, layout, layers, Run(("/launcher", "start", *own), (), ""), {CREATED: "2026-01-01T00:00:00Z"}, {})
    assert take_apart(layout, tmp_path / "again", ("/launcher", "start")).config.entrypoint == own
