"""Reading images in a registry, a layout and an oci-archive."""

import gzip
import io
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
import zstandard

from tests.support.registry_access import http
from warmstart.core.errors import ArchiveError, ImageError, RegistryError
from warmstart.core.reference import Reference, Source, Transport
from warmstart.image.layout import read_image, write_archive
from warmstart.image.open import find_source_digest, is_oci_archive, open_image
from warmstart.image.registry.client import push_layout

TAR = b"the tar of a layer" * 100_000


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def skippable(data: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


@pytest.fixture
def image(layout):
    """A layout of one image with three layers, each of another kind."""
    config = {"os": "linux", "architecture": "amd64", "config": {"Labels": {"id": uuid4().hex}}}
    layout.list(layout.image(TAR, gzip.compress(TAR), zstd(TAR), config=config))
    return layout


@pytest.fixture
def reference(image, proxy) -> Reference:
    reference = Reference(proxy.host, f"team/{uuid4().hex}", "1.0")
    push_layout(image.path, reference, access=http())
    proxy.seen.clear()
    return reference


def pack(layout: Path, target: Path, *, with_tar: bool) -> Source:
    if with_tar:
        subprocess.run(["tar", "-C", layout, "-cf", target, "."], check=True)
    else:
        write_archive(layout, read_image(layout), target, name="localhost/app:1")
    return Source(Transport.OCI_ARCHIVE, path=target)


def read_layers(source: Source, **options) -> list[bytes]:
    found = []
    with open_image(source, **options) as opened:
        for layer in opened.image.manifest.layers:
            with opened.open_layer(layer) as tar:
                found.append(tar.read(1000) + b"".join(iter(lambda: tar.read(1 << 16), b"")))
    return found


def test_layers_of_a_layout_are_decompressed(image):
    source = Source(Transport.OCI, path=image.path)
    assert read_layers(source) == [TAR] * 3
    with open_image(source) as opened:
        assert opened.image == read_image(image.path)


@pytest.mark.parametrize("with_tar", [True, False])
def test_an_archive_is_read_where_it_is(image, tmp_path, with_tar):
    source = pack(image.path, tmp_path / "a.tar", with_tar=with_tar)
    before = sorted(tmp_path.rglob("*"))
    assert read_layers(source) == [TAR] * 3
    with open_image(source) as opened:
        assert opened.image.manifest.layers == read_image(image.path).manifest.layers
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_of_an_archive_is_chosen_by_its_name(image, tmp_path):
    source = pack(image.path, tmp_path / "a.tar", with_tar=False)
    with open_image(Source(Transport.OCI_ARCHIVE, path=source.path, image="localhost/app:1")):
        pass
    with (
        pytest.raises(ImageError, match="has no image 'other'"),
        open_image(Source(Transport.OCI_ARCHIVE, path=source.path, image="other")),
    ):
        pass


def test_a_registry_is_asked_for_what_is_read_only(reference, proxy, image):
    source = Source(Transport.REGISTRY, reference)
    with open_image(source, access=http()) as opened:
        assert opened.image == read_image(image.path)
        assert not any(layer.digest in line for line in proxy.seen for layer in opened.image.manifest.layers)
        with opened.open_layer(opened.image.manifest.layers[2]) as tar:
            assert tar.read(4) == TAR[:4]
        assert not any(opened.image.manifest.layers[1].digest in line for line in proxy.seen)
    assert read_layers(source, access=http()) == [TAR] * 3


def test_a_tag_that_is_moved_meanwhile_does_not_mix_images(reference, proxy, image):
    with open_image(Source(Transport.REGISTRY, reference), access=http()) as opened:
        assert [line for line in proxy.seen if line.endswith("/manifests/1.0")] == proxy.seen[:1]
        assert opened.image.manifest.digest in proxy.seen[1]


def test_a_download_is_begun_again_and_never_mixed(reference, proxy, pauses, image):
    digest = read_image(image.path).manifest.layers[0].digest
    proxy.answer(f"GET .*{digest}", 503)
    proxy.hang_up(f"GET .*{digest}")
    assert read_layers(Source(Transport.REGISTRY, reference), access=http())[0] == TAR
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("edit", "error", "problem"),
    [
        (lambda body: body[:-1], ImageError, "ends too early"),
        (lambda body: b"X" + body[1:], ImageError, "is damaged"),
    ],
)
def test_a_registry_that_sends_something_else_is_refused(reference, proxy, image, edit, error, problem):
    def spoil(answer):
        answer.body = edit(answer.body)
        answer.headers.pop("Content-Length", None)
        return answer

    proxy.edit(f"GET .*{read_image(image.path).manifest.layers[0].digest}", spoil)
    with pytest.raises(error, match=problem):
        read_layers(Source(Transport.REGISTRY, reference), access=http())


