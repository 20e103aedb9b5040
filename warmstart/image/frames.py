"""Compress a stream into zstd frames that follow each other, several at a time.

Decompressors read them as one stream (RFC 8878, section 3.1). The threads of zstd itself make one frame, but copy the
stream twice, and wait for the thread that feeds them.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard

# At zstd's fastest level, these already take more than one thread can hash. Each needs two buffers.
_MOST_WORKERS = 8


class FrameCompressor:
    """Compresses a stream that is written to it piece by piece.

    Args:
        level: of zstd.
        frame_bytes: bytes of the stream in a frame. On two processors, up to six such buffers are needed.
        store: gets the frames in order, in the thread that writes.
    """

    def __init__(self, level: int, frame_bytes: int, store: Callable[[bytes], object]) -> None:
        self._level, self._frame_bytes, self._store = level, frame_bytes, store
        workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
        self._pool = ThreadPoolExecutor(workers)
        self._own = threading.local()
        # Two for each worker keep it busy while the stream is written to; the frames are stored in order.
        self._most = 2 * workers + 2
        self._waiting: deque[tuple[Future[bytes], memoryview]] = deque()
        self._free: list[memoryview] = []
        self._buffer = self._take_buffer()
        self._filled = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add a piece of the stream."""
        left = memoryview(data)
        while left:
            part = left[: self._frame_bytes - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == self._frame_bytes:
                self._waiting.append((self._pool.submit(self._compress, self._buffer), self._buffer))
                self._buffer, self._filled = self._take_buffer(), 0

    def finish(self) -> None:
        """Store the rest of the stream."""
        last = self._compress(self._buffer[: self._filled])
        while self._waiting:
            self._store_next()
        self._store(last)
        self._pool.shutdown()

    def abandon(self) -> None:
        """Store nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def _take_buffer(self) -> memoryview:
        """Return a buffer that no frame needs; wait for the first frame if there are enough."""
        if not self._free and len(self._waiting) + 1 < self._most:
            return memoryview(bytearray(self._frame_bytes))
        if not self._free:
            self._store_next()
        return self._free.pop()

    def _store_next(self) -> None:
        frame, buffer = self._waiting.popleft()
        self._store(frame.result())
        self._free.append(buffer)

    def _compress(self, content: memoryview) -> bytes:
        if not hasattr(self._own, "compressor"):
            self._own.compressor = zstandard.ZstdCompressor(level=self._level)
        compressed: bytes = self._own.compressor.compress(content)
        return compressed
