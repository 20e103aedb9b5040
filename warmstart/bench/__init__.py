"""Cold and restored starts, measured."""
