"""Update warmstart/node/packages.lock to the package versions that the Debian mirror has now.

    scripts/lock_packages.py        (make lock; then run the tests)

Sections of other architectures stay unchanged.
"""

from __future__ import annotations

import re
import sys

from warmstart.core.workspace import open_workspace
from warmstart.node import hooks, launcher, programs, tree
from warmstart.node.cache import bootstrap
from warmstart.node.packages import LOCK_FILE, Package, find_architecture

HEAD = """\
# The versions of Debian packages that were tested: name, version, SHA-256 of the file. `make lock` writes this.
"""


def main() -> int:
    """Write the file."""
    sets = {
        tree.LOCK_NAME: tree.CONTENTS.packages,
        programs.LOCK_NAME: tree.CONTENTS.build_packages,
        launcher.LOCK_NAME: (launcher.find_sources() / "build-packages").read_text().split(),
        hooks.LOCK_NAME: hooks.list_packages(),
    }
    sections = read_others(LOCK_FILE.read_text())
    with open_workspace("lock") as workspace:
        for name, packages in sets.items():
            taken = bootstrap(workspace / name, tree.CONTENTS.suite, packages, print)
            sections[f"[{name} {find_architecture()}]"] = [*map(str, taken)]
    text = "".join(f"\n{title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in sorted(sections.items()))
    LOCK_FILE.write_text(HEAD + text)
    return 0


def read_others(text: str) -> dict[str, list[str]]:
    """Return the sections of other architectures by title."""
    sections: dict[str, list[str]] = {}
    for part in re.split(r"\n(?=\[)", text):
        title, *lines = part.strip().splitlines()
        if title.startswith("[") and not title.endswith(f" {find_architecture()}]"):
            sections[title] = [str(Package(*line.split())) for line in lines]
    return sections


if __name__ == "__main__":
    sys.exit(main())
