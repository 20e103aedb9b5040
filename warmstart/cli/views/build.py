"""The results of builds, as tables and as documents for `--json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from warmstart.build.batch import Outcome, Status
from warmstart.build.existing import ExistingImage
from warmstart.build.result import BuildResult, make_document
from warmstart.build.verify import Restore
from warmstart.cli.views.error import make_failure_document
from warmstart.core.progress import Progress
from warmstart.core.text import Section, format_bytes, format_seconds

# Steps whose duration depends on the application or the network.
NOT_OURS = ("tools", "pull", "ready", "warm up", "publish")
# Digits of a digest in a table.
_SHORT_DIGEST = 12


def list_rows(built: BuildResult, progress: Progress) -> list[tuple[str, str]]:
    """List names and values, the most important first."""
    restored_s = median(restore.first_success_s for restore in built.restores)
    by_runtime = [restore for restore in built.restores if restore.launcher_ms is None]
    by_itself = [restore for restore in built.restores if restore.launcher_ms is not None]
    layers = built.image.manifest.layers
    return [
        ("image", built.name),
        ("digest", built.image.manifest.digest),
        ("published", built.destination),
        ("cold start", f"{format_seconds(built.cold_s)} to the first success of the probe"),
        *_list_restores("restored start", by_runtime),
        *_list_restores("restored by itself", by_itself),
        ("ratio", f"{built.cold_s / restored_s:.1f} × faster"),
        (
            "memory",
            f"{format_bytes(built.dump.pages_bytes)}, of which {format_bytes(built.dump.memory.size_bytes)} are mapped",
        ),
        ("size", f"{format_bytes(sum(layer.size_bytes for layer in layers))} compressed, in {len(layers)} layers"),
        ("added", f"{format_bytes(built.added_bytes)} to the base image"),
        ("own cost", _own_cost(progress)),
    ]


def make_build_document(built: BuildResult | ExistingImage, progress: Progress) -> Mapping[str, Any]:
    """Return the document of a build for `--json`; its key `status` tells whether an image was built."""
    return make_document(built, progress) if isinstance(built, BuildResult) else built.document


def describe_outcome(outcome: Outcome[BuildResult | ExistingImage]) -> str:
    """Return how one of several builds ended, in a few words."""
    if outcome.error:
        return f"failed ({outcome.error.kind}, code {outcome.error.exit_code})"
    if outcome.status is Status.SKIPPED:
        return "stopped"
    return "built" if isinstance(outcome.result, BuildResult) else "up to date"


def make_outcomes_section(outcomes: Sequence[Outcome[BuildResult | ExistingImage]]) -> Section:
    """Return the table of several builds."""
    columns = ("recipe", "result", "took", "restored", "image", "digest")
    return Section("", columns, tuple(map(_list_cells, outcomes)))


def make_outcome_document(outcome: Outcome[BuildResult | ExistingImage]) -> Mapping[str, Any]:
    """Return the document of one of several builds: its recipe, and its result as for a single build, or its error."""
    if outcome.error:
        return make_failure_document(outcome.label, outcome.error)
    if outcome.result is None:
        return {"recipe": outcome.label, "status": "stopped"}
    return {"recipe": outcome.label, **make_build_document(outcome.result, outcome.progress)}


def _list_cells(outcome: Outcome[BuildResult | ExistingImage]) -> tuple[str, ...]:
    built, restored, image, digest = outcome.result, "", "", ""
    if isinstance(built, BuildResult):
        restored = format_seconds(median(restore.first_success_s for restore in built.restores))
        image, digest = built.name, built.image.manifest.digest
    elif built:
        image, digest = str(built.name), built.digest
    took = format_seconds(outcome.seconds) if outcome.seconds else ""
    return outcome.label, describe_outcome(outcome), took, restored, image, digest.partition(":")[2][:_SHORT_DIGEST]


def _list_restores(name: str, restores: Sequence[Restore]) -> Iterator[tuple[str, str]]:
    if not restores:
        return
    value = f"{format_seconds(median(restore.first_success_s for restore in restores))} (median of {len(restores)}"
    took = [restore.launcher_ms for restore in restores if restore.launcher_ms is not None]
    hooks = [restore.hooks_ms for restore in restores if restore.hooks_ms is not None]
    value += f"; of it the launcher {median(took):.0f} ms" if took else ""
    yield name, value + (f", hooks {median(hooks):.0f} ms)" if hooks else ")")


def _own_cost(progress: Progress) -> str:
    own = {name: seconds for name, seconds in progress.durations_s.items() if name not in NOT_OURS}
    parts = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in own.items())
    return f"{format_seconds(sum(own.values()))}: {parts}"
