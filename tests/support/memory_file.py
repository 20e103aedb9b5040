"""The memory of a dump in a file of its own, as it is in an image."""

from __future__ import annotations

import stat
from pathlib import Path

from warmstart.dump.edit.memory import MappedMemory, MemoryContent, map_memory


def map_to_file(dump: Path, file: Path, **options: object) -> MappedMemory:
    """Call `map_memory`, and write the content; there is no file without memory."""

    def store(content: MemoryContent) -> None:
        with file.open("xb") as out:
            out.writelines(content)
        file.chmod(stat.S_IMODE(content.mode))
        content.close()

    return map_memory(dump, store, **options)
