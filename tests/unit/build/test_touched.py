"""The touched parts of a large memory become a file of their own in an image that is pulled lazily."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from warmstart.build import touched
from warmstart.build.touched import separate_touched
from warmstart.dump.criu.contents import PAGE_SIZE
from warmstart.dump.proc.touched import FilePart
from warmstart.image.compose import Layer
from warmstart.image.layout import open_blob
from warmstart.image.manifest import Descriptor
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY, TOUCHED_MEMORY, Identity
from warmstart.recipe.model import Compression, Lazy

PID, USER, GROUP = 7, os.geteuid(), os.getegid()
PAGES = 100
CONTENT = b"".join(bytes([number]) * PAGE_SIZE for number in range(PAGES))
LIBRARY = FilePart("/lib/libc.so", 0, PAGE_SIZE)
MANIFEST = f"user 1\nfile 5 pages-1.img\nfile 1 mm-7.img\nfile {len(CONTENT)} ../memory\nend\n"
BELOW, CHECKPOINT = (
    Layer(Descriptor("type", f"sha256:{number}", 1), f"sha256:{number}", "made") for number in ("1", "2")
)


@pytest.fixture
def running(tmp_path) -> SimpleNamespace:
    """Return a container whose image has a memory."""
    directory = tmp_path / str(PID) / "root" / DIRECTORY
    directory.mkdir(parents=True)
    (directory / "memory").write_bytes(CONTENT)
    (directory / "memory").chmod(0o400)
    return SimpleNamespace(engine=SimpleNamespace(proc=tmp_path), pid=PID, memory=directory / "memory")


@pytest.fixture
def launched(tmp_path) -> SimpleNamespace:
    """Return a dump."""
    directory = tmp_path / "launched"
    (directory / "checkpoint").mkdir(parents=True)
    (directory / "manifest").write_text(MANIFEST)
    (directory / "env").symlink_to("/proc/self/fd/9")
    (directory / "checkpoint/pages-1.img").write_bytes(b"pages")
    (directory / "checkpoint/mm-7.img").write_bytes(b"m")
    return SimpleNamespace(directory=directory, identity=Identity(USER, GROUP, (), PID, ("app",)))


@pytest.fixture
def separate(tmp_path, running, launched, monkeypatch) -> Any:
    """Separate the touched parts; the limit of what is fetched at once is 50 pages."""
    monkeypatch.setattr(touched, "FIRST_LIMIT_BYTES", 50 * PAGE_SIZE)

    def map_touched(directory: Path, *_: object) -> bool:
        (directory / "mm-7.img").write_bytes(b"edited")
        return True

    monkeypatch.setattr(touched, "map_touched", map_touched)

    def call(*parts: FilePart, lazy: Lazy = Lazy.ZSTD_CHUNKED) -> tuple[list[Layer], list[FilePart]]:
        recipe = SimpleNamespace(lazy=lazy, compression=Compression.FAST)
        context: Any = SimpleNamespace(workspace=tmp_path, recipe=recipe)
        given: Any = launched, running
        return separate_touched(context, given[0], [BELOW, CHECKPOINT], given[1], parts)

    return call


def part(start: int, end: int) -> FilePart:
    return FilePart(f"/{MEMORY}", start * PAGE_SIZE, (end - start) * PAGE_SIZE)


def read_layer(layout: Path, layer: Layer) -> tarfile.TarFile:
    with open_blob(layout, layer.blob) as blob:
        plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
    return tarfile.open(fileobj=io.BytesIO(plain))


def test_the_parts_are_a_file_and_the_dump_is_packed_again(separate, launched, tmp_path):
    layers, parts = separate(part(3, 5), LIBRARY, part(60, 62))
    size_bytes = (2 + 1 + 2) * PAGE_SIZE
    assert parts == [FilePart(f"/{TOUCHED_MEMORY}", 0, size_bytes), LIBRARY]
    below, added, checkpoint = layers
    assert below == BELOW
    tar = read_layer(tmp_path / "layout", added)
    info = tar.getmember(TOUCHED_MEMORY)
    assert (info.mode, info.uid, info.gid, info.size) == (0o400, USER, GROUP, size_bytes)
    content = tar.extractfile(info).read()
    assert (
        content
        == CONTENT[3 * PAGE_SIZE : 5 * PAGE_SIZE] + bytes(PAGE_SIZE) + CONTENT[60 * PAGE_SIZE :][: 2 * PAGE_SIZE]
    )
    packed = read_layer(tmp_path / "layout", checkpoint)
    assert packed.extractfile(f"{DIRECTORY}/checkpoint/mm-7.img").read() == b"edited"
    manifest = packed.extractfile(f"{DIRECTORY}/manifest").read().decode()
    expected = MANIFEST.replace("file 1 mm", "file 6 mm").replace(
        "end\n", f"file {size_bytes} ../memory-touched\nend\n"
    )
    assert manifest == expected == (launched.directory / "manifest").read_text()


@pytest.mark.parametrize(
    ("lazy", "parts"),
    [
        (Lazy.NONE, [part(3, 5)]),
        (Lazy.ESTARGZ, [LIBRARY]),
        (Lazy.ESTARGZ, [part(0, 51)]),
    ],
    ids=["pulled as usual", "nothing is touched", "too much is touched"],
)
def test_otherwise_nothing_changes(separate, launched, lazy, parts):
    assert separate(*parts, lazy=lazy) == ([BELOW, CHECKPOINT], parts)
    assert (launched.directory / "manifest").read_text() == MANIFEST


def test_a_memory_that_is_fetched_at_once_stays_as_it_is(separate, monkeypatch):
    monkeypatch.setattr(touched, "FIRST_LIMIT_BYTES", len(CONTENT))
    assert separate(part(3, 5)) == ([BELOW, CHECKPOINT], [part(3, 5)])


def test_a_dump_that_cannot_be_edited_stays_as_it_is(separate, monkeypatch):
    monkeypatch.setattr(touched, "map_touched", lambda *_: False)
    assert separate(part(3, 5)) == ([BELOW, CHECKPOINT], [part(3, 5)])


def test_a_link_of_the_image_leads_to_nothing_of_the_host(separate, running, tmp_path):
    outside = tmp_path / "outside"
    running.memory.rename(outside)
    running.memory.symlink_to(outside)
    with pytest.raises(OSError, match="memory"):
        separate(part(3, 5))
