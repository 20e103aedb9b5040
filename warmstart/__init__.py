"""warmstart: container images that are restored from a checkpoint instead of started cold."""

import os
from importlib.metadata import version

__version__ = version("warmstart")

# Read when grpc is imported. Its fork handlers start its threads in the child as well, where `sh` then closes their
# descriptors under them: now and then the child aborts before it has become the program that it was made for.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
