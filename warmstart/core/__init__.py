"""Shared by all rooms: errors, programs, temporary places, progress."""
