"""The recipe: read, checked, and turned into dataclasses."""
