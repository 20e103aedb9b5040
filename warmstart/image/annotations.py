"""Annotations that record how an image was built and from which base; `warmstart inspect` and `verify` read them back.

`org.opencontainers.image.*` are the OCI image specification's (annotations.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime

CREATED = "org.opencontainers.image.created"
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"

PREFIX = "dev.warmstart."
#: Below PREFIX: which of `warmstart.core.cpu.FEATURES` the processor of the build has, with spaces between them.
CPU = "cpu"
#: Below PREFIX: the key of the build, `sha256:HEX`: a digest of the recipe, the base image and all else that decides
#: the result (`warmstart.build.key`).
BUILD_KEY = "build-key"
#: Below PREFIX: when the image expires, as in RFC 3339; only if the recipe has `image.maxAge`.
EXPIRES = "expires"
#: Below PREFIX: the manifest of the pod that a saved image restores.
POD_NOTE = "pod"
#: Below PREFIX: the secrets of the build that the image holds, by name and place (`warmstart.image.secrets.record`);
#: only if the build had secrets.
SECRETS = "secrets"
#: Below PREFIX: the types of the statements that the build attaches to the image and signs, with spaces between them;
#: only if it is signed.
STATEMENTS = "statements"
#: Below PREFIX: the kernel state of the application before the checkpoint (`warmstart.dump.state.document`); only if it
#: was known.
STATE = "state"


def created_now() -> dict[str, str]:
    """Return the annotation with the time of creation, which is now."""
    return {CREATED: datetime.now(UTC).isoformat(timespec="seconds")}


@dataclass(frozen=True)
class Provenance:
    """Origin of an image: versions, platform, recipe and edits.

    Attributes:
        version: version of warmstart.
        criu: version of CRIU.
        runtime: name and version of the container runtime.
        kernel: release of the kernel that the checkpoint was made on.
        architecture: architecture of the machine, in Go's terms (`amd64`).
        identity: identity of the dumped process; see `warmstart.dump.criu.fingerprint`.
        recipe: the recipe, as a JSON document.
        edits: the edits of the dump, as a JSON document.
    """

    version: str
    criu: str
    runtime: str
    kernel: str
    architecture: str
    identity: str
    recipe: str
    edits: str


def write_provenance(provenance: Provenance) -> dict[str, str]:
    """Return the provenance as annotations of a manifest."""
    return {PREFIX + field.name: getattr(provenance, field.name) for field in fields(provenance)}


def read_provenance(annotations: Mapping[str, str]) -> Provenance | None:
    """Read the provenance back; None for an image that warmstart did not make."""
    names = [field.name for field in fields(Provenance)]
    if any(PREFIX + name not in annotations for name in names):
        return None
    return Provenance(**{name: annotations[PREFIX + name] for name in names})
