"""Checks before the dump: what would not dump or restore, and how to fix it."""
