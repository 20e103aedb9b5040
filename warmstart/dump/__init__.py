"""CRIU's checkpoint: the archive it arrives in, its image files, and what would keep it from restoring."""
