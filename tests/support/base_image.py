"""The base image of the tests: the server of server.c, and a directory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from warmstart.node.session import Session

SERVER_SOURCE = Path(__file__).with_name("server.c")
SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
container=$(tool from scratch)
tool add -q "$container" server /server
tool add -q "$container" data /data
tool config --entrypoint '["/server"]' --cmd of-the-image --env FROM_IMAGE=yes --label made.by=tests "$container"
tool commit -q "$container" oci-archive:base.tar
"""


def make_base_archive(session: Session, archive: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Build the image in the session, with additional files in its directory, and write its OCI archive."""
    server, data = session.workspace / "server", session.workspace / "data"
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", "-o", server, SERVER_SOURCE], check=True)
    data.mkdir()
    (data / "of-the-base").touch()
    for name, content in (files or {}).items():
        (data / name).write_bytes(content)
    session.run(["sh", "-c", SCRIPT], cwd=str(session.workspace), timeout_s=60)
    shutil.copy(session.workspace / "base.tar", archive)
