"""Let restored processes read single pages of files, so that their page tables show the pages that they touch.

With MADV_RANDOM, a page fault reads its own page alone (`do_sync_mmap_readahead` in mm/filemap.c of Linux). CRIU gives
the same advice again at a restore. It is for one look only: reading all of a memory in this way would take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import VmaStatus
from warmstart.dump.criu.entries import edit_image

_MADV_RANDOM = 1


def read_single_pages(directory: Path) -> list[Path]:
    """Advise random access for all private mappings of files in a dump, and return the edited files.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    return [path for path in sorted(directory.glob("mm-*.img")) if edit_image(path, protos.Mm, _advise)]


def _advise(mm: Any) -> bool:
    mappings = [vma for vma in mm.vmas if vma.status & VmaStatus.FILE_PRIVATE]
    for vma in mappings:
        vma.madv |= 1 << _MADV_RANDOM
    return bool(mappings)
