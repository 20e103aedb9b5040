"""The application of tests/programs/hostile.c as an image, and a file of this machine that it tries to read."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import zstandard

from warmstart.image.layout import open_blob, read_image
from warmstart.node.session import Session

SOURCE = Path(__file__).parents[1] / "programs" / "hostile.c"
SECRET = b"a line that only root of this machine may read, "
SCRIPT = """\
set -eu
tool() { buildah --storage-driver vfs --root "$PWD/store" --runroot "$PWD/run" "$@"; }
container=$(tool from scratch)
tool add -q "$container" hostile /hostile
tool add -q "$container" root /
tool config --entrypoint '["/hostile"]' "$container"
tool commit -q "$container" oci-archive:hostile.tar
"""


@dataclass(frozen=True)
class Victim:
    """A file that only root may read, in its own directory."""

    file: Path
    content: bytes
    status: tuple[int, ...]

    def assert_unchanged(self) -> None:
        """Assert that its content, owner, mode and link count are the same, and that no other file is next to it."""
        assert self.file.read_bytes() == self.content
        assert describe(self.file) == self.status
        assert [path.name for path in self.file.parent.iterdir()] == [self.file.name]


def make_victim(directory: Path) -> Victim:
    """Create the file in a new directory."""
    directory.mkdir()
    file = directory / "secret"
    file.write_bytes(SECRET + os.urandom(8).hex().encode() * 20)
    file.chmod(0o600)
    return Victim(file, file.read_bytes(), describe(file))


def describe(file: Path) -> tuple[int, ...]:
    """Return the attributes that an attack would change."""
    status = file.lstat()
    return (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino)


def make_hostile_archive(session: Session, archive: Path) -> None:
    """Build the image in the session, and write its OCI archive."""
    flags = ["-std=gnu11", "-static", "-O1", "-Wall", "-Wextra", "-Wno-unused-result", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", session.workspace / "hostile", SOURCE], check=True)
    for name in ("data", "tmp"):
        (session.workspace / "root" / name).mkdir(parents=True)
        (session.workspace / "root" / name).chmod(0o1777)
    session.run(["sh", "-c", SCRIPT], cwd=str(session.workspace), timeout_s=60)
    shutil.copy(session.workspace / "hostile.tar", archive)


def read_layers(layout: Path) -> dict[str, bytes]:
    """Return the tars of the layers that the build created, by their names in the image's history."""
    image = read_image(layout)
    found = {}
    for name, blob in zip(image.config.history[-len(image.manifest.layers) :], image.manifest.layers, strict=True):
        with open_blob(layout, blob) as packed:
            data = packed.read()
        is_zstd = blob.media_type.endswith("+zstd")
        found[name] = (
            zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).readall() if is_zstd else data
        )
    return {name: data for name, data in found.items() if name.startswith("warmstart build: ")}
