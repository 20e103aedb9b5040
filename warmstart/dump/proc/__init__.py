"""Readers of a running container's state in /proc."""
