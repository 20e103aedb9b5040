"""Checkpoint, save and move pods of a cluster."""
