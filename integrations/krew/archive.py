"""Build the archive for Krew, reproducibly: `python integrations/krew/archive.py kubectl-warmstart.zip`.

Prints its SHA-256, for warmstart.yaml in this directory.
"""

from __future__ import annotations

import hashlib
import io
import stat
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
MEMBERS = {"kubectl-warmstart": (HERE / "kubectl-warmstart", 0o755), "LICENSE": (HERE.parents[1] / "LICENSE", 0o644)}
UNIX = 3


def make_archive() -> bytes:
    """Return the archive. It depends on neither the time, the machine nor the zlib version."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, (path, mode) in MEMBERS.items():
            member = zipfile.ZipInfo(name)
            member.create_system = UNIX
            member.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(member, path.read_bytes())
    return stream.getvalue()


if __name__ == "__main__":
    made = make_archive()
    Path(sys.argv[1]).write_bytes(made)
    sys.stdout.write(f"{hashlib.sha256(made).hexdigest()}\n")