def test_a_connection_that_breaks_while_a_layer_is_read_is_told_of(reference, proxy, image):
    def cut(answer):
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.headers["Connection"] = "close"
        answer.body = answer.body[:-1000]
        return answer

    proxy.edit(f"GET .*{read_image(image.path).manifest.layers[0].digest}", cut)
    with pytest.raises(RegistryError, match=r"could not read .* the connection to 127\.0\.0\.1:\d+ failed: "):
        read_layers(Source(Transport.REGISTRY, reference), access=http())


def test_a_layer_that_is_not_there_is_told_of(reference, proxy, image):
    proxy.answer(f"GET .*{read_image(image.path).manifest.layers[0].digest}", 404)
    with pytest.raises(RegistryError, match="answered 404"):
        read_layers(Source(Transport.REGISTRY, reference), access=http())


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TAR) + gzip.compress(TAR),
        zstd(TAR) + skippable(b"an index") + zstd(TAR),
        skippable(b"") + zstd(TAR + TAR),
    ],
)
def test_pieces_that_were_compressed_each_for_itself_are_one_layer(layout, data):
    layout.list(layout.image(data))
    [layer] = read_layers(Source(Transport.OCI, path=layout.path))
    assert layer in (TAR + TAR, data)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TAR)[:-20],
        gzip.compress(TAR)[:200] + b"\xff" * 500,
        gzip.compress(TAR) + b"what follows is not gzip",
        zstd(TAR)[:50] + b"\xff" * 500,
        zstd(TAR) + b"what follows is not zstd",
    ],
)
def test_a_layer_that_cannot_be_decompressed_is_refused(layout, data):
    layout.list(layout.image(data))
    with pytest.raises(ImageError, match=r"^layer sha256:[0-9a-f]{64} cannot be decompressed: "):
        read_layers(Source(Transport.OCI, path=layout.path))


def test_an_empty_layer_has_nothing_to_read(layout):
    layout.list(layout.image(b""))
    assert read_layers(Source(Transport.OCI, path=layout.path)) == [b""]


def rewritten(archive: Path, change) -> Source:
    """The archive with members that `change` gives for each (name, content); None leaves one out."""
    out = archive.with_name("changed.tar")
    with tarfile.open(archive) as old, tarfile.open(out, "w") as new:
        for info in old:
            content = old.extractfile(info)
            changed = change(info, content.read() if content else b"")
            if changed is not None:
                info.size = len(changed)
                new.addfile(info, io.BytesIO(changed))
    return Source(Transport.OCI_ARCHIVE, path=out)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda info, data: None if info.name == "oci-layout" else data, "is not an oci-archive: it has no member"),
        (lambda info, data: None if info.name == "index.json" else data, "has no file index.json"),
        (lambda info, data: b"{" if info.name == "index.json" else data, "index.json is not JSON"),
        (lambda info, data: data + b" " if "blobs" in info.name and data[:1] == b"{" else data, ", expected"),
        (lambda info, data: None if "blobs" in info.name else data, "has no file blobs/sha256/"),
        (lambda info, data: b"X" + data[1:] if data == TAR else data, "is damaged"),
    ],
)
def test_a_broken_archive_is_refused(image, tmp_path, change, problem):
    source = rewritten(pack(image.path, tmp_path / "a.tar", with_tar=False).path, change)
    with pytest.raises(ImageError, match=problem):
        read_layers(source)


def test_a_blob_that_is_a_link_is_not_followed(image, tmp_path):
    def change(info, data):
        if info.name == "index.json":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            return b""
        return data

    source = rewritten(pack(image.path, tmp_path / "a.tar", with_tar=False).path, change)
    with pytest.raises(ImageError, match=r"has no file index\.json"):
        read_layers(source)


