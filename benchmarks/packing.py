"""An image of a checkpoint as the Kubernetes documentation has people make it: FROM scratch, the archive, with buildah.

Source: "Forensic container analysis" on kubernetes.io (2023-03-10), and docs/checkpointing of CRI-O: `buildah from
scratch`, `add` the archive, `config --annotation`, `commit`, `push`; the push compresses with gzip.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import read_image
from warmstart.node.session import Session

SCRIPT = """\
set -eu
tool() { buildah --root "$PWD/store" --runroot "$PWD/run" --storage-driver overlay "$@"; }
container=$(tool from scratch)
tool add -q "$container" ARCHIVE /
tool config --annotation=NAME "$container"
tool commit -q "$container" localhost/upstream
tool rm "$container"
tool push -q localhost/upstream oci:layout
"""
PACK_S = 900


@dataclass(frozen=True)
class Packed:
    """The compressed layers of an image, and seconds that it took to make them."""

    size_bytes: int
    seconds: float


def pack_upstream(session: Session, archive: Path | None, name: str) -> Packed:
    """Make the image of a checkpoint archive."""
    assert archive is not None
    directory = session.workspace / "upstream"
    directory.mkdir()
    script = SCRIPT.replace("ARCHIVE", str(archive)).replace("NAME", f"{CHECKPOINT_NAME}={name}")
    began = time.monotonic()
    session.run(["sh", "-c", script], cwd=str(directory), timeout_s=PACK_S)
    seconds = time.monotonic() - began
    return Packed(sum(layer.size_bytes for layer in read_image(directory / "layout").manifest.layers), seconds)
