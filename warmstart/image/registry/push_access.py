"""Whether a push would be let in: asked before there is anything to push.

A registry says so only when an upload is begun, which ko, crane and buildx do for the same reason. Nothing is sent, the
upload is taken back, and no repository or tag comes of it.
"""

from __future__ import annotations

import contextlib

from warmstart.core.errors import RegistryError
from warmstart.core.reference import Reference
from warmstart.image.registry.connection import Connection
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess

_GONE = (200, 202, 204, 404)


def check_push_access(reference: Reference, *, access: RegistryAccess = DEFAULT_ACCESS) -> None:
    """Begin an upload to the repository of `reference`, and cancel it.

    Args:
        reference: the image that is going to be pushed.
        access: registries without TLS, and the file of credentials.

    Raises:
        RegistryError: the registry refused, cannot be reached, or answers nonsense.
    """
    with Connection(reference, access) as connection:
        started = connection.call("POST", connection.url("blobs/uploads/"), f"push to {reference.name}", (202,))
        upload = connection.follow(started)
        # A registry forgets uploads by itself, and some let only administrators delete anything.
        with contextlib.suppress(RegistryError):
            connection.request("DELETE", upload, f"cancel an upload to {reference.name}", _GONE)