def test_what_is_no_tar_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    for path, problem in ((tmp_path / "a.tar", "is not a tar archive"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ImageError, match=problem):
            read_layers(Source(Transport.OCI_ARCHIVE, path=path))
        with pytest.raises(ArchiveError, match=problem):
            is_oci_archive(path)


def test_an_archive_is_told_from_others(image, tmp_path):
    source = pack(image.path, tmp_path / "a.tar", with_tar=True)
    assert is_oci_archive(source.path)
    other = rewritten(source.path, lambda info, data: None if "oci-layout" in info.name else data)
    assert not is_oci_archive(other.path)


@pytest.mark.parametrize("kind", [Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON])
def test_other_places_are_refused_with_a_way_out(kind):
    with (
        pytest.raises(ImageError, match=f"{kind} is neither a registry") as caught,
        open_image(Source(kind, Reference("localhost", "app", "1"))),
    ):
        pass
    assert f"skopeo copy {kind}:localhost/app:1 oci-archive:FILE" in caught.value.hint


# Layers that are not what the image says


def layer_of(source: Source, size: int = 1 << 20) -> bytes:
    """The first layer of an image, read as `size` tells, as far as it was read when its digests had been checked."""
    with open_image(source) as opened, opened.open_layer(opened.image.manifest.layers[0]) as tar:
        return tar.read(size)


def image_of(layout, layer: bytes, *diff_ids: str) -> Source:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
    layout.list(layout.image(layer, config=config))
    return Source(Transport.OCI, path=layout.path)


COMPRESSED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "many frames": lambda data: b"".join(
        zstandard.ZstdCompressor().compress(data[at : at + 1000]) for at in range(0, len(data), 1000)
    ),
    "many members": lambda data: b"".join(gzip.compress(data[at : at + 1000]) for at in range(0, len(data), 1000)),
}


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED)
def test_a_layer_is_checked_to_its_end_however_little_is_read(layout, compress):
    data = bytes(range(256)) * 100
    packed = compress(data)
    right = f"sha256:{sha256(data).hexdigest()}"
    assert layer_of(image_of(layout, packed, right), 10) == data[:10]
    with pytest.raises(ImageError, match="does not match its diff id"):
        layer_of(image_of(layout, packed, f"sha256:{'0' * 64}"), 10)
    with pytest.raises(ImageError, match="1 layers and its config lists 2"):
        layer_of(image_of(layout, packed, right, right), 10)
    source = image_of(layout, packed, right)
    blob = layout.path / "blobs/sha256" / sha256(packed).hexdigest()
    blob.write_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))
    with pytest.raises(ImageError, match=r"damaged|decompressed"):
        layer_of(source, 10)


def test_what_follows_the_compressed_data_counts_for_the_digest(layout):
    packed = gzip.compress(b"data") + bytes(1 << 21)
    source = image_of(layout, packed)
    assert layer_of(source) == b"data"
    blob = layout.path / "blobs/sha256" / sha256(packed).hexdigest()
    blob.write_bytes(packed[:-1] + b"x")
    with pytest.raises(ImageError):
        layer_of(source)


def test_a_layer_is_not_larger_than_the_limit(layout, monkeypatch):
    monkeypatch.setattr("warmstart.image.open.LAYER_LIMIT_BYTES", 1 << 20)
    layer_of(image_of(layout, zstandard.ZstdCompressor().compress(bytes(1 << 20))))
    with pytest.raises(ImageError, match="when decompressed"):
        layer_of(image_of(layout, zstandard.ZstdCompressor().compress(bytes((1 << 20) + 1))), 10)


def test_a_zstd_window_takes_no_more_memory_than_others_give_it(layout):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ImageError, match="cannot be decompressed"):
        layer_of(image_of(layout, packed.compress(b"x" * 1000) + packed.flush()))


# The digest of a source


def test_the_digest_of_a_source_is_that_of_its_index_or_manifest(layout, tmp_path):
    host, other = {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "s390x"}
    index = layout.index(layout.image(b"x", platform=host), layout.image(b"y", config=other, platform=other))
    layout.list(index)
    assert find_source_digest(Source(Transport.OCI, path=layout.path)) == index["digest"]
    single = layout.image(b"z")
    layout.list(single)
    assert find_source_digest(Source(Transport.OCI, path=layout.path)) == single["digest"]
    archive = tmp_path / "archive.tar"
    write_archive(layout.path, read_image(layout.path), archive, name="app:1")
    assert find_source_digest(Source(Transport.OCI_ARCHIVE, path=archive)) == single["digest"]


def test_a_digest_in_the_name_is_not_looked_up():
    reference = Reference("registry.invalid", "app", digest=f"sha256:{1:064}")
    assert find_source_digest(Source(Transport.REGISTRY, reference)) == reference.digest


@pytest.mark.parametrize("kind", [Transport.CONTAINERS_STORAGE, Transport.DOCKER_DAEMON])
def test_stores_have_no_digest_here(kind):
    assert find_source_digest(Source(kind, Reference("localhost", "app", "1"))) is None
