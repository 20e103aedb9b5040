"""Make a layer of memory while the rest of the dump is edited and packed."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from warmstart.core.workers import StoppedError
from warmstart.dump.edit.memory import MemoryContent
from warmstart.image.compose import Layer, pack_file
from warmstart.recipe.model import Compression


class Packer:
    """A thread that makes layers, for the length of a `with` block. If the block fails, it stops early."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._layers: list[Future[Layer]] = []
        self._stopped = False

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped = kind is not None
        if not self._stopped:
            wait(self._layers)
        # Nobody waits for the thread: to close the content frees the blocks of a file that the edits have replaced.
        self._executor.shutdown(wait=self._stopped, cancel_futures=self._stopped)

    def pack_memory(
        self, content: MemoryContent, name: str, owner: tuple[int, int], layout: Path, compression: Compression
    ) -> Future[Layer]:
        """Begin to make the layer of the memory file.

        Args:
            content: of the file; it is closed in the end.
            name: its path in the image, without a leading slash.
            owner: its user and group ids in the image.
            layout: where the layer goes.
            compression: of the layer.

        Returns:
            The layer. Its future raises ArchiveError if the content cannot be read.
        """
        file = tarfile.TarInfo(name)
        file.size, file.mode = content.size_bytes, stat.S_IMODE(content.mode)
        file.uid, file.gid = owner
        future = self._executor.submit(pack_file, file, self._read(content), layout, compression)
        future.add_done_callback(lambda _: content.close())
        self._layers.append(future)
        return future

    def _read(self, content: MemoryContent) -> Iterator[bytes | memoryview]:
        for piece in content:
            if self._stopped:
                raise StoppedError
            yield piece
