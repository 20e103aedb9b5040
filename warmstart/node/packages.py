"""Compare installed Debian packages with the tested versions.

`packages.lock` lists every package of each set with its version and the SHA-256 of its file. A mirror of a suite under
development has only the newest versions, so installed packages may differ from the list. apt checks the signature of
the archive either way.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

LOCK_FILE = Path(__file__).with_name("packages.lock")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SECTION = re.compile(r"^\[(?P<name>\S+) (?P<architecture>\S+)\]$")


@dataclass(frozen=True, order=True)
class Package:
    """A package, with the SHA-256 of its file."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.sha256}"


def parse_checksums(text: str) -> tuple[Package, ...]:
    """Parse the output of sha256sum for apt's archives, named `NAME_VERSION_ARCHITECTURE.deb`."""
    packages = []
    for line in text.splitlines():
        sha256, _, file = line.partition("  ")
        name, version, _ = file.split("_")
        packages.append(Package(name, unquote(version), sha256))
    return tuple(sorted(packages))


def find_locked(name: str) -> tuple[Package, ...]:
    """Return the tested versions of a set of packages on this architecture; empty if none were tested."""
    return _read_lock(LOCK_FILE).get((name, find_architecture()), ())


def find_architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def compare(locked: Iterable[Package], installed: Iterable[Package]) -> tuple[str, ...]:
    """Return one line for each installed package that differs from the tested one."""
    before, after = ({package.name: package for package in packages} for packages in (locked, installed))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if old and new and old.version == new.version:
            lines.append(f"{name} {new.version}: its file differs from the tested one")
        else:
            lines.append(f"{name} {old.version if old else '(none)'} -> {new.version if new else '(none)'}")
    return tuple(lines)


@functools.cache
def _read_lock(file: Path) -> dict[tuple[str, str], tuple[Package, ...]]:
    sections: dict[tuple[str, str], list[Package]] = {}
    section: list[Package] = []
    for line in file.read_text().splitlines():
        if match := _SECTION.match(line):
            section = sections.setdefault((match["name"], match["architecture"]), [])
        elif line and not line.startswith("#"):
            section.append(Package(*line.split()))
    return {key: tuple(sorted(packages)) for key, packages in sections.items()}
