"""Arbitrary archives give an Archive or an ArchiveError, and change nothing else."""

from __future__ import annotations

import io
import json
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoint_archive import (
    BIND_MOUNTS,
    CONFIG,
    GOOD,
    SPEC,
    Entry,
    crio,
    entry,
    replaced,
    tar_of,
    text,
    tree,
    with_diff,
    write,
)
from support.tars import extract

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.archive import Archive, extract_archive, read_contents

NAMES = st.one_of(
    st.sampled_from(
        [
            *("", ".", "./", "..", "/", "/x", "../outside/x", "checkpoint/../../outside/x", "a//b", "x", "x/y"),
            *("checkpoint", "checkpoint/", "checkpoint/x", "checkpoint/x/", "./config.dump", "dump.log/"),
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=300),
)
TYPES = st.one_of(st.sampled_from([bytes([kind]) for kind in b"0123456757xgLKSV\0"]), st.binary(min_size=1, max_size=1))
ENTRIES = st.builds(
    lambda name, kind, to, content: entry(name, content, type=kind, linkname=to),
    NAMES,
    TYPES,
    NAMES,
    st.one_of(st.just(b""), st.binary(max_size=700), st.sampled_from([b"11 path=ab\n", b"11 size=-1\n"])),
)


def either_unpacks_or_refuses(data: bytes, place: Path) -> None:
    archive = write(place, data)
    before = tree(place.parent)
    try:
        unpacked = extract_archive(archive, place / "new")
    except ArchiveError as refusal:
        refused = refusal.brief
    else:
        refused = ""
        check_unpacked(unpacked)
        shutil.rmtree(unpacked.root)
    assert not refused or refused.startswith(f"{archive}: ")
    assert tree(place.parent) == before


def check_unpacked(unpacked: Archive) -> None:
    found = tree(unpacked.root)
    assert found.keys() == {member.name for member in unpacked.members} | {"checkpoint"}
    assert all(stat.S_ISREG(mode) or path == "checkpoint" for path, (mode, _) in found.items())


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("anything")
    (root / "outside").mkdir()
    (root / "outside/secret").write_text("untouched")
    (root / "place").mkdir()
    return root / "place"


@settings(max_examples=300, deadline=None)
@given(before=st.lists(ENTRIES, max_size=2), after=st.lists(ENTRIES, max_size=4))
def test_arbitrary_members(lasting: Path, before: list[Entry], after: list[Entry]) -> None:
    either_unpacks_or_refuses(tar_of(*before, *crio(), *after), lasting)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(len(GOOD)), st.integers(0, len(GOOD))),
)
def test_arbitrary_damage(lasting: Path, changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(GOOD)
    for offset, value in changes:
        damaged[offset] = value
    either_unpacks_or_refuses(bytes(damaged[:length]), lasting)


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=5), deleted=st.lists(NAMES, max_size=3))
def test_arbitrary_root_file_system_changes(lasting: Path, entries: list[Entry], deleted: list[str]) -> None:
    either_unpacks_or_refuses(with_diff(*entries, deleted=deleted), lasting)


# Few names, so that members meet: directories, files and links in each other's way.
MEETING = st.sampled_from(["a", "b", "a/b", "b/a", "a/b/c", "./a", "b/../a", "/a"])
OUTSIDE = st.sampled_from(["a", "b/a", "..", "../../outside", "../../outside/secret", "/", "../a/b"])
CHANGES = st.builds(
    # Directories that whoever runs the tests can enter and remove.
    lambda name, kind, to, content: entry(name, content, type=kind, linkname=to, mode=0o755),
    MEETING,
    st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
    OUTSIDE,
    st.sampled_from([b"", b"new"]),
)


@settings(max_examples=500, deadline=None)
@given(
    changes=st.lists(CHANGES, max_size=5),
    deleted=st.lists(st.sampled_from(["/a", "/b/", "/a/b", "/b/secret", "/./a/secret", "/../a"]), max_size=2),
)
def test_no_accepted_change_leaves_the_root_file_system(
    lasting: Path, changes: list[Entry], deleted: list[str]
) -> None:
    """Unpack and delete without any checks and with another tar reader, as a runtime may do."""
    archive = write(lasting, with_diff(*changes, deleted=deleted))
    try:
        read_contents(archive)
    except ArchiveError:
        return
    outside = tree(lasting.parent / "outside")
    root = lasting / "root"
    root.mkdir()
    with tarfile.open(fileobj=io.BytesIO(tar_of(*changes))) as tar:
        extract(tar, root, trusted=True)
    for path in deleted:
        delete(Path(f"{root}/{path}"))
    assert tree(lasting.parent / "outside") == outside
    shutil.rmtree(root)
    assert list(lasting.iterdir()) == [archive]


def delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_arbitrary_json(lasting: Path, data: st.DataObject) -> None:
    name, document = data.draw(
        st.sampled_from([("config.dump", CONFIG), ("spec.dump", SPEC), ("bind.mounts", BIND_MOUNTS)])
    )
    document = json.loads(json.dumps(document))
    paths = list(places_in(document))
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=2)):
        replace(document, path, data.draw(JSON))
    either_unpacks_or_refuses(replaced(name, text(document)), lasting)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the paths of all values in a JSON document, as keys and indices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from places_in(child, (*path, key))


def replace(document: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace the value at a path, unless an earlier change has removed the path."""
    try:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return
