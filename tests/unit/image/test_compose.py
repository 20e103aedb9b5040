"""Images that are made of a base image and of layers on top, and taken apart again."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256

import pytest
import zstandard
from support.checkpoint_image import pack_tar

from warmstart.image.compose import CHECKPOINT, compose_image, pack_file, take_apart
from warmstart.image.layout import open_blob, read_image


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
    unused = tar_of("unused")
    config = config_of(unused, created="2025-01-01T00:00:00Z", config={"Labels": {"by": "tests"}})
    addition.list(addition.image(unused, config=config, manifest={"annotations": {"key": "value"}}))
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(100_000))
    memory.chmod(0o400)
    target = tmp_path / "composed"
    layers = [
        pack_file(memory, ".warmstart/memory", target, (7, 8)),
        pack_tar(tar_of("checkpoint"), target, CHECKPOINT),
    ]
    compose_image(base, addition.path, target, layers)
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
            plain = zstandard.ZstdDecompressor().stream_reader(blob).readall()
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            names += [(member.name, member.mode, member.uid, member.gid, member.size) for member in tar]
    assert (".warmstart/memory", 0o400, 7, 8, 100_000) in names
    assert names[-1][0] == "checkpoint"


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
