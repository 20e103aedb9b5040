"""The results of a build's steps, and the build report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warmstart.build.base import BaseImage
from warmstart.build.cold_start import ColdStart
from warmstart.build.hook_channel import HookProcess
from warmstart.build.hooks import document_hooks
from warmstart.build.secrets import SecretsFound, document_findings
from warmstart.build.verify import Restore
from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.progress import Progress
from warmstart.dump.archive.metadata import load_json
from warmstart.dump.edit.memory import MappedMemory
from warmstart.dump.edit.programs import Programs
from warmstart.dump.state.model import KernelState
from warmstart.image.annotations import Provenance
from warmstart.image.compose import Layer, Run
from warmstart.image.layout import Image
from warmstart.image.rootfs_diff import Completion
from warmstart.image.secrets.record import make_record
from warmstart.image.selfrestore.pack import Identity, read_manifest
from warmstart.probe.warmup import StepResult
from warmstart.recipe.model import Restorer


@dataclass(frozen=True)
class WarmState:
    """An application that is ready for its checkpoint.

    Attributes:
        identity: identity of its process; see `warmstart.dump.criu.fingerprint`.
        cold_s: seconds from the request to create the container until its probe first succeeded.
        programs: programs of its processes.
        cpu_features: features of its processor, from `warmstart.core.cpu.FEATURES`.
        state: its kernel state before the checkpoint.
        ports: TCP ports that it listens on, if the recipe has no probe.
        hooks: processes that have done hooks before the checkpoint, and have others after a restore.
        warmup: results of the steps of its warm-up.
    """

    identity: str
    cold_s: float
    programs: Programs
    cpu_features: tuple[str, ...]
    state: KernelState = field(default_factory=KernelState)
    ports: tuple[int, ...] = ()
    hooks: tuple[HookProcess, ...] = ()
    warmup: tuple[StepResult, ...] = ()


@dataclass(frozen=True)
class RuntimeCheckpoint:
    """A checkpoint by the runtime.

    Attributes:
        archive: the file.
        warm: the application.
        has_tmp: whether the container has a directory /tmp.
        completion: corrections to its changed files; None for none.
    """

    archive: Path
    warm: WarmState
    has_tmp: bool
    completion: Completion | None = None


@dataclass(frozen=True)
class SelfCheckpoint:
    """A dump by the launcher.

    Attributes:
        directory: the dump and its manifest, which no container can access.
        run: command of the image.
        changes: layer with the application's changes to its root filesystem.
        untouched: whether there are none, except those that the runtime makes in each container.
        warm: the application.
        environment: variables of the image and the recipe at the build.
    """

    directory: Path
    run: Run
    changes: Layer
    untouched: bool
    warm: WarmState
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """User and groups of the application at the dump."""
        return read_manifest(self.directory)


@dataclass(frozen=True)
class EditedDump:
    """An edited dump.

    Attributes:
        pages_bytes: size of its memory before the edit.
        closed_sockets: number of sockets that were closed.
        memory: result for the memory of each process.
        memory_layer: layer with the memory that was moved out of the dump, in the making; None if it all stayed.
        cleared_bytes: bytes on stacks that calls had left there which are over.
        files: paths of the files that the processes have mapped, if the image is to be lazy.
    """

    pages_bytes: int
    closed_sockets: int
    memory: MappedMemory
    memory_layer: Future[Layer] | None
    cleared_bytes: int = 0
    files: tuple[str, ...] = ()

    @property
    def edits(self) -> dict[str, object]:
        """Summary of the edits for the image's annotations; sizes in bytes."""
        processes = [
            {"pid": process.pid, "comm": process.comm, "mapped": process.moved_bytes, "left": dict(process.left_bytes)}
            for process in self.memory.processes
        ]
        return {
            "closedSockets": self.closed_sockets,
            "clearedStackBytes": self.cleared_bytes,
            "mappedBytes": self.memory.size_bytes,
            "dumpedBytes": self.pages_bytes,
            "processes": processes,
        }


