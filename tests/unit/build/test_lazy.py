"""The files that a snapshotter fetches at once of an image that is pulled lazily."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout

from warmstart.build import lazy
from warmstart.build.lazy import make_lazy
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport
from warmstart.image.chunk_format import TOC
from warmstart.image.compose import CHECKPOINT, CREATED_BY
from warmstart.image.layout import read_document, read_image
from warmstart.image.lazy_layer import LANDMARK, NO_LANDMARK
from warmstart.image.open import open_image
from warmstart.image.selfrestore.pack import CHANGES, PROGRAMS
from warmstart.recipe.model import Compression, Lazy

SOURCES = Path(__file__).parents[3] / "launcher/src"
# A directory for mounts, and one of agents, which the application has mapped or not.
NOT_READ = {"proc", "hooks"}


def find_read_by_launcher() -> set[str]:
    """Return the names below /.warmstart in the launcher's source."""
    sources = (path.read_text() for path in SOURCES.glob("*.[ch]"))
    return {name for source in sources for name in re.findall(r'WARMSTART_DIR "/([\w-]+)"', source)} - NOT_READ


def make_context(workspace: Path) -> SimpleNamespace:
    recipe = SimpleNamespace(lazy=Lazy.ESTARGZ, compression=Compression.FAST)
    return SimpleNamespace(workspace=workspace, recipe=recipe, progress=Progress(SilentListener()))


def test_all_that_the_launcher_reads_is_fetched_at_once(tmp_path):
    read = {f".warmstart/{name}" for name in find_read_by_launcher()}
    assert ".warmstart/read-ahead" in read
    members = (entry(name, b"x") for name in ("etc/other", *read))
    layout = make_layout(tmp_path / "image", tar_of(*members), annotations={})
    converted = make_lazy(make_context(tmp_path), layout, mapped=())
    with open_image(Source(Transport.OCI, path=converted)) as opened:
        [layer] = opened.image.manifest.layers
        with opened.open_layer(layer) as content, tarfile.open(fileobj=content, mode="r|") as tar:
            names = tar.getnames()
    assert set(names[: names.index(LANDMARK)]) == read
    assert names[names.index(LANDMARK) :] == [LANDMARK, "etc/other", TOC]


@pytest.mark.parametrize("of_base", [[], [{"created_by": "RUN a"}, {"empty_layer": True}, {"created_by": "RUN b"}]])
def test_large_layers_of_the_base_image_are_divided(tmp_path, monkeypatch, of_base):
    monkeypatch.setattr(lazy, "PART_BYTES", 5)
    monkeypatch.setattr(lazy, "JOINED_BYTES", 0)
    two = [entry("one", b"12345"), entry("two", b"12345")]
    history = [*of_base, {"created_by": f"{CREATED_BY}launcher"}]
    layers = [tar_of(*two), tar_of(entry("three", b"1")), tar_of(*two)]
    layout = make_layout(tmp_path / "image", *layers, annotations={}, history=history)
    converted = read_image(make_lazy(make_context(tmp_path), layout, mapped=()))
    assert len(converted.manifest.layers) == len(converted.config.diff_ids) == 4
    makers = ("RUN a", "RUN a", "RUN b") if of_base else ("", "", "")
    assert converted.makers == (*makers, f"{CREATED_BY}launcher")


def test_small_layers_are_joined_unless_they_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "JOINED_BYTES", 4)
    made = [
        ("RUN a", "a", b"12345"),
        ("RUN b", "b", b"1234"),
        ("RUN c", "c", b"12345"),
        ("RUN d", "c", b"1"),
        (PROGRAMS, ".warmstart/launcher", b"1"),
        (f"{CREATED_BY}.warmstart/memory", ".warmstart/memory", b"12345"),
        (f"{CREATED_BY}.warmstart", ".warmstart/manifest", b"1"),
        (CHANGES, "tmp/x", b"1"),
        (f"{CREATED_BY}.warmstart/read-ahead", ".warmstart/read-ahead", b"1"),
        (CHECKPOINT, "spec.dump", b"1"),
    ]
    layers, history = [tar_of(entry(*one[1:])) for one in made], [{"created_by": one[0]} for one in made]
    layout = make_layout(tmp_path / "image", *layers, annotations={}, history=history)
    into = make_lazy(make_context(tmp_path), layout, mapped=())
    assert [(maker, *names) for maker, names in list_layers(into)] == [
        ("RUN a", "a", "b"),
        ("RUN c", "c"),
        ("RUN d", "c"),
        (PROGRAMS, ".warmstart/launcher"),
        (f"{CREATED_BY}.warmstart/memory", ".warmstart/manifest", ".warmstart/memory"),
        (CHANGES, ".warmstart/read-ahead", "tmp/x"),
        (CHECKPOINT, "spec.dump"),
    ]
    entries = json.loads(read_document(into, read_image(into).manifest.config))["history"]
    assert [one["created_by"] for one in entries] == [one["created_by"] for one in history]


def list_layers(layout: Path) -> list[tuple[str, list[str]]]:
    """Return what made each layer, and the files that it has."""
    listed = []
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer, maker in zip(opened.image.manifest.layers, opened.image.makers, strict=True):
            with opened.open_layer(layer) as content, tarfile.open(fileobj=content, mode="r|") as tar:
                names = [name for name in tar.getnames() if name not in (LANDMARK, NO_LANDMARK, TOC)]
            listed.append((maker, names))
    return listed
