"""Unpacked layers in the cache: whole or not there, held while in use, children removed before parents."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from warmstart.core.errors import HostError
from warmstart.image.cache.layers import LayerCache, find_ids
from warmstart.image.cache.prune import measure, prune

KILLED = """
import os, signal, sys
from pathlib import Path
from warmstart.image.cache.layers import LayerCache

def unpack(store, present):
    (store / "overlay").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)

LayerCache(Path(sys.argv[1])).add(sys.argv[2:], unpack)
"""


def diff_id(content: str) -> str:
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


A, B, C, D = map(diff_id, "ABCD")


class Unpack:
    """Makes image stores as containers/storage lays them out, with a file of `size_bytes` in each layer."""

    def __init__(self, diff_ids: Sequence[str], size_bytes: int = 100_000) -> None:
        self.diff_ids = diff_ids
        self.size_bytes = size_bytes
        self.unpacked: list[str] = []

    def __call__(self, store: Path, present: Sequence[Path]) -> None:
        layers, ids = [], find_ids(self.diff_ids)
        for part in ("overlay/l", "overlay-layers", "overlay-images"):
            (store / part).mkdir(parents=True)
        known = {path.name: path for path in present}
        for depth, layer_id in enumerate(ids):
            if layer_id in known:
                continue
            self.unpacked.append(layer_id)
            layer = store / "overlay" / layer_id
            (layer / "diff").mkdir(parents=True)
            (layer / "diff" / "file").write_bytes(secrets.token_bytes(self.size_bytes))
            (layer / "link").write_text(secrets.token_hex(13).upper())
            if depth:
                parent = known.get(ids[depth - 1], store) / "overlay" / ids[depth - 1]
                lower = parent / "lower"
                above = f":{lower.read_text()}" if lower.exists() else ""
                (layer / "lower").write_text(f"l/{(parent / 'link').read_text()}{above}")
            (store / "overlay/l" / (layer / "link").read_text()).symlink_to(f"../{layer_id}/diff")
            (store / "overlay-layers" / f"{layer_id}.tar-split.gz").touch()
            layers.append({"id": layer_id, "parent": ids[depth - 1] if depth else ""})
        (store / "overlay-layers/layers.json").write_text(json.dumps(layers))


@pytest.fixture
def cache(tmp_path) -> LayerCache:
    layers = LayerCache(tmp_path)
    assert layers.prepare()
    return layers


def add(cache: LayerCache, *diff_ids: str) -> list[str]:
    unpack = Unpack(diff_ids)
    cache.add(diff_ids, unpack)
    return unpack.unpacked


def held(cache: LayerCache, *diff_ids: str) -> list[str]:
    with cache.hold(diff_ids) as stores:
        return [store.name for store in stores]


def names(cache: LayerCache) -> set[str]:
    return {path.name for path in cache.directory.iterdir()}


def test_ids_are_chained_as_containers_storage_does():
    """The figures are those of a store that skopeo 1.20 filled."""
    diffs = [
        "sha256:e990ebdf0b6ce29a7fb92719296868e3d6f5076d0dfebf34b82c4fe9198d5d8e",
        "sha256:126efb04d2f411039f23ce476955bf8f1ae85d5293b0b1ef37956f1442a1ef84",
        "sha256:e5c6c84943e8fcb5b66bc967591ce36d23ffaa71cadd7e93b637bd62973d914a",
    ]
    assert find_ids(diffs) == [
        "e990ebdf0b6ce29a7fb92719296868e3d6f5076d0dfebf34b82c4fe9198d5d8e",
        "cd1f8e9b5f89dae05e6a2bffe25f6781764d559f7eb541b58f3add19d09400fd",
        "77f89714733613b4130006e14ea455c1894f8ccbb8cffce68e2c1f8d27cae31b",
    ]


def test_a_layer_is_unpacked_once(cache):
    assert add(cache, A, B) == find_ids([A, B])
    assert add(cache, A, B) == []
    assert add(cache, A, B, C) == find_ids([A, B, C])[2:]
    assert held(cache, A, B, C) == find_ids([A, B, C])


def test_the_same_layer_on_another_base_is_another_one(cache):
    add(cache, A, B)
    assert held(cache, C, B) == []
    assert held(cache, A, C) == find_ids([A])


def test_each_layer_is_an_image_store_of_its_own(cache):
    add(cache, A, B)
    with cache.hold([A, B]) as (_, store):
        layer_id = find_ids([A, B])[1]
        (layer,) = json.loads((store / "overlay-layers/layers.json").read_text())
        assert layer["id"] == layer_id
        (link,) = (store / "overlay/l").iterdir()
        assert (link / "file").stat().st_size == 100_000
        assert json.loads((store / "overlay-images/images.json").read_text()) == []


def test_a_layer_that_the_config_does_not_name_is_left_out(cache):
    cache.add([A, B], Unpack([A, C]))
    assert held(cache, A, B) == find_ids([A])
    assert names(cache) == set(find_ids([A]))


def test_a_failure_leaves_nothing(cache):
    def fail(store: Path, present: Sequence[Path]) -> None:
        Unpack([A])(store, present)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.add([A], fail)
    assert names(cache) == set()


def test_what_a_killed_command_left_goes_with_the_next_one(cache):
    done = subprocess.run([sys.executable, "-c", KILLED, cache.directory.parent, A], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(cache)
    assert held(cache, A) == []
    add(cache, A)
    assert names(cache) == set(find_ids([A]))


def test_a_layer_in_use_and_its_parents_stay(cache):
    add(cache, A, B)
    with cache.hold([A, B]):
        add(cache, A, B, C)
        assert prune(cache.directory.parent, 0) > 0
        assert names(cache) == set(find_ids([A, B]))
    prune(cache.directory.parent, 0)
    assert names(cache) == set()


def test_the_longest_unused_goes_first_and_children_before_parents(cache):
    add(cache, A, B)
    add(cache, A, C)
    add(cache, D)
    for seconds, diff_ids in enumerate(([A, B], [D], [A, C])):
        with cache.hold(diff_ids) as stores:
            for store in stores:
                os.utime(store, (seconds, seconds))
    order = [layer.path.name for layer in cache.list()]
    assert order == [find_ids([A, B])[1], *find_ids([D]), find_ids([A, C])[1], *find_ids([A])]
    size = cache.list()[0].size_bytes
    prune(cache.directory.parent, measure(cache.directory.parent).total_bytes - size)
    assert names(cache) == set(order[1:])


def test_a_child_of_another_copy_of_its_parent_is_not_used(cache):
    """Its short names lead nowhere: they are random, and were those of the copy that was removed."""
    add(cache, A, B)
    parent = next(layer for layer in cache.list() if layer.depth == 0)
    assert cache.remove(parent)
    add(cache, A)
    assert held(cache, A, B) == find_ids([A])


def test_a_layer_that_was_removed_before_it_was_locked_is_missing(cache, monkeypatch):
    add(cache, A)
    lock = fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        assert prune(cache.directory.parent, 0) > 0
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    assert held(cache, A) == []
    assert names(cache) == set()


def test_links_on_the_way_to_the_cache_are_resolved(cache, tmp_path):
    (tmp_path / "link").symlink_to(cache.directory.parent)
    assert LayerCache(tmp_path / "link").directory == cache.directory


def test_others_cannot_reach_setuid_programs_of_images(cache):
    assert cache.directory.stat().st_mode & 0o077 == 0
    cache.directory.chmod(0o777)
    with pytest.raises(HostError, match="lets others write"):
        cache.prepare()


def test_a_path_that_overlay_would_misread_is_not_used(tmp_path):
    assert not LayerCache(tmp_path / "a,b").prepare()
    assert not LayerCache(tmp_path / "a:b").prepare()


def test_more_layers_than_one_mount_takes_are_not_kept(cache):
    diff_ids = [diff_id(str(number)) for number in range(100)]
    assert add(cache, *diff_ids) == []


def test_a_diff_id_that_leads_out_of_the_cache_is_not_followed(cache, tmp_path):
    (tmp_path / "outside").mkdir()
    assert held(cache, "sha256:../outside") == []
    assert held(cache, f"sha256:{tmp_path}/outside") == []