@dataclass(frozen=True)
class BuildCandidate:
    """An image that was not restored yet.

    Attributes:
        layout: the layout that holds it.
        warm: the application that was checkpointed.
        dump: its dump.
        provenance: how it was built.
        cold: its cold start, if that is being observed already.
        restorers: who restores it, if not all of the recipe.
        obsolete: removes images from the engine's store that it was made with.
    """

    layout: Path
    warm: WarmState
    dump: EditedDump
    provenance: Provenance
    cold: ColdStart | None = None
    restorers: Sequence[Restorer] = ()
    obsolete: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class BuildResult:
    """A verified and published image.

    Attributes:
        name: the image's name.
        destination: its destination; see `describe_output`.
        cold_s: as in `WarmState`.
        restores: the restores of the verification.
        dump: its dump.
        image: its manifest and config.
        base: its base image.
        provenance: its provenance.
        secrets: the secrets that it holds.
        hooks: as in `WarmState`.
        warmup: as in `WarmState`.
    """

    name: str
    destination: str
    cold_s: float
    restores: tuple[Restore, ...]
    dump: EditedDump
    image: Image
    base: BaseImage
    provenance: Provenance
    secrets: SecretsFound = field(default_factory=SecretsFound)
    hooks: tuple[HookProcess, ...] = ()
    warmup: tuple[StepResult, ...] = ()

    @property
    def added_bytes(self) -> int:
        """Compressed size of the layers that were added to the base image."""
        return sum(layer.size_bytes for layer in self.image.manifest.layers[self.base.layers :])


def make_document(result: BuildResult, progress: Progress) -> Mapping[str, Any]:
    """Return the build report as a JSON object; sizes in bytes, times in seconds."""
    return {
        "status": "built",
        "image": result.name,
        "digest": result.image.manifest.digest,
        "destination": result.destination,
        "verified": datetime.now(UTC).isoformat(timespec="seconds"),
        "coldStartSeconds": result.cold_s,
        **({"warmup": curves} if (curves := document_curves(result.warmup)) else {}),
        **({"hooks": document_hooks(result.hooks)} if result.hooks else {}),
        "restores": [
            {
                "address": restore.address,
                "runtimeSeconds": restore.runtime_s,
                "firstSuccessSeconds": restore.first_success_s,
                "restorer": restore.restorer,
                **({} if restore.launcher_ms is None else {"launcherMilliseconds": restore.launcher_ms}),
                **({} if restore.hooks_ms is None else {"hooksMilliseconds": restore.hooks_ms}),
            }
            for restore in result.restores
        ],
        "edits": result.dump.edits,
        "addedBytes": result.added_bytes,
        "layers": [
            {"digest": layer.digest, "mediaType": layer.media_type, "sizeBytes": layer.size_bytes}
            for layer in result.image.manifest.layers
        ],
        "base": {"name": result.base.source.label, "digest": result.base.digest},
        "provenance": {name: value for name, value in asdict(result.provenance).items() if name != "recipe"},
        "secrets": make_record(result.secrets.record),
        "findings": document_findings(result.secrets),
        "stepSeconds": progress.durations_s,
        "warnings": progress.warnings,
    }


def document_curves(results: Sequence[StepResult]) -> list[Mapping[str, Any]]:
    """Return how the latency and the processor time of each step with `until` developed."""
    return [
        {
            "step": index,
            "steady": result.steady,
            "seconds": result.elapsed_s,
            "batches": [
                {
                    "attempts": batch.attempts,
                    "medianSeconds": batch.latency_s,
                    "processorSeconds": batch.cpu_s,
                    "compilerSeconds": batch.compiling_s,
                }
                for batch in result.batches
            ],
        }
        for index, result in enumerate(results)
        if result.batches
    ]


@dataclass(frozen=True)
class Report:
    """The verification in a build report that is attached to an image in a registry.

    Attributes:
        verified: its time, as in RFC 3339; may be empty.
        runtime: name and version of the runtime that restored the image.
        criu: version of CRIU.
        kernel: release of the kernel.
        cold_s: seconds of the cold start in the same build.
        restored_s: seconds of each restore until the first success of the probe.
    """

    verified: str
    runtime: str
    criu: str
    kernel: str
    cold_s: float
    restored_s: tuple[float, ...]


def parse_report(document: bytes) -> Report:
    """Parse a build report. It is untrusted: anyone who can push may have attached it.

    Raises:
        ImageError: the document is not a build report.
    """
    try:
        found: Any = load_json(document, "the report")
        provenance = found["provenance"]
        return Report(
            verified=str(found.get("verified", "")),
            runtime=str(provenance["runtime"]),
            criu=str(provenance["criu"]),
            kernel=str(provenance["kernel"]),
            cold_s=_read_seconds(found["coldStartSeconds"]),
            restored_s=tuple(_read_seconds(restore["firstSuccessSeconds"]) for restore in found["restores"]),
        )
    except ArchiveError as error:
        raise ImageError(error.brief) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImageError(f"not a build report of warmstart: {error!r}") from error


def _read_seconds(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)
