"""Streams that are compressed frame by frame."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest
import zstandard

from warmstart.image.frames import FrameCompressor

FRAME = 1000


def compress(content: bytes, *cuts: int) -> list[bytes]:
    """The frames of a stream that is written in pieces with these ends."""
    frames: list[bytes] = []
    compressor = FrameCompressor(1, FRAME, frames.append)
    for start, end in pairwise([0, *cuts, len(content)]):
        compressor.write(memoryview(content)[start:end])
    compressor.finish()
    return frames


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 20 * FRAME + 7])
def test_frames_follow_each_other_in_order(size):
    """There are more than buffers, so each buffer holds several of them one after the other."""
    content = random.Random(size).randbytes(size)
    frames = compress(content, size // 3, size // 2)
    parts = [zstandard.ZstdDecompressor().decompress(frame) for frame in frames]
    assert b"".join(parts) == content
    assert all(len(part) == FRAME for part in parts[:-1])


def test_frames_depend_on_the_content_alone():
    content = bytes(range(256)) * 30
    assert compress(content) == compress(content, *range(1, len(content), 77))


def test_a_short_stream_starts_no_thread():
    before = threading.active_count()
    compressor = FrameCompressor(1, FRAME, lambda _: None)
    compressor.write(bytes(FRAME - 1))
    assert threading.active_count() == before
    compressor.finish()


def test_no_thread_is_left():
    before = threading.active_count()
    compress(bytes(5 * FRAME))
    left = FrameCompressor(1, FRAME, lambda _: None)
    left.write(bytes(3 * FRAME))
    left.abandon()
    assert threading.active_count() == before
