"""Checkpoint archives: untrusted tar files, checked before anything is unpacked."""
