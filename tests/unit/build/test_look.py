"""A container that restores itself is prepared for a look at the pages that it touches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.page_cache import find_cached_bytes

from warmstart.build import checkpoint, pipeline
from warmstart.core.errors import AppError
from warmstart.core.page_cache import evict
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import VmaStatus
from warmstart.dump.criu.entries import Entry, decode, read_only_entry, write_image
from warmstart.engine.cri import OnCreated
from warmstart.image.selfrestore.pack import Identity
from warmstart.recipe.model import Container

MADV_RANDOM = 1 << 1
IDENTITY = Identity(os.geteuid(), os.getegid(), (), 100, ("app",))
MANIFEST = "user 1000\nfile 3 mm-100.img\nfile 5 pages-1.img\nfile 65536 ../memory\nlisten tcp 80 1 2\nend\n"


def make_vma(status: VmaStatus, madv: int) -> dict[str, int]:
    words = dict.fromkeys(("start", "end", "pgoff", "shmid", "prot", "flags", "fd"), 0)
    return {**words, "status": VmaStatus.REGULAR | status, "madv": madv}


@pytest.fixture
def created(tmp_path) -> SimpleNamespace:
    """Return a container whose image has a checkpoint."""
    directory = tmp_path / "7/root/.warmstart"
    (directory / "checkpoint").mkdir(parents=True)
    (directory / "manifest").write_text(MANIFEST)
    (directory / "memory").write_bytes(bytes(65536))
    (directory / "checkpoint/pages-1.img").write_bytes(b"pages")
    vmas = [make_vma(VmaStatus.FILE_PRIVATE, 1 << 14), make_vma(VmaStatus.ANON_PRIVATE, 1 << 14)]
    mm = protos.Mm(mm_arg_start=0, mm_arg_end=0, exe_file_id=1, vmas=vmas)
    write_image(directory / "checkpoint/mm-100.img", [Entry(mm.SerializeToString())])
    return SimpleNamespace(engine=SimpleNamespace(proc=tmp_path), pid=7, directory=directory)


def test_page_faults_read_single_pages_and_none_is_in_the_page_cache(created):
    checkpoint.prepare_look(IDENTITY, created)
    path = created.directory / "checkpoint/mm-100.img"
    advice = [vma.madv for vma in decode(path, read_only_entry(path), protos.Mm).vmas]
    assert advice == [1 << 14 | MADV_RANDOM, 1 << 14]
    size = path.stat().st_size
    assert (created.directory / "manifest").read_text() == MANIFEST.replace("file 3 mm", f"file {size} mm")
    other = created.directory / "other"
    other.write_bytes(b"x")
    evict(other)
    if find_cached_bytes(other):
        pytest.skip("the file system of the temporary directory is in memory")
    assert not find_cached_bytes(created.directory / "memory")


def test_a_link_of_the_image_leads_to_nothing_of_the_host(created, tmp_path):
    outside = tmp_path / "outside"
    created.directory.rename(outside)
    created.directory.symlink_to(outside)
    with pytest.raises(FileNotFoundError):
        checkpoint.prepare_look(IDENTITY, created)
    assert (outside / "manifest").read_text() == MANIFEST


def test_the_container_is_prepared_before_its_launcher_starts(created, monkeypatch):
    prepared: list[Path] = []

    @contextlib.contextmanager
    def start(*given: object) -> Iterator[SimpleNamespace]:
        on_created: OnCreated = given[-1]
        on_created(created)
        yield created

    monkeypatch.setattr(checkpoint, "await_restored", lambda *_: None)
    monkeypatch.setattr(checkpoint, "evict", lambda path: prepared.append(path.resolve()))
    recipe = SimpleNamespace(container=Container("image"), name="app")
    context = SimpleNamespace(recipe=recipe, beside=SimpleNamespace(start=start))
    launched = SimpleNamespace(identity=IDENTITY)
    looked: list[tuple[object, object]] = []
    monkeypatch.setattr(checkpoint, "read_touched", lambda *_: "parts")
    checkpoint.restore_and_look(context, created.engine, launched, "image", lambda *given: looked.append(given))
    assert looked == [(created, "parts")]
    assert prepared == [created.directory / "memory"]


@pytest.mark.parametrize("error", [AppError("not ready in time"), OSError("no space left")])
def test_an_image_without_its_list_is_complete_and_the_user_is_told(error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "restore_and_look", fail)
    context = SimpleNamespace(progress=Progress(SilentListener()))
    layers = pipeline.add_read_ahead(context, None, None, SimpleNamespace(launched=None), ["memory", "dump"], "image")
    assert layers == ["memory", "dump"]
    assert context.progress.warnings == [f"the image has no list of what to read ahead: {error}"]
