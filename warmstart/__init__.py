"""warmstart: container images that are restored from a checkpoint instead of started cold."""

from importlib.metadata import version

__version__ = version("warmstart")
