"""Text for people: sizes, durations, tables, and what came from who knows where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """Part of what is shown; all text is printable.

    Attributes:
        title: what it is about.
        columns: the names of the columns; none where the rows are names and values.
        rows: as many cells in each as there are columns; two where there are none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def printable(text: str) -> str:
    """The text with escapes in the place of what is not printable."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """As `printable`, but lines stay lines."""
    return "".join(f"{printable(line)}\n" for line in text.removesuffix("\n").split("\n"))


def format_bytes(size_bytes: int) -> str:
    """A size for people, in binary units."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = size_bytes / 1024
    for unit in ("KiB", "MiB"):
        # What would be rounded up to 1024.0 is one of the next unit.
        if size < 1023.95:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def format_seconds(seconds: float) -> str:
    """A duration for people: milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
