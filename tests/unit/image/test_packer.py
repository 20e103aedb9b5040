"""Layers of memory that are made in the background."""

from __future__ import annotations

import threading

from warmstart.core.workers import StoppedError
from warmstart.image.packer import Packer
from warmstart.recipe.model import Compression


def test_it_stops_with_the_build(tmp_path):
    """Neither a layer that is being made nor one that waits keeps files open or leaves any behind."""
    begun = threading.Event()

    class Slow:
        size_bytes, mode = 1 << 40, 0o400
        closed = False

        def __iter__(self):
            while True:
                begun.set()
                yield bytes(4096)

        def close(self):
            self.closed = True

    contents, packer = [Slow(), Slow()], Packer()
    futures = [packer.pack_memory(one, "memory", (0, 0), tmp_path, Compression.FAST) for one in contents]
    assert begun.wait(60)
    packer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert isinstance(futures[0].exception(), StoppedError)
    assert futures[1].cancelled()
    assert [one.closed for one in contents] == [True, True]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_waits_until_the_content_is_closed(tmp_path):
    """To close a file that is no longer on the disk frees its blocks: 40 ms for 130 MiB."""
    may_begin, may_close, closed = threading.Event(), threading.Event(), threading.Event()

    class Content:
        size_bytes, mode = 4096, 0o400

        def __iter__(self):
            may_begin.wait(60)
            yield bytes(4096)

        def close(self):
            may_close.wait(60)
            closed.set()

    with Packer() as packer:
        layer = packer.pack_memory(Content(), "memory", (0, 0), tmp_path, Compression.FAST)
        may_begin.set()
    assert layer.done()
    assert not closed.is_set()
    may_close.set()
    assert closed.wait(60)
