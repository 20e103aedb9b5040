"""Marks in a layer for what it removes from the layers below it. Source: layer.md of the OCI image specification."""

from __future__ import annotations

#: Beginning of the name of a mark; the rest is the name of the removed file.
WHITEOUT = ".wh."
#: Name of the mark in a directory of which everything below is removed.
OPAQUE = ".wh..wh..opq"


def mark_removed(name: str) -> str:
    """Return the path of the mark for a removed path."""
    parent, _, last = name.rpartition("/")
    return f"{parent}/{WHITEOUT}{last}".lstrip("/")
