"""CRIU's image files: entries, messages, and the process tree they describe."""
