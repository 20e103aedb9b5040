"""Secrets in images and archives of anybody: their places in processes, in archives as CRI-O and Podman write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from support.checkpoint_archive import SPEC, tar_of, text
from support.checkpoint_image import CHECKPOINT_NAME, checkpoint, make_layout, make_warm_image, real_dump
from support.planted import make_jwt, make_token

from warmstart.core.errors import ImageError, InputError
from warmstart.dump.criu.contents import read_mappings, read_pagemap
from warmstart.inspect.secrets import VARIABLE, search_target
from warmstart.recipe.model import Secret

TOKEN = make_token()
PLAIN: Callable[[bytes], bytes] = bytes


def put(pages: bytes, offset: int, value: str = TOKEN) -> bytes:
    return pages[:offset] + value.encode() + pages[offset + len(value) :]


@pytest.fixture
def dump(tmp_path) -> Path:
    """Return the directory of the dump in the archives."""
    directory = tmp_path / "dump"
    directory.mkdir()
    for name, content in real_dump().items():
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("pack", [PLAIN, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_a_secret_in_memory_of_an_archive_has_process_mapping_and_address(tmp_path, dump, pack):
    images = dict(real_dump())
    pagemap = read_pagemap(dump, 16)
    stack = next(one for one in read_mappings(dump, 16) if one.flags & 0x100)
    run = next(one for one in pagemap.runs if stack.start <= one.start < stack.end and one.offset is not None)
    images[pagemap.pages_file.name] = put(images[pagemap.pages_file.name], run.offset + 16)
    archive = tmp_path / "checkpoint.any"
    archive.write_bytes(pack(tar_of(*checkpoint(images))))
    (found,) = search_target(str(archive)).findings
    assert (found.kind, found.count, found.places) == ("github-token", 1, ("checkpoint",))
    (spot,) = found.spots
    assert spot.startswith("process 16 (")
    assert spot.endswith(f"), [stack], {run.start + 16:#x}")


@pytest.mark.parametrize("broken", ["mm-16.img", "pagemap-16.img", "files.img", "pstree.img"])
def test_in_a_dump_that_is_not_understood_it_has_its_offset(tmp_path, broken):
    images = dict(real_dump())
    pages = next(name for name in images if name.startswith("pages-"))
    images[pages], images[broken] = put(images[pages], 0), images[broken][:9]
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint(images)))
    (found,) = search_target(str(tmp_path / "a.tar")).findings
    assert found.spots == (f"checkpoint: {pages}, offset 0",)


def test_variables_whose_names_tell_are_found_by_name(tmp_path):
    spec = {**SPEC, "process": {**SPEC["process"], "env": ["DB_PASSWORD=kx7-0815", "PATH=/bin", "TOKEN_FILE=/a/b"]}}
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint(**{"spec.dump": text(spec)})))
    (found,) = search_target(str(tmp_path / "a.tar")).findings
    assert (found.kind, found.title, found.excerpt) == (VARIABLE, "DB_PASSWORD", "… (8 characters)")


def test_values_of_the_user_are_found(tmp_path):
    spec = {**SPEC, "process": {**SPEC["process"], "env": ["GREETING=kx7-from-production"]}}
    (tmp_path / "a.tar").write_bytes(tar_of(*checkpoint(**{"spec.dump": text(spec)})))
    (found,) = search_target(str(tmp_path / "a.tar"), [Secret("PROD", b"kx7-from-production")]).findings
    assert (found.title, found.places, found.excerpt) == ("PROD", ("environment",), "")


def test_all_layers_of_an_image_of_somebody_else_are_searched(tmp_path):
    """Whatever its history says of them: a layer of warmstart's programs would be left out."""
    layers = tar_of(*checkpoint(**{"dump.log": TOKEN.encode()})), tar_of(*checkpoint({"a.img": make_jwt().encode()}))
    history = [{"created_by": "warmstart build: launcher"}] * 2
    target = make_layout(tmp_path / "image", *layers, annotations={CHECKPOINT_NAME: "app"}, history=history)
    found = search_target(str(target)).findings
    assert [(one.kind, one.spots) for one in found] == [
        ("github-token", ("checkpoint: dump.log, offset 0",)),
        ("jwt", ("checkpoint: a.img, offset 0",)),
    ]


def test_annotations_and_config_are_searched(tmp_path):
    annotations = {CHECKPOINT_NAME: "app", "note": json.dumps({"deep": [f"token {TOKEN}"]})}
    target = make_layout(tmp_path / "image", tar_of(*checkpoint()), annotations=annotations)
    (found,) = search_target(str(target)).findings
    assert found.spots == ("manifest: annotations: note: deep[0]",)


def test_an_image_of_warmstart_is_searched(tmp_path):
    """Its recipe has the password as a literal value, in a variable."""
    assert search_target(str(make_warm_image(tmp_path))).findings == ()


def test_a_recipe_is_no_target(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: app\n")
    with pytest.raises(InputError, match="expected an image or a checkpoint archive"):
        search_target(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("content", [gzip.compress(b"no tar" * 500), gzip.compress(tar_of(*checkpoint()))[:-900]])
def test_a_broken_archive_is_an_error(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ImageError):
        search_target(str(tmp_path / "a.tar.gz"))
