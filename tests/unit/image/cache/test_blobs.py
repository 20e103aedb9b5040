"""Blobs and lists of layers in the cache: lent only if whole, and never needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from warmstart.core.errors import HostError
from warmstart.dump.archive.tarball import Kind
from warmstart.image.cache import blobs
from warmstart.image.cache.blobs import BlobCache, ListedMember
from warmstart.image.cache.prune import LIMIT, measure, prune, read_limit_bytes
from warmstart.image.manifest import Descriptor

CONTENT = b"layer" * 1000
LAYER = Descriptor("application/x", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", len(CONTENT))


@pytest.fixture
def cache(tmp_path) -> BlobCache:
    made = BlobCache(tmp_path / "cache")
    made.prepare()
    return made


def layout(path: Path, content: bytes | None = None) -> Path:
    directory = path / "blobs/sha256"
    directory.mkdir(parents=True)
    if content is not None:
        (directory / LAYER.digest.removeprefix("sha256:")).write_bytes(content)
    return path


def lent(cache: BlobCache, path: Path) -> bytes | None:
    cache.lend([LAYER], layout(path))
    found = list((path / "blobs/sha256").iterdir())
    return found[0].read_bytes() if found else None


@pytest.fixture(params=["links", "copies"])
def _transfer(request, monkeypatch):
    """Between two file systems, hard links are not possible."""

    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    if request.param == "copies":
        monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("_transfer")
def test_a_blob_that_was_kept_is_lent(cache, tmp_path):
    assert lent(cache, tmp_path / "before") is None
    cache.keep([LAYER], layout(tmp_path / "source", CONTENT))
    cache.keep([LAYER], tmp_path / "source")
    assert lent(cache, tmp_path / "after") == CONTENT


@pytest.mark.usefixtures("_transfer")
def test_a_damaged_blob_is_removed_instead(cache, tmp_path):
    cache.keep([LAYER], layout(tmp_path / "source", CONTENT[:-1] + b"X"))
    assert lent(cache, tmp_path / "after") is None
    assert list(cache.list()) == []


def test_a_blob_that_is_removed_from_the_cache_stays_where_it_was_lent(cache, tmp_path):
    cache.keep([LAYER], layout(tmp_path / "source", CONTENT))
    assert lent(cache, tmp_path / "after") == CONTENT
    assert prune(tmp_path / "cache", 0) > 0
    assert [path.read_bytes() for path in (tmp_path / "after/blobs/sha256").iterdir()] == [CONTENT]


def test_a_list_counts_only_for_the_tar_that_it_was_read_from(cache):
    members = [ListedMember("a", Kind.SYMLINK, "b"), ListedMember("c\udc80", Kind.FILE, "")]
    cache.keep_members(LAYER, "sha256:1", members)
    assert cache.read_members(LAYER, "sha256:1") == members
    assert cache.read_members(LAYER, "sha256:2") is None


def test_a_damaged_list_is_none(cache):
    cache.keep_members(LAYER, "sha256:1", [])
    (listing,) = (file.path for file in cache.list())
    for damage in ("", "[]", '{"diffId": "sha256:1", "members": [["a", "no kind", ""]]}'):
        listing.write_text(damage)
        assert cache.read_members(LAYER, "sha256:1") is None


def test_another_digest_than_sha256_is_left_out(cache, tmp_path):
    other = Descriptor("application/x", f"sha512:{hashlib.sha512(CONTENT).hexdigest()}", len(CONTENT))
    cache.keep([other], layout(tmp_path / "source", CONTENT))
    cache.lend([other], tmp_path / "source")
    cache.keep_members(other, "sha256:1", [])
    assert cache.read_members(other, "sha256:1") is None
    assert measure(tmp_path / "cache").blobs == 0


def test_the_limit_is_a_quantity(monkeypatch):
    monkeypatch.setenv(LIMIT, "3Mi")
    assert read_limit_bytes() == 3 << 20
    monkeypatch.setenv(LIMIT, "a lot")
    with pytest.raises(HostError, match="WARMSTART_CACHE_LIMIT is not a quantity of bytes: 'a lot'"):
        read_limit_bytes()
    monkeypatch.delenv(LIMIT)
    assert read_limit_bytes() == 20 << 30


def test_others_cannot_put_blobs_there(cache):
    blobs_directory = next(iter(cache._top.iterdir()))
    blobs_directory.chmod(0o777)
    with pytest.raises(HostError):
        cache.prepare()
    assert blobs._MODE & 0o077 == 0


def test_a_cache_that_cannot_be_written_to_is_used_as_it_is(cache, tmp_path, monkeypatch):
    cache.keep([LAYER], layout(tmp_path / "source", CONTENT))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(blobs.os, "utime", refuse)
        patch.setattr(blobs, "write_beside", refuse)
        cache.keep_members(LAYER, "sha256:1", [])
        assert cache.read_members(LAYER, "sha256:1") is None
        assert lent(cache, tmp_path / "after") == CONTENT
