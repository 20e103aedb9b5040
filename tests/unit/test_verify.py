"""Images that are to be verified are found where the user says, and told from those that warmstart did not make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout

from warmstart.cli import default_cache
from warmstart.core.errors import ImageError
from warmstart.core.steps import Silent, Steps
from warmstart.image.reference import parse_source
from warmstart.node.tree import tree_path
from warmstart.verify import verify_source


@pytest.mark.node
def test_a_relative_path_starts_at_the_current_directory(tmp_path, monkeypatch):
    cache = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    if os.geteuid() != 0 or not tree_path(cache).is_dir():
        pytest.skip("needs root and the tree of tools")
    make_layout(tmp_path / "app", tar_of(entry("app", b"x")), annotations={})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match="warmstart did not make it"):
        verify_source(parse_source("oci:app"), cache, (), None, Steps(Silent()))
