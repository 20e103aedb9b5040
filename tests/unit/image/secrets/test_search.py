"""Secrets in the layers of an image: in memory, in files, in a tar within a layer, and not in the base image."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping

import pytest
from support.planted import make_pem, make_rsa_key, make_token

from warmstart.core.errors import ImageError
from warmstart.image.compose import CHECKPOINT, CREATED_BY, LayerWriter, Run, add_layers
from warmstart.image.secrets.record import FoundSecret
from warmstart.image.secrets.search import Text, search_layers
from warmstart.image.selfrestore.pack import PROGRAMS
from warmstart.recipe.model import Secret

VALUE = b"correct-horse-battery"
SECRETS = [Secret("shop-db.password", VALUE), Secret("shop-db.other", b"not-to-be-found")]


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def search(layout, tmp_path):
    """Search an image with a base layer and layers on top, each as its maker and its tar."""
    base_layer = tar_of({"etc/base": VALUE})

    def run(*layers: tuple[str, bytes]) -> dict[str, tuple[str, ...]]:
        layout.list(
            layout.image(base_layer, config={"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}})
        )
        target, added = tmp_path / "image", []
        for maker, tar in layers:
            writer = LayerWriter(target, maker)
            writer.write(tar)
            added.append(writer.finish())
        created = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"}
        add_layers(layout.path, target, added, Run(("/app",), (), ""), created, {})
        return {one.name: one.places for one in search_layers(target, 1, SECRETS).known}

    return run


def changed(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    return f"{CREATED_BY}changed files", tar_of(files)


def own(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    return f"{CREATED_BY}.warmstart", tar_of({f".warmstart/{name}": content for name, content in files.items()})


def test_the_base_image_and_the_programs_are_not_searched(search):
    assert search((PROGRAMS, tar_of({".warmstart/criu": VALUE})), changed({"a": b"nothing"})) == {}


def test_the_places_of_an_image_that_restores_itself(search):
    found = search(
        own({"memory": bytes(3 << 20) + VALUE}),
        own(
            {
                "manifest": b"argument --password=" + VALUE,
                "env": b"P=" + VALUE,
                "checkpoint/pages-1.img": VALUE,
                "seed/tmp/secret": VALUE,
            }
        ),
        changed({"app/settings": VALUE, "app/none": b"x" * 5000}),
    )
    assert found == {
        "shop-db.password": (
            "memory",
            "command line",
            "environment",
            "checkpoint",
            "file /tmp/secret",
            "file /app/settings",
        )
    }


def test_each_memory_file_is_memory(search):
    for name in ("memory", "memory-touched", "memory-runtime"):
        assert search(own({name: VALUE})) == {"shop-db.password": ("memory",)}


def test_the_places_of_an_image_that_the_runtime_restores(search):
    diff = tar_of({"app/settings": b"x" * 2000 + VALUE, "app/none": b"", "app/last": VALUE})
    found = search((CHECKPOINT, tar_of({"spec.dump": VALUE, "checkpoint/pages-1.img": VALUE, "rootfs-diff.tar": diff})))
    assert found == {"shop-db.password": ("environment", "checkpoint", "file /app/settings", "file /app/last")}


def test_a_file_of_the_application_may_have_the_name_of_one_of_ours(search):
    assert search(changed({"checkpoint/x": VALUE, "spec.dump": VALUE})) == {
        "shop-db.password": ("file /checkpoint/x", "file /spec.dump")
    }


@pytest.mark.parametrize("name", ["tmpfs-12.tar.gz.img", "tmpfs-dev-12.tar.gz.img"])
def test_a_packed_tmpfs_is_searched(search, name):
    packed = gzip.compress(os.urandom(3 << 20) + tar_of({"secret": VALUE}) + bytes(3 << 20))
    assert search(own({f"checkpoint/{name}": packed})) == {"shop-db.password": ("checkpoint",)}
    assert search((CHECKPOINT, tar_of({f"checkpoint/{name}": packed}))) == {"shop-db.password": ("checkpoint",)}


def test_a_packed_tmpfs_that_is_damaged_is_searched_as_far_as_it_goes(search):
    packed = gzip.compress(os.urandom(3 << 20))
    assert search(own({"checkpoint/tmpfs-1.tar.gz.img": packed[: len(packed) // 2]}), changed({"a": VALUE})) == {
        "shop-db.password": ("file /a",)
    }


def test_names_of_files_are_searched(search):
    assert search(changed({f"app/{VALUE.decode()}.txt": b""})) == {"shop-db.password": ("names of files",)}


def test_a_name_with_the_value_is_not_a_place(search):
    name = f"app/{VALUE.decode()}.txt"
    assert search(changed({name: VALUE})) == {"shop-db.password": ("names of files", "a file")}


def test_the_name_of_a_place_is_printable(search):
    assert search(changed({"app/\x1b[31m\n": VALUE})) == {"shop-db.password": ("file /app/\\x1b[31m\\n",)}


def test_a_value_across_pieces_of_a_large_file(search):
    for offset in (1, 10, len(VALUE) - 1):
        content = b"x" * ((1 << 20) - offset) + VALUE + b"x" * (1 << 20)
        assert search(own({"memory": content})) == {"shop-db.password": ("memory",)}


def test_a_layer_that_is_not_a_tar_is_an_error(search):
    with pytest.raises(ImageError, match="is not a tar"):
        search((CHECKPOINT, b"x" * 2000))


def test_secrets_of_the_rules_have_their_places(layout, tmp_path, search):
    key, token = make_pem(make_rsa_key()), make_token()
    diff = tar_of({"app/key.pem": key.encode()})
    search(
        (CHECKPOINT, tar_of({"rootfs-diff.tar": diff, "checkpoint/pages-1.img": bytes(4096) + token.encode()})),
        changed({"app/same.pem": b"# " + key.encode()}),
    )
    found = search_layers(tmp_path / "image", 1, SECRETS, texts=[Text("manifest", "manifest: a: b", f"x {token}")])
    assert [(one.kind, one.count, one.places, one.spots) for one in found.findings] == [
        ("github-token", 2, ("checkpoint", "manifest"), ("checkpoint: pages-1.img, offset 4096", "manifest: a: b")),
        (
            "private-key",
            2,
            ("file /app/key.pem", "file /app/same.pem"),
            ("file /app/key.pem, offset 31", "file /app/same.pem, offset 33"),
        ),
    ]
    assert found.findings[0].excerpt == "ghp_… (40 characters)"


def test_a_found_secret_reads_well():
    assert str(FoundSecret("shop-db.password", ("memory", "checkpoint"))) == "shop-db.password (memory, checkpoint)"
