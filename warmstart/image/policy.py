"""Whether this machine's image policy asks for signatures: containers-policy.json(5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from warmstart.core.reference import Reference

POLICY = "etc/containers/policy.json"
HOME_POLICY = ".config/containers/policy.json"
_ACCEPT = [{"type": "insecureAcceptAnything"}]


def accepts_anything(reference: Reference, root: Path = Path("/"), home: Path | None = None) -> bool:
    """Return whether the policy accepts an image of a registry without looking at it, as it does without a policy.

    The user's policy replaces the system's. A policy that cannot be read accepts nothing.

    Args:
        reference: the image.
        root: root directory of this machine.
        home: home directory; the user's if None.
    """
    for path in ((home or Path.home()) / HOME_POLICY, root / POLICY):
        if path.exists():
            try:
                return _find_requirements(json.loads(path.read_bytes()), reference) == _ACCEPT
            except (OSError, ValueError, AttributeError, RecursionError):
                return False
    return True


def _find_requirements(policy: Mapping[str, Any], reference: Reference) -> object:
    """Return the requirements of the narrowest scope that names the image."""
    scopes = policy.get("transports", {}).get("docker", {})
    for scope in _list_scopes(reference):
        if scope in scopes:
            return scopes[scope]
    return policy.get("default")


def _list_scopes(reference: Reference) -> Iterator[str]:
    """Yield the scopes of an image, the narrowest first (`PolicyConfigurationNamespaces` of containers/image)."""
    yield str(reference)
    name = reference.name
    while name:
        yield name
        name = name.rpartition("/")[0]
    host = reference.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"
    yield ""
