"""What a build has to say at its end: as rows for a table, and as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from warmstart.build import Built
from warmstart.core.steps import Steps
from warmstart.terminal import format_bytes, format_seconds

# Steps whose length is the application's or the network's doing, not warmstart's.
NOT_OURS = ("tools", "pull", "ready", "warm up", "publish")


def list_rows(built: Built, steps: Steps) -> list[tuple[str, str]]:
    """Names and values, the most wanted first."""
    restored_s = median(restore.first_success_s for restore in built.restores)
    layers = built.image.manifest.layers
    return [
        ("image", built.name),
        ("digest", built.image.manifest.digest),
        ("published", built.destination),
        ("cold start", f"{format_seconds(built.cold_s)} to the first success of the probe"),
        ("restored start", f"{format_seconds(restored_s)} (median of {len(built.restores)})"),
        ("ratio", f"{built.cold_s / restored_s:.1f} × faster"),
        (
            "memory",
            f"{format_bytes(built.dump.pages_bytes)}, of which {format_bytes(built.dump.memory.size_bytes)} are mapped",
        ),
        ("size", f"{format_bytes(sum(layer.size_bytes for layer in layers))} compressed, in {len(layers)} layers"),
        ("added", f"{format_bytes(built.added_bytes)} to the base image"),
        ("own cost", _own_cost(steps)),
    ]


def _own_cost(steps: Steps) -> str:
    own = {name: seconds for name, seconds in steps.durations_s.items() if name not in NOT_OURS}
    parts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in own.items())
    return f"{format_seconds(sum(own.values()))}: {parts}"


def make_document(built: Built, steps: Steps) -> Mapping[str, Any]:
    """Everything, for `--json`; sizes in bytes, times in seconds."""
    return {
        "image": built.name,
        "digest": built.image.manifest.digest,
        "destination": built.destination,
        "coldStartSeconds": built.cold_s,
        "restores": [
            {
                "address": restore.address,
                "runtimeSeconds": restore.runtime_s,
                "firstSuccessSeconds": restore.first_success_s,
            }
            for restore in built.restores
        ],
        "edits": built.dump.edits,
        "addedBytes": built.added_bytes,
        "layers": [
            {"digest": layer.digest, "mediaType": layer.media_type, "sizeBytes": layer.size_bytes}
            for layer in built.image.manifest.layers
        ],
        "base": {"name": str(built.base.source), "digest": built.base.digest},
        "provenance": {name: value for name, value in asdict(built.provenance).items() if name != "recipe"},
        "stepSeconds": steps.durations_s,
        "warnings": steps.warnings,
    }
