"""Check push access before there is anything to push.

A registry checks access only when an upload starts; ko, crane and buildx do the same. Nothing is sent, the upload is
cancelled, and no repository or tag is created.
"""

from __future__ import annotations

import contextlib

from warmstart.core.errors import RegistryError
from warmstart.core.reference import Reference
from warmstart.image.registry.client import connect
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess

_GONE = (200, 202, 204, 404)


def check_push_access(reference: Reference, *, access: RegistryAccess = DEFAULT_ACCESS) -> None:
    """Start an upload to the repository of `reference`, and cancel it.

    Args:
        reference: the image to be pushed.
        access: registries without TLS, and the file of credentials.

    Raises:
        RegistryError: the registry refused, cannot be reached, or answers nonsense.
    """
    with connect(reference, access) as connection:
        started = connection.call("POST", connection.url("blobs/uploads/"), f"push to {reference.name}", (202,))
        upload = connection.follow(started)
        # Registries expire uploads, and some let only administrators delete.
        with contextlib.suppress(RegistryError):
            connection.request("DELETE", upload, f"cancel an upload to {reference.name}", _GONE)
