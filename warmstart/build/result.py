"""What a build brings about, step by step: frozen, and in the end a document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warmstart.build.verify import Restore
from warmstart.core.errors import ArchiveError, ImageError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source
from warmstart.dump.archive.metadata import load_json
from warmstart.dump.edit.memory import MappedMemory
from warmstart.dump.edit.programs import Programs
from warmstart.dump.proc.restrictions import Restrictions
from warmstart.image.annotations import Provenance
from warmstart.image.compose import Layer, Run
from warmstart.image.layout import Image
from warmstart.image.selfrestore.pack import Identity, read_manifest
from warmstart.node.launcher import LauncherPrograms


@dataclass(frozen=True)
class BaseImage:
    """The base image: where it came from, the digest of its manifest, the layout it is in now, how many layers."""

    source: Source
    digest: str
    layout: Path
    layers: int


@dataclass(frozen=True)
class WarmState:
    """An application that is ready to be checkpointed.

    Attributes:
        identity: of its process; see `warmstart.dump.criu.fingerprint`.
        cold_s: seconds from the request to create the container until its probe first succeeded.
        programs: what its processes execute.
        cpu_features: those of `warmstart.core.cpu.FEATURES` that the processor it runs on has.
        restrictions: of its threads, by their number in the container; see `warmstart.dump.proc.restrictions`.
    """

    identity: str
    cold_s: float
    programs: Programs
    cpu_features: tuple[str, ...]
    restrictions: Mapping[int, Restrictions] = field(default_factory=dict)


@dataclass(frozen=True)
class RuntimeCheckpoint:
    """A checkpoint that the runtime took.

    Attributes:
        archive: the file.
        warm: what was checkpointed.
        has_tmp: whether there is a directory /tmp in the container.
    """

    archive: Path
    warm: WarmState
    has_tmp: bool


@dataclass(frozen=True)
class SelfCheckpoint:
    """A dump that the launcher took.

    Attributes:
        directory: what the launcher left; no container has ever seen it.
        programs: the launcher and its CRIU.
        run: how the image is to be started.
        changes: the layer of what the application had changed in its root file system.
        warm: what was dumped.
    """

    directory: Path
    programs: LauncherPrograms
    run: Run
    changes: Layer
    warm: WarmState

    @property
    def identity(self) -> Identity:
        """Whom it was dumped as."""
        return read_manifest(self.directory)


@dataclass(frozen=True)
class EditedDump:
    """A dump that has been edited.

    Attributes:
        pages_bytes: the memory that it held before.
        closed_sockets: how many sockets were made plain.
        memory: what became of the memory.
        memory_file: the memory that was moved out of it; None when none was.
    """

    pages_bytes: int
    closed_sockets: int
    memory: MappedMemory
    memory_file: Path | None

    @property
    def edits(self) -> dict[str, object]:
        """What was edited, for the image's annotations; sizes in bytes."""
        processes = [
            {"pid": process.pid, "comm": process.comm, "mapped": process.moved_bytes, "left": dict(process.left_bytes)}
            for process in self.memory.processes
        ]
        return {
            "closedSockets": self.closed_sockets,
            "mappedBytes": self.memory.size_bytes,
            "dumpedBytes": self.pages_bytes,
            "processes": processes,
        }


@dataclass(frozen=True)
class BuildCandidate:
    """An image that was made, and not seen to restore yet: the layout it is in, what was checkpointed, and how."""

    layout: Path
    warm: WarmState
    dump: EditedDump
    provenance: Provenance


@dataclass(frozen=True)
class BuildResult:
    """An image that was built, seen to restore, and published.

    Attributes:
        name: the image's name.
        destination: where it was put.
        cold_s: as in `WarmState`.
        restores: the restores that were seen.
        dump: what was dumped, and how it was edited.
        image: its manifest and config.
        base: what it was built from.
        provenance: and how.
    """

    name: str
    destination: str
    cold_s: float
    restores: tuple[Restore, ...]
    dump: EditedDump
    image: Image
    base: BaseImage
    provenance: Provenance

    @property
    def added_bytes(self) -> int:
        """The compressed size of the layers that the base image does not have."""
        return sum(layer.size_bytes for layer in self.image.manifest.layers[self.base.layers :])


def make_document(built: BuildResult, progress: Progress) -> Mapping[str, Any]:
    """Everything, for `--json`; sizes in bytes, times in seconds."""
    return {
        "status": "built",
        "image": built.name,
        "digest": built.image.manifest.digest,
        "destination": built.destination,
        "verified": datetime.now(UTC).isoformat(timespec="seconds"),
        "coldStartSeconds": built.cold_s,
        "restores": [
            {
                "address": restore.address,
                "runtimeSeconds": restore.runtime_s,
                "firstSuccessSeconds": restore.first_success_s,
                "restorer": restore.restorer,
                **({} if restore.launcher_ms is None else {"launcherMilliseconds": restore.launcher_ms}),
            }
            for restore in built.restores
        ],
        "edits": built.dump.edits,
        "addedBytes": built.added_bytes,
        "layers": [
            {"digest": layer.digest, "mediaType": layer.media_type, "sizeBytes": layer.size_bytes}
            for layer in built.image.manifest.layers
        ],
        "base": {"name": built.base.source.label, "digest": built.base.digest},
        "provenance": {name: value for name, value in asdict(built.provenance).items() if name != "recipe"},
        "stepSeconds": progress.durations_s,
        "warnings": progress.warnings,
    }


@dataclass(frozen=True)
class Report:
    """How an image was seen to restore, as the document says that is attached to it in a registry.

    Attributes:
        verified: when, as in RFC 3339; may be empty.
        runtime: name and version of the runtime that restored it.
        criu: version of CRIU.
        kernel: release of the kernel.
        cold_s: seconds of the cold start that was measured beside it.
        restored_s: of each restore, until the first success of the probe.
    """

    verified: str
    runtime: str
    criu: str
    kernel: str
    cold_s: float
    restored_s: tuple[float, ...]


def parse_report(document: bytes) -> Report:
    """Read what `make_document` made, of which anybody may have made another thing.

    Raises:
        ImageError: it is not such a document.
    """
    try:
        found: Any = load_json(document, "the report")
        made = found["provenance"]
        return Report(
            verified=str(found.get("verified", "")),
            runtime=str(made["runtime"]),
            criu=str(made["criu"]),
            kernel=str(made["kernel"]),
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
