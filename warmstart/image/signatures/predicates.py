"""The types of the statements that a build attaches to its image."""

from __future__ import annotations

PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
VERIFICATION = "https://warmstart.dev/verification/v1"

OWN_TYPES = frozenset({PROVENANCE, SBOM, VERIFICATION})
