"""Layers that both this reader and Go's, which is the runtimes', take: they have the same members to both."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from fuzz.run import mutate
from fuzz.targets import layer_seeds, mend
from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.tar_stream import StreamedTar
from warmstart.dump.archive.tarball import Kind, walk_layer

SOURCE = Path(__file__).parents[1] / "support/list_tar.go"
KINDS = {
    "0": Kind.FILE,
    "1": Kind.HARDLINK,
    "2": Kind.SYMLINK,
    "3": Kind.CHARACTER_DEVICE,
    "4": Kind.BLOCK_DEVICE,
    "5": Kind.DIRECTORY,
    "6": Kind.FIFO,
    "S": Kind.FILE,
}
MUTATIONS = 5000


@pytest.fixture
def list_in_go(tmp_path: Path):
    if shutil.which("go") is None:
        pytest.skip("needs Go")
    subprocess.run(
        ["go", "build", "-o", tmp_path / "list", SOURCE], check=True, env={**os.environ, "GO111MODULE": "off"}
    )

    def run(tars: list[bytes]) -> list[dict]:
        data = b"".join(struct.pack("<I", len(tar)) + tar for tar in tars)
        done = subprocess.run([tmp_path / "list"], input=data, capture_output=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_what_both_take_is_the_same(list_in_go) -> None:
    draw = random.Random(4711)
    seeds = [seed for seed in layer_seeds() if b"ustar" in seed[:512]]
    tars = [*seeds, *(mend(mutate(draw, seeds)) for _ in range(MUTATIONS))]
    compared = 0
    for tar, found in zip(tars, list_in_go(tars), strict=True):
        try:
            ours = [(member.name, member.kind) for member in walk_layer(StreamedTar(io.BytesIO(tar), "layer"))]
        except ArchiveError:
            continue
        if found["refused"] or any(".." in member["name"].split("/") for member in found["members"]):
            continue
        theirs = [(plain(member["name"]), KINDS.get(member["type"], Kind.OTHER)) for member in found["members"]]
        assert [(shown(name), merged(kind)) for name, kind in ours] == theirs
        compared += 1
    assert compared > MUTATIONS / 20


def plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def shown(name: str) -> str:
    """The name as Go's JSON has it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def merged(kind: Kind) -> Kind:
    return Kind.FILE if kind is Kind.SPARSE_FILE else kind
