"""Checkpoint archives: untrusted tar files, read without being unpacked by name."""
