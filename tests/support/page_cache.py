"""The pages of a file that are in the page cache."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path


def find_cached_bytes(path: Path) -> int:
    """Return the number of a file's bytes that are in the page cache, without reading any; see mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        view = (ctypes.c_char * size).from_buffer(mapped)
        failed = libc.mincore(ctypes.byref(view), ctypes.c_size_t(size), pages)
        del view
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return sum(state & 1 for state in pages) * mmap.PAGESIZE
