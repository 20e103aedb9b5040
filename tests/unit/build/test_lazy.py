"""The files that a snapshotter fetches at once of an image that is pulled lazily."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout

from warmstart.build.lazy import make_lazy
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport
from warmstart.image.chunk_format import TOC
from warmstart.image.lazy_layer import LANDMARK
from warmstart.image.open import open_image
from warmstart.recipe.model import Compression, Lazy

SOURCES = Path(__file__).parents[3] / "launcher/src"
# A directory for mounts, and one of agents, which the application has mapped or not.
NOT_READ = {"proc", "hooks"}


def find_read_by_launcher() -> set[str]:
    """Return the names below /.warmstart in the launcher's source."""
    sources = (path.read_text() for path in SOURCES.glob("*.[ch]"))
    return {name for source in sources for name in re.findall(r'WARMSTART_DIR "/([\w-]+)"', source)} - NOT_READ


def test_all_that_the_launcher_reads_is_fetched_at_once(tmp_path):
    read = {f".warmstart/{name}" for name in find_read_by_launcher()}
    assert ".warmstart/read-ahead" in read
    members = (entry(name, b"x") for name in ("etc/other", *read))
    layout = make_layout(tmp_path / "image", tar_of(*members), annotations={})
    recipe = SimpleNamespace(lazy=Lazy.ESTARGZ, compression=Compression.FAST)
    context = SimpleNamespace(workspace=tmp_path, recipe=recipe, progress=Progress(SilentListener()))
    lazy = make_lazy(context, layout, mapped=())
    with open_image(Source(Transport.OCI, path=lazy)) as opened:
        [layer] = opened.image.manifest.layers
        with opened.open_layer(layer) as content, tarfile.open(fileobj=content, mode="r|") as tar:
            names = tar.getnames()
    assert set(names[: names.index(LANDMARK)]) == read
    assert names[names.index(LANDMARK) :] == [LANDMARK, "etc/other", TOC]
