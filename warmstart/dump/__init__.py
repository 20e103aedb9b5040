"""CRIU's checkpoint: its archive, its image files, edits to it, and checks before it is made."""
