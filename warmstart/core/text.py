"""Text for people: sizes, durations, tables, and untrusted text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A table of the output; all text is printable.

    Attributes:
        title: its heading.
        columns: names of the columns; empty if the rows are names and values.
        rows: one cell for each column, or two cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def printable(text: str) -> str:
    """Return the text with unprintable characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """Return the same, with line ends kept."""
    return "\n".join(printable(line) for line in text.split("\n"))


def format_bytes(size_bytes: int) -> str:
    """Format a size in binary units."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = size_bytes / 1024
    for unit in ("KiB", "MiB"):
        # A value that would be rounded up to 1024.0 gets the next unit.
        if size < 1023.95:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def format_seconds(seconds: float) -> str:
    """Format a duration, in milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
