"""What the processes of a dump execute, found in the layers of an image."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of

from warmstart.core.errors import ImageError
from warmstart.image import executables
from warmstart.image.executables import _Files


def collect(tmp_path: Path, *tars: bytes, wanted: str = "/usr/bin/app") -> dict[str, bytes]:
    files = _Files({wanted}, tmp_path)
    for tar in tars:
        files.collect(io.BytesIO(tar))
    return {path: file.read_bytes() for path, file in files.found.items()}


def test_what_lies_on_top_counts(tmp_path: Path) -> None:
    found = collect(tmp_path, tar_of(entry("./usr/bin/app", b"new")), tar_of(entry("usr/bin/app", b"old")))
    assert found == {"/usr/bin/app": b"new"}


def test_of_two_of_a_name_the_last_counts(tmp_path: Path) -> None:
    assert collect(tmp_path, tar_of(entry("usr/bin/app", b"1"), entry("usr/bin/app", b"2"))) == {"/usr/bin/app": b"2"}


def test_a_link_hides_what_lies_below(tmp_path: Path) -> None:
    link = tar_of(entry("usr/bin/app", type=tarfile.SYMTYPE, linkname="other"))
    assert collect(tmp_path, link, tar_of(entry("usr/bin/app", b"old"))) == {}


def test_what_is_copied_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executables, "_MOST_OF_ALL_FILES", 10)
    assert collect(tmp_path, tar_of(entry("usr/bin/app", b"x" * 11))) == {}


@pytest.mark.parametrize(("kind", "why"), [(b"L", "extended header"), (b"x", "extended header")])
def test_headers_of_headers_are_refused(tmp_path: Path, kind: bytes, why: str) -> None:
    name = entry("a", b"11 path=ab\n", type=kind)
    with pytest.raises(ImageError, match=why):
        collect(tmp_path, tar_of(*[name] * 2000, entry("x")))
