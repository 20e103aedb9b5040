"""Images that restore themselves: how they are started, their layers, the launcher's manifest."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from warmstart.core.errors import ArchiveError, CheckpointError, ImageError
from warmstart.dump.edit.listeners import Listener
from warmstart.dump.proc.touched import FilePart
from warmstart.image.compose import Layer, add_layers
from warmstart.image.layout import open_blob
from warmstart.image.manifest import Config, Platform
from warmstart.image.selfrestore.inspect import unpack_launched
from warmstart.image.selfrestore.pack import (
    READ_AHEAD,
    find_run,
    pack_checkpoint,
    pack_programs,
    pack_read_ahead,
    read_manifest,
    restores_itself,
    update_manifest,
)
from warmstart.recipe.model import Container, SecurityContext

pytestmark = pytest.mark.linux

LAUNCHER = ("/.warmstart/launcher", "start", "--")
BASE = Config(Platform("linux", "amd64"), entrypoint=("/app",), cmd=("serve",), user="app")
MANIFEST = """\
warmstart 1
argument /app
argument of\\x20it
user 1000
group 1001
groups 4 5
pid 100
stdout 11
stderr 12
file 5 pages-1.img
cpu avx2
monotonic 1
boottime 1
end
"""


@pytest.mark.parametrize(
    ("container", "entrypoint", "cmd"),
    [
        ({}, ("/app",), ("serve",)),
        ({"args": ("other",)}, ("/app",), ("other",)),
        ({"command": ("/mine",)}, ("/mine",), ()),
        ({"command": ("/mine",), "args": ("a",)}, ("/mine",), ("a",)),
    ],
)
def test_the_command_is_what_kubernetes_makes_of_it(container, entrypoint, cmd):
    run = find_run(Container("base", **container), BASE)
    assert (run.entrypoint, run.cmd) == ((*LAUNCHER, *entrypoint), cmd)


def test_an_image_without_a_command_is_refused():
    with pytest.raises(ImageError, match="has a command"):
        find_run(Container("base"), Config(Platform("linux", "amd64")))


@pytest.mark.parametrize(
    ("context", "user"),
    [({}, "app"), ({"run_as_user": 7}, "7"), ({"run_as_user": 7, "run_as_group": 8}, "7:8"), ({"run_as_user": 0}, "0")],
)
def test_the_user_is_the_recipes_before_the_images(context, user):
    assert find_run(Container("base", security_context=SecurityContext(**context)), BASE).user == user


@pytest.fixture
def directory(tmp_path) -> Path:
    place = tmp_path / "launched"
    (place / "checkpoint").mkdir(parents=True)
    (place / "checkpoint/pages-1.img").write_bytes(b"12345678")
    (place / "checkpoint/inventory.img").write_bytes(b"1")
    (place / "seed/tmp").mkdir(parents=True)
    (place / "seed/tmp/file").write_text("kept")
    (place / "env").symlink_to("/proc/self/fd/100")
    (place / "manifest").write_text(MANIFEST)
    return place


def test_the_manifest_is_read(directory):
    found = read_manifest(directory)
    assert (found.user, found.group, found.groups, found.pid) == (1000, 1001, (4, 5), 100)
    assert found.arguments == ("/app", "of\\x20it")


@pytest.mark.parametrize("text", ["", "warmstart 1\n", MANIFEST.replace("pid 100", "pid x")])
def test_a_manifest_that_is_not_one_is_refused(directory, text):
    (directory / "manifest").write_text(text)
    with pytest.raises(CheckpointError):
        read_manifest(directory)


def test_the_manifest_is_brought_up_to_date(directory):
    update_manifest(directory, 100, [Listener("tcp46", 8080, 128, 4711)], ["step signal 12"])
    lines = (directory / "manifest").read_text().splitlines()
    assert [line for line in lines if line.startswith("file")] == [
        "file 1 inventory.img",
        "file 8 pages-1.img",
        "file 100 ../memory",
    ]
    assert lines[0] == "warmstart 1"
    assert lines[-3:] == ["listen tcp46 8080 128 4711", "step signal 12", "end"]
    assert "cpu avx2" in lines


def read_members(layout: Path, layer: Layer) -> dict[str, tarfile.TarInfo]:
    return {member.name: member for member in open_tar(layout, layer)}


def open_tar(layout: Path, layer: Layer) -> tarfile.TarFile:
    with open_blob(layout, layer.blob) as blob:
        plain = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall()
    return tarfile.open(fileobj=io.BytesIO(plain))


def make_programs(place: Path) -> Path:
    (place / "source").mkdir(parents=True)
    for name in ("launcher", "criu", "source/criu.tar.xz"):
        (place / name).write_text(name)
    (place / "launcher").chmod(0o4755)
    (place / "criu").chmod(0o755)
    return place


def test_the_programs_are_the_same_layer_whoever_packs_them(tmp_path):
    one = make_programs(tmp_path / "one")
    other = make_programs(tmp_path / "other")
    os.utime(other / "criu", (0, 0))
    (other / "criu").chmod(0o700)
    layout = tmp_path / "layout"
    layer = pack_programs(one, layout)
    assert pack_programs(other, layout) == layer
    members = read_members(layout, layer)
    assert {name: member.mode for name, member in members.items()} == {
        ".warmstart": 0o755,
        ".warmstart/launcher": 0o755,
        ".warmstart/criu": 0o755,
        ".warmstart/source": 0o755,
        ".warmstart/source/criu.tar.xz": 0o644,
    }


def test_a_checkpoint_keeps_its_owners_and_modes(directory, tmp_path):
    (directory / "checkpoint").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(directory / "checkpoint/pages-1.img", 1000, 1001)
    members = read_members(tmp_path / "layout", pack_checkpoint(directory, tmp_path / "layout"))
    assert members[".warmstart/checkpoint"].mode == 0o700
    assert members[".warmstart/env"].linkname == "/proc/self/fd/100"
    assert ".warmstart/seed/tmp/file" in members
    owner, packed = (directory / "checkpoint/pages-1.img").stat(), members[".warmstart/checkpoint/pages-1.img"]
    assert (packed.uid, packed.gid) == (owner.st_uid, owner.st_gid)


def test_what_is_read_ahead_is_a_list_for_the_launcher(tmp_path):
    assert pack_read_ahead([], tmp_path) == []
    parts = [FilePart("/.warmstart/memory", 65536, 131072), FilePart("/a b", 0, 65536)]
    [layer] = pack_read_ahead(parts, tmp_path)
    text = open_tar(tmp_path, layer).extractfile(READ_AHEAD).read().decode()
    assert text == "65536 131072 /.warmstart/memory\n0 65536 /a\\x20b\n"


def test_the_same_checkpoint_makes_the_same_layer_at_any_time(directory, tmp_path):
    kept = directory / "seed/tmp/file"
    os.utime(kept, (5, 5))
    layers = []
    for moment in (1_000_000_000, 2_000_000_000):
        for path in (directory / "manifest", directory / "checkpoint", *(directory / "checkpoint").iterdir()):
            os.utime(path, (moment, moment))
        layers.append(pack_checkpoint(directory, tmp_path / "layout"))
    assert layers[0] == layers[1]
    # The application may look at the times of its own files.
    assert read_members(tmp_path / "layout", layers[0])[".warmstart/seed/tmp/file"].mtime == 5


def test_an_image_of_layers_alone(layout, directory, tmp_path):
    layout.list(
        layout.image(
            b"",
            config={
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"diff_ids": ["sha256:0"]},
                "config": {"Env": ["PATH=/bin", "MODE=slow"]},
            },
        )
    )
    target = tmp_path / "image"
    layer = pack_checkpoint(directory, target)
    run = find_run(Container("base"), BASE, (("MODE", "fast"), ("MORE", "a=b")))
    annotations = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z", "key": "value"}
    image = add_layers(layout.path, target, [layer], run, annotations, {"by": "tests"})
    assert restores_itself(image.config)
    assert not restores_itself(BASE)
    assert image.config.entrypoint == (*LAUNCHER, "/app")
    assert (image.config.cmd, image.config.user, image.config.labels) == (("serve",), "app", {"by": "tests"})
    assert image.manifest.annotations == annotations
    assert image.manifest.layers[-1] == layer.blob
    assert image.config.env == (("PATH", "/bin"), ("MODE", "fast"), ("MORE", "a=b"))


# Reading one again


def unpack(data: bytes, tmp_path: Path) -> Path:
    into = tmp_path / "into"
    into.mkdir()
    assert unpack_launched(io.BytesIO(data), into, "layer")
    return into


def test_of_a_checkpoint_memory_is_a_hole_but_for_its_end(directory, tmp_path):
    pages = directory / "checkpoint/pages-1.img"
    pages.write_bytes(b"x" * (1 << 20))
    layer = pack_checkpoint(directory, tmp_path / "layout")
    with open_blob(tmp_path / "layout", layer.blob) as blob:
        into = unpack(zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).readall(), tmp_path)
    found = (into / "checkpoint/pages-1.img").read_bytes()
    assert len(found) == 1 << 20
    assert found.count(b"x") == 128 << 10
    assert found.endswith(b"x")
    assert (into / "manifest").read_text() == MANIFEST


def test_only_what_is_known_is_unpacked(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("manifest", "checkpoint/inventory.img", "checkpoint/../../out.img", "checkpoint/deep/a.img", "x"):
            tar.addfile(tarfile.TarInfo(f".warmstart/{name}"))
        link = tarfile.TarInfo(".warmstart/checkpoint/link.img")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    into = unpack(buffer.getvalue(), tmp_path)
    assert sorted(path.name for path in into.rglob("*")) == ["checkpoint", "inventory.img", "manifest"]
    assert not (tmp_path / "out.img").exists()


def test_what_is_no_tar_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="layer: is not a tar archive"):
        unpack(b"x" * 2000, tmp_path)


HOSTILE = {
    "long names of long names": [tarfile.TarInfo("././@LongLink")] * 3000,
    "a size that goes on for ever": [tarfile.TarInfo(".warmstart/manifest")],
    "a header of 6 GiB": [tarfile.TarInfo("PaxHeaders/x")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_layer_that_would_not_end_is_refused(what, tmp_path):
    types = {"././@LongLink": (b"L", 3), "PaxHeaders/x": (b"x", 6 << 30), ".warmstart/manifest": (b"0", 1 << 50)}
    data = b""
    for info in HOSTILE[what]:
        info.type, info.size = types[info.name]
        data += info.tobuf(tarfile.GNU_FORMAT)[-512:] + b"ab\0".ljust(512, b"\0")
    with pytest.raises(ArchiveError):
        unpack(data + bytes(1024), tmp_path)
