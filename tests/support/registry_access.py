"""Access to registries that tests start: all of them without TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from warmstart.core.reference import Reference
from warmstart.image.registry.credentials import RegistryAccess


@dataclass(frozen=True)
class PlainAccess(RegistryAccess):
    """Access without TLS to any registry."""

    def uses_plain_http(self, reference: Reference) -> bool:
        """Return True."""
        del reference
        return True


def http(auth_file: Path | None = None) -> RegistryAccess:
    """Return access without TLS, with the credentials of a file."""
    return PlainAccess(auth_file=auth_file)
