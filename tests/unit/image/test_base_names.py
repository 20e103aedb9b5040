"""The names in directories of an image, from all of its layers."""

from __future__ import annotations

import hashlib
import tarfile

import pytest
from support.checkpoint_archive import entry, tar_of

from warmstart.image.base_names import find_names


@pytest.fixture
def find(layout):
    def call(directories, *layers):
        config = {"os": "linux", "architecture": "amd64"}
        config["rootfs"] = {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        }
        layout.list(layout.image(*layers, config=config))
        return find_names(layout.path, set(directories))

    return call


def test_names_are_those_of_all_layers(find):
    layers = (tar_of(entry("./etc/passwd"), entry("etc/ssl/cert")), tar_of(entry("etc/hosts"), entry("usr/bin/app")))
    assert find(["", "etc", "usr", "var"], *layers) == {
        "": {"etc", "usr"},
        "etc": {"passwd", "ssl", "hosts"},
        "usr": {"bin"},
        "var": set(),
    }


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([entry("etc/.wh.a")], {"b"}),
        ([entry("etc/c"), entry("etc/.wh..wh..opq")], {"c"}),
        ([entry(".wh.etc"), entry("etc/c")], {"c"}),
        ([entry("etc", type=tarfile.SYMTYPE, linkname="other")], set()),
        # The mark is of the layers below, not of its own.
        ([entry("etc/a"), entry("etc/.wh.a")], {"a", "b"}),
    ],
)
def test_marks_of_an_upper_layer_count(find, upper, left):
    assert find(["etc"], tar_of(entry("etc/a"), entry("etc/b")), tar_of(*upper))["etc"] == left


def test_nothing_is_read_for_no_directory(tmp_path):
    assert find_names(tmp_path / "missing", set()) == {}
