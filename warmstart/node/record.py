"""Record the origin of a directory in the cache: its time, its packages and the programs compiled for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from warmstart.core.errors import HostError
from warmstart.core.text import Section
from warmstart.node.packages import Package, compare, find_locked

RECORD = ".made"
# The packages that a build uses directly; the others are their dependencies.
_NAMED = ("buildah", "conmon", "criu", "crun", "gcc", "golang-go", "libc6", "skopeo")


@dataclass(frozen=True)
class Record:
    """The origin of a directory in the cache.

    Attributes:
        made_at: time of its creation, in UTC.
        lock: name of its set of packages in the lock file.
        packages: installed packages.
        programs: versions of the compiled programs.
    """

    made_at: datetime
    lock: str
    packages: tuple[Package, ...]
    programs: Mapping[str, str] = field(default_factory=dict)

    @property
    def differences(self) -> tuple[str, ...]:
        """Differences from the tested packages; see `compare`."""
        return compare(find_locked(self.lock), self.packages)

    def find_version(self, package: str) -> str:
        """Return the version of a package; empty if it is not installed."""
        return next((one.version for one in self.packages if one.name == package), "")


def make_record(lock: str, packages: Sequence[Package], programs: Mapping[str, str]) -> Record:
    """Return a record with the current time."""
    return Record(datetime.now(UTC).replace(microsecond=0), lock, tuple(packages), programs)


def write_record(directory: Path, record: Record) -> None:
    """Write a record into its directory."""
    document = asdict(record) | {"made_at": record.made_at.isoformat(), "packages": list(map(str, record.packages))}
    (directory / RECORD).write_text(json.dumps(document, indent=1))


def read_record(directory: Path) -> Record:
    """Read the record of a directory.

    Raises:
        HostError: the record is missing or damaged.
    """
    try:
        document = json.loads((directory / RECORD).read_text())
        packages = tuple(Package(*line.split()) for line in document["packages"])
        made_at = datetime.fromisoformat(document["made_at"])
        return Record(made_at, document["lock"], packages, document["programs"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = "warmstart node remove && warmstart node setup"
        raise HostError(f"cannot read the record of {directory}: it is missing or damaged", hint=hint) from error


def list_tools(records: Sequence[tuple[Path, Record]]) -> list[Section]:
    """Return tables for the terminal: contents of the cache, and packages that differ from the tested versions."""
    rows = []
    for path, record in records:
        versions = [f"{name} {version}".strip() for name, version in record.programs.items()]
        versions += [f"{package.name} {package.version}" for package in record.packages if package.name in _NAMED]
        rows.append((path.name, _format_age(record.made_at), ", ".join(versions)))
    sections = [Section("", ("made", "age", "versions"), tuple(rows))]
    if lines := sorted({line for _, record in records for line in record.differences}):
        differing = tuple(_split(line) for line in lines)
        sections.append(Section("Packages that differ from the tested versions", ("package", ""), differing))
    return sections


def make_record_document(path: Path, record: Record) -> dict[str, Any]:
    """Return a record as a JSON object."""
    return {
        "path": str(path),
        "madeAt": record.made_at.isoformat(),
        "programs": dict(record.programs),
        "packages": [asdict(package) for package in record.packages],
        "untested": list(record.differences),
    }


def _format_age(made_at: datetime) -> str:
    days = (datetime.now(UTC) - made_at).days
    return "today" if days < 1 else f"{days} days"


def _split(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(" ")
    return name, rest
