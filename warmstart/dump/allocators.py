"""Which memory may be mapped from a file, by what allocates it.

madvise(MADV_DONTNEED) on a private file mapping brings back the file's bytes instead of zeros. That is safe for an
allocator that does not rely on zeros there, or that gives memory back in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from warmstart.dump.contents import Mapping, Process

# A file that a process maps, by the beginning of its name, and the runtime that this makes it.
_SAFE_RUNTIMES = {
    "libjvm.so": "HotSpot",
    "libpython3": "CPython",
    "python3": "CPython",
    "node": "Node.js",
}
_UNSAFE_ALLOCATORS = {
    "libjemalloc": "jemalloc",
}


def choose_none(_process: Process, _mapping: Mapping, _layout: Sequence[Mapping]) -> str:
    """The policy that leaves everything alone."""
    return "the recipe says so"


def choose_safe(_process: Process, _mapping: Mapping, layout: Sequence[Mapping]) -> str:
    """The policy that moves only the memory of runtimes that are known not to rely on zeros."""
    names = {PurePosixPath(mapping.file).name for mapping in layout if mapping.file}
    for prefix, allocator in _UNSAFE_ALLOCATORS.items():
        if any(name.startswith(prefix) for name in names):
            return f"{allocator} relies on zeros"
    if any(name.startswith(prefix) for name in names for prefix in _SAFE_RUNTIMES):
        return ""
    return "its runtime is not known to be safe"
