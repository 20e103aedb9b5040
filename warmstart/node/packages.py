"""Debian packages: the versions that were tested, and the versions that a mirror has given.

`packages.lock` lists, for each set of packages, every package with its version and the SHA-256 of its file. A mirror of
a suite under development has only the newest versions, so the list is compared with what was installed: apt has checked
the signature of the archive either way.
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
    """One package file.

    Attributes:
        name: its name.
        version: its version.
        sha256: the SHA-256 of the file.
    """

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.sha256}"


def parse_checksums(text: str) -> tuple[Package, ...]:
    """Read the output of sha256sum, given apt's archives: `NAME_VERSION_ARCHITECTURE.deb`."""
    packages = []
    for line in text.splitlines():
        sha256, _, file = line.partition("  ")
        name, version, _ = file.split("_")
        packages.append(Package(name, unquote(version), sha256))
    return tuple(sorted(packages))


def find_locked(name: str) -> tuple[Package, ...]:
    """The tested versions of a set of packages on this architecture; empty if none were tested."""
    return _read_lock(LOCK_FILE).get((name, find_architecture()), ())


def find_architecture() -> str:
    """This machine's architecture, as Debian names it."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def compare(locked: Iterable[Package], taken: Iterable[Package]) -> tuple[str, ...]:
    """How the packages that were taken differ from the tested ones; one line for each, none if they are the same."""
    before, after = ({package.name: package for package in packages} for packages in (locked, taken))
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
