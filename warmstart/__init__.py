"""warmstart: container images that are restored from a checkpoint instead of started cold."""

import os

__version__: str

# Read when grpc is imported. Its fork handlers start its threads in the child as well, where `sh` then closes their
# descriptors under them: now and then the child aborts before it has become the program that it was made for.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


def __getattr__(name: str) -> str:
    """Return the version, from the package's metadata: reading it takes a fifth of the start of a short command."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    globals()[name] = version("warmstart")
    return str(globals()[name])
