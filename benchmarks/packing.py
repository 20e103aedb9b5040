"""An image of a checkpoint as the Kubernetes documentation has people make it: FROM scratch, the archive, with buildah.

Source: "Forensic container analysis" on kubernetes.io (2023-03-10), and docs/checkpointing of CRI-O: `buildah from
scratch`, `add` the archive, `config --annotation`, `commit`, `push`; the push compresses with gzip.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from warmstart.bench.result import MAPPED
from warmstart.bench.run import TakenCheckpoint, make_image, open_session, take_checkpoint
from warmstart.build.base import fetch_base, find_source
from warmstart.build.container import with_hooks
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.core.progress import Progress
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import read_image
from warmstart.node.session import Session
from warmstart.recipe.model import Recipe

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
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    script = SCRIPT.replace("ARCHIVE", str(archive)).replace("NAME", f"{CHECKPOINT_NAME}={name}")
    began = time.monotonic()
    session.run(["sh", "-c", script], cwd=str(directory), timeout_s=PACK_S)
    seconds = time.monotonic() - began
    return Packed(sum(layer.size_bytes for layer in read_image(directory / "layout").manifest.layers), seconds)


def pack_ours(taken: TakenCheckpoint) -> Packed:
    """Make our image of a checkpoint: what it adds to its base image."""
    made, _ = make_image(taken, MAPPED)
    base = {layer.digest for layer in read_image(taken.base.layout).manifest.layers}
    added = (layer for layer in read_image(made.layout).manifest.layers if layer.digest not in base)
    packed = Packed(sum(layer.size_bytes for layer in added), made.pack_s)
    shutil.rmtree(made.layout.parent)
    return packed


def pack_in_turn(recipe: Recipe, options: BuildOptions, progress: Progress, rounds: int) -> list[tuple[Packed, Packed]]:
    """Make both images of one checkpoint in turn, ours and as others do, and return the pairs."""
    source, pairs = find_source(recipe), []
    with open_session(source, options, progress) as session:
        context = BuildContext(recipe, options, progress, session)
        base = fetch_base(context, source)
        context = with_hooks(context, base.layout)
        with take_checkpoint(context, base) as taken, progress.step("pack in turn"):
            for number in range(rounds):
                progress.note(f"round {number + 1} of {rounds}")
                pairs.append((pack_ours(taken), pack_upstream(session, taken.dumped.archive, recipe.name)))
    return pairs
