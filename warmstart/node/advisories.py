"""Tell whether runc, crun and CRIU have the fixes of November 2026 for crafted links in images.

An image with links as mount destinations could make a restore mount any host directory into the container. See
https://github.com/opencontainers/runc/security/advisories/GHSA-g2c3-j8g3-7gpw, GHSA-2mxx-58qc-p466 of crun and
GHSA-7ww7-53q2-wrwx of CRIU. A distribution may have backported the fix to an older version; the version
number does not show it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Advisory:
    """A vulnerability of a program.

    Attributes:
        program: program name.
        cve: CVE number.
        fixed: first fixed version of each branch.
        affected: newest version known to be affected, if no fixed version is known.
    """

    program: str
    cve: str
    fixed: tuple[str, ...] = ()
    affected: str = ""

    @property
    def rule(self) -> str:
        """The fixed versions, as a phrase."""
        if self.fixed:
            return f"fixed in {', '.join(self.fixed)}"
        return f"{self.affected} and older are affected"

    def is_fixed(self, version: str) -> bool | None:
        """Tell whether a version, such as `1.3.6+ds1-1`, has the fix; None if unknown."""
        found = _parse(version)
        if not found:
            return None
        if not self.fixed:
            return False if found <= _parse(self.affected) else None
        branches = sorted(map(_parse, self.fixed))
        for fixed in branches:
            if found[:2] == fixed[:2]:
                return found >= fixed
        return found > branches[-1]

    def describe(self, version: str) -> str:
        """Describe the status of a version; an empty string means an unknown version."""
        if not version:
            return f"unknown version; {self.cve}: {self.rule}"
        words = {True: "has the fix for", False: "lacks the fix for", None: "may lack the fix for"}
        return f"{version} {words[self.is_fixed(version)]} {self.cve} ({self.rule})"


RUNC = Advisory("runc", "CVE-2026-119101", fixed=("1.3.7", "1.4.4", "1.5.3"))
CRUN = Advisory("crun", "CVE-2026-115520", affected="1.28")
CRIU = Advisory("criu", "CVE-2026-119614", fixed=("4.3.1",))
ADVISORIES = (RUNC, CRUN, CRIU)


def find_version(output: str) -> str:
    """Return the version in the output of `--version`: `runc version 1.5.3`, `crun version 1.28`, `Version: 4.2.1`."""
    match = re.search(r"[Vv]ersion:? +v?(\d[\w.+~-]*)", output)
    return match[1] if match else ""


def _parse(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; empty if it does not start with a number."""
    match = _NUMBERS.match(version.removeprefix("v"))
    return tuple(map(int, match[0].split("."))) if match else ()
