"""Write the versions of Debian's packages that the tools in the cache are made of into warmstart/node/packages.lock.

    scripts/lock_packages.py        (make lock: after `warmstart node update` and the tests)

The sections of other architectures stay as they are.
"""

from __future__ import annotations

import re
import sys

from warmstart.cli import default_cache
from warmstart.node.launcher import ensure_launcher
from warmstart.node.packages import LOCK_FILE, Package, find_architecture
from warmstart.node.record import read_record
from warmstart.node.tree import ensure_tree, read_records

HEAD = """\
# The versions of Debian packages that were tested: name, version, SHA-256 of the file. `make lock` writes this.
"""


def main() -> int:
    """Write the file."""
    cache = default_cache()
    ensure_tree(cache, print)
    records = [record for _, record in read_records(cache)]
    records.append(read_record(ensure_launcher(cache, print).directory))
    sections = read_others(LOCK_FILE.read_text())
    for record in records:
        sections[f"[{record.lock} {find_architecture()}]"] = [*map(str, record.packages)]
    text = "".join(f"\n{title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in sorted(sections.items()))
    LOCK_FILE.write_text(HEAD + text)
    return 0


def read_others(text: str) -> dict[str, list[str]]:
    """The sections of other architectures, by their titles."""
    sections: dict[str, list[str]] = {}
    for part in re.split(r"\n(?=\[)", text):
        title, *lines = part.strip().splitlines()
        if title.startswith("[") and not title.endswith(f" {find_architecture()}]"):
            sections[title] = [str(Package(*line.split())) for line in lines]
    return sections


if __name__ == "__main__":
    sys.exit(main())
