"""Edits to a dump, so that it restores anywhere and maps its memory from a file."""
