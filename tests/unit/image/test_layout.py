import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.tars import extract

from warmstart.core.errors import ImageError
from warmstart.image.layout import (
    CheckedReader,
    check_writable,
    find_partials,
    open_blob,
    read_document,
    read_image,
    write_archive,
    write_layout,
)
from warmstart.image.manifest import DOCUMENT_LIMIT_BYTES, REF_NAME, Descriptor, Platform

ARM = {"os": "linux", "architecture": "arm64"}


def named(name: str) -> dict:
    return {"annotations": {REF_NAME: name}}


def test_the_only_image_needs_no_name(layout):
    layout.list(layout.image(b"one", b"two", manifest={"annotations": {"a": "b"}}))
    image = read_image(layout.path)
    assert [layer.size_bytes for layer in image.manifest.layers] == [3, 3]
    assert image.manifest.annotations == {"a": "b"}
    assert image.config.platform == Platform("linux", "amd64")


def test_an_image_is_chosen_by_its_name(layout):
    layout.list(layout.image(b"one", **named("1.0")), layout.image(b"three", **named("2.0")))
    assert read_image(layout.path, "2.0").manifest.layers[0].size_bytes == 5


@pytest.mark.parametrize(
    ("name", "wrong"), [("3.0", "has no image '3.0'"), ("", "has 2 images: a name is needed to choose one")]
)
def test_a_name_that_fits_none_is_refused_with_the_names_there_are(layout, name, wrong):
    layout.list(layout.image(b"one", **named("1.0")), layout.image(b"two", **named("2.0")))
    with pytest.raises(ImageError) as caught:
        read_image(layout.path, name)
    assert wrong in caught.value.brief
    assert caught.value.hint == "its images: '1.0', '2.0'"


def test_two_images_with_neither_name_nor_platform_are_refused(layout):
    layout.list(layout.image(b"one"), layout.image(b"two"))
    with pytest.raises(ImageError, match="has 2 images"):
        read_image(layout.path)


def test_an_empty_layout_is_refused(layout):
    with pytest.raises(ImageError, match="has no image"):
        read_image(layout.path)


def test_the_platform_is_chosen_in_a_nested_index(layout):
    amd = layout.image(b"amd", platform={"os": "linux", "architecture": "amd64"})
    arm = layout.image(b"arm64", config=ARM, platform=ARM)
    layout.list(layout.index(amd, arm, **named("1.0")))
    image = read_image(layout.path, "1.0", platform=Platform("linux", "arm64"))
    assert image.config.platform == Platform("linux", "arm64")
    with pytest.raises(ImageError, match="holds no image for linux/s390x"):
        read_image(layout.path, "1.0", platform=Platform("linux", "s390x"))


def test_the_platform_is_chosen_among_images_of_one_name(layout):
    amd = layout.image(b"amd", platform={"os": "linux", "architecture": "amd64"}, **named("1"))
    arm = layout.image(b"arm64", config=ARM, platform=ARM, **named("1"))
    layout.list(amd, arm)
    assert read_image(layout.path, "1", platform=Platform("linux", "arm64")).config.platform.architecture == "arm64"


def test_endless_nesting_is_refused(layout):
    entry = layout.image(b"one")
    for _ in range(10):
        entry = layout.index(entry)
    layout.list(entry)
    with pytest.raises(ImageError, match="nested more than 4 deep"):
        read_image(layout.path)


def test_a_directory_that_is_no_layout_is_refused(tmp_path):
    with pytest.raises(ImageError, match="is not an OCI image layout"):
        read_image(tmp_path)


def find_blob(layout, entry):
    return layout.path / "blobs" / entry["digest"].replace(":", "/")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage(path):
    path.write_bytes(path.read_bytes().replace(b"linux", b"Linux").replace(b"layers", b"Layers"))


def link(path):
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("which", ["manifest", "config"])
@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (truncate, "bytes, expected"),
        (damage, "is damaged"),
        (link, "cannot be read"),
        (fifo, "is not a plain file"),
        (os.unlink, "cannot be read: No such file"),
    ],
)
def test_a_damaged_document_is_refused(layout, which, harm, wrong):
    manifest = layout.image(b"one")
    layout.list(manifest)
    config = json.loads(find_blob(layout, manifest).read_bytes())["config"]
    harm(find_blob(layout, manifest if which == "manifest" else config))
    with pytest.raises(ImageError, match=wrong):
        read_image(layout.path)


def test_a_document_that_is_too_long_is_not_read(layout):
    layout.list(layout.image(config=b" " * (DOCUMENT_LIMIT_BYTES + 1)))
    with pytest.raises(ImageError, match="exceeds"):
        read_image(layout.path)
    layout.write("index.json", b" " * (DOCUMENT_LIMIT_BYTES + 1))
    with pytest.raises(ImageError, match=r"index.json exceeds"):
        read_image(layout.path)


def test_a_blob_of_any_size_is_not_taken_for_a_document(layout):
    entry = layout.blob(b" " * (DOCUMENT_LIMIT_BYTES + 1), "x/y")
    with pytest.raises(ImageError, match="exceeds"):
        read_document(layout.path, Descriptor("x/y", entry["digest"], entry["size"]))


def test_a_digest_of_sha512_is_checked_too(layout):
    digest = hashlib.sha512(b"long").hexdigest()
    (layout.path / "blobs/sha512").mkdir()
    layout.write(f"blobs/sha512/{digest}", b"long")
    assert read_document(layout.path, Descriptor("x/y", f"sha512:{digest}", 4)) == b"long"
    layout.write(f"blobs/sha512/{digest}", b"gone")
    with pytest.raises(ImageError, match="is damaged"):
        read_document(layout.path, Descriptor("x/y", f"sha512:{digest}", 4))


def test_a_blob_is_checked_at_its_end_when_it_is_read_in_pieces(layout):
    entry = layout.blob(b"abcdef", "x/y")
    descriptor = Descriptor("x/y", entry["digest"], 6)
    with open_blob(layout.path, descriptor) as content:
        assert [content.read(4), content.read(4), content.read(4)] == [b"abcd", b"ef", b""]
    layout.write(f"blobs/{entry['digest'].replace(':', '/')}", b"abcdeX")
    with open_blob(layout.path, descriptor) as content:
        assert content.read(4) == b"abcd"
        with pytest.raises(ImageError, match="is damaged"):
            content.read(4)


@pytest.fixture
def source(layout):
    layout.list(layout.image(b"one" * 100_000, b"two", b"two", manifest={"annotations": {"a": "b"}}))
    layout.blob(b"of another image", "x/y")
    return layout


def test_an_archive_holds_the_image_and_nothing_else(source, tmp_path):
    image = read_image(source.path)
    write_archive(source.path, image, tmp_path / "out.tar", name="reg.io/app:1.0")
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = archive.getnames()
        extract(archive, tmp_path / "out")
    assert read_image(tmp_path / "out", "reg.io/app:1.0").manifest.digest == image.manifest.digest
    for layer in image.manifest.layers:
        with open_blob(tmp_path / "out", layer) as content:
            assert content.read()
    assert len(names) == len(set(names)) == 2 + len(image.manifest.blobs) + 1


def test_an_archive_is_the_same_bytes_each_time(source, tmp_path):
    for name in ("a.tar", "b.tar"):
        write_archive(source.path, read_image(source.path), tmp_path / name, name="x:1")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("write", [write_archive, write_layout])
def test_nothing_is_left_of_a_write_that_failed(source, tmp_path, write):
    image = read_image(source.path)
    layer = source.path / "blobs" / image.manifest.layers[0].digest.replace(":", "/")
    layer.write_bytes(layer.read_bytes()[:-1] + b"X")
    (tmp_path / "target").mkdir()
    with pytest.raises(ImageError, match="is damaged"):
        write(source.path, image, tmp_path / "target/out", name="x:1")
    assert list((tmp_path / "target").iterdir()) == []


def test_an_older_archive_stays_when_the_new_one_fails(source, tmp_path):
    image = read_image(source.path)
    (tmp_path / "out.tar").write_bytes(b"old")
    shutil.rmtree(source.path / "blobs")
    with pytest.raises(ImageError):
        write_archive(source.path, image, tmp_path / "out.tar", name="x:1")
    assert (tmp_path / "out.tar").read_bytes() == b"old"


def test_who_reads_an_older_archive_is_not_disturbed_by_the_new_one(source, tmp_path):
    (tmp_path / "out.tar").write_bytes(b"old")
    with (tmp_path / "out.tar").open("rb") as reader:
        write_archive(source.path, read_image(source.path), tmp_path / "out.tar", name="x:1")
        assert reader.read() == b"old"
    assert tarfile.is_tarfile(tmp_path / "out.tar")


def test_a_place_that_cannot_be_written_is_named(source, tmp_path):
    for write in (write_archive, write_layout):
        with pytest.raises(ImageError, match="nowhere/out cannot be written: No such file or directory"):
            write(source.path, read_image(source.path), tmp_path / "nowhere/out", name="x:1")


def test_a_layout_is_written(source, tmp_path):
    image = read_image(source.path)
    write_layout(source.path, image, tmp_path / "out", name="app:1")
    assert read_image(tmp_path / "out", "app:1").manifest.digest == image.manifest.digest
    files = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 2 + len(image.manifest.blobs) + 1


def test_a_layout_takes_an_image_more_and_replaces_one_of_the_same_name(source, tmp_path):
    first = read_image(source.path)
    (tmp_path / "out").mkdir()
    write_layout(source.path, first, tmp_path / "out", name="app:1")
    write_layout(source.path, first, tmp_path / "out", name="app:2")
    source.list(source.image(b"new"))
    second = read_image(source.path)
    write_layout(source.path, second, tmp_path / "out", name="app:2")
    assert read_image(tmp_path / "out", "app:1").manifest.digest == first.manifest.digest
    assert read_image(tmp_path / "out", "app:2").manifest.digest == second.manifest.digest
    assert len(json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]) == 2


def test_a_layout_is_unchanged_when_adding_to_it_fails(source, tmp_path):
    write_layout(source.path, read_image(source.path), tmp_path / "out", name="app:1")
    before = (tmp_path / "out/index.json").read_bytes()
    source.list(source.image(b"new"))
    image = read_image(source.path)
    (source.path / "blobs" / image.manifest.layers[0].digest.replace(":", "/")).unlink()
    with pytest.raises(ImageError):
        write_layout(source.path, image, tmp_path / "out", name="app:2")
    assert (tmp_path / "out/index.json").read_bytes() == before
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.parametrize(("write", "older"), [(write_archive, False), (write_layout, False), (write_layout, True)])
def test_what_is_half_made_at_any_moment_can_be_found(source, tmp_path, monkeypatch, write, older):
    target = tmp_path / "out [1]"
    if older:
        write_layout(source.path, read_image(source.path), target, name="app:1")
        source.list(source.image(b"new"))
    read, seen = CheckedReader.read, []

    def look_and_read(reader: CheckedReader, size: int = -1) -> bytes:
        there = {path for path in tmp_path.rglob(".*") if ".partial/" not in str(path)}
        found = {path for pattern in find_partials(target) for path in Path("/").glob(pattern.lstrip("/"))}
        seen.append((found, there))
        return read(reader, size)

    image = read_image(source.path)
    monkeypatch.setattr(CheckedReader, "read", look_and_read)
    write(source.path, image, target, name="app:2")
    assert seen
    assert all(there and found == there for found, there in seen)


WRITERS = 8
# Children of one process, since an interpreter takes longer to start than to write. They wait until the write end of a
# pipe is closed, so that they start together.
WRITE = """
import os, sys
from pathlib import Path
from warmstart.image import layout
source, target, write = Path(sys.argv[1]), Path(sys.argv[2]), getattr(layout, sys.argv[3])
image = layout.read_image(source)
waiting, begin = os.pipe()
children = []
for number in range(int(sys.argv[4])):
    if not (child := os.fork()):
        os.close(begin)
        os.read(waiting, 1)
        write(source, image, target, name=f"app:{number}")
        sys.exit()
    children.append(child)
os.close(begin)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def write_at_once(source: Path, target: Path, write: str) -> None:
    """Have WRITERS processes write the same image under names of their own."""
    subprocess.run([sys.executable, "-c", WRITE, source, target, write, str(WRITERS)], check=True)


@pytest.mark.parametrize("older", ["nothing", "empty directory", "layout"])
def test_writers_of_one_layout_lose_no_image(source, tmp_path, older):
    target = tmp_path / "target" / "out"
    target.parent.mkdir()
    names = {f"app:{number}" for number in range(WRITERS)}
    if older == "empty directory":
        target.mkdir()
    if older == "layout":
        write_layout(source.path, read_image(source.path), target, name="mine")
        names.add("mine")
    write_at_once(source.path, target, "write_layout")
    index = json.loads((target / "index.json").read_bytes())
    assert sorted(entry["annotations"][REF_NAME] for entry in index["manifests"]) == sorted(names)
    assert all(read_image(target, name) for name in names)
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in target.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_of_writers_of_one_archive_the_last_one_wins_whole(source, tmp_path):
    target = tmp_path / "target" / "out.tar"
    target.parent.mkdir()
    write_at_once(source.path, target, "write_archive")
    with tarfile.open(target) as archive:
        extract(archive, tmp_path / "out")
    assert read_image(tmp_path / "out").manifest.digest == read_image(source.path).manifest.digest
    assert [path.name for path in target.parent.iterdir()] == ["out.tar"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_layout_does_not_replace_something_else(source, tmp_path, kind):
    target = tmp_path / "out"
    target.write_text("mine") if kind == "file" else (target / "mine").mkdir(parents=True)
    with pytest.raises(ImageError, match="is not an OCI image layout"):
        write_layout(source.path, read_image(source.path), target, name="app:1")
    assert target.is_file() if kind == "file" else (target / "mine").is_dir()


def test_what_is_written_is_its_owners_alone(source, tmp_path):
    """An image has the memory of processes in it."""
    image = read_image(source.path)
    before = os.umask(0o022)
    try:
        write_archive(source.path, image, tmp_path / "app.tar", name="app:1")
        write_layout(source.path, image, tmp_path / "new", name="app:1")
        (tmp_path / "older").mkdir(mode=0o755)
        (tmp_path / "older/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (tmp_path / "older/index.json").write_text('{"schemaVersion": 2, "manifests": []}')
        write_layout(source.path, image, tmp_path / "older", name="app:1")
    finally:
        os.umask(before)
    assert (tmp_path / "app.tar").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    blobs = [path for name in ("new", "older") for path in (tmp_path / name / "blobs").rglob("*") if path.is_file()]
    assert blobs
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in blobs)


@pytest.mark.parametrize("there", ["nothing", "empty", "layout"])
def test_a_place_for_a_layout_is_tried_and_left_as_it_is(source, tmp_path, there):
    target = tmp_path / "target" / "out"
    target.parent.mkdir()
    if there == "empty":
        target.mkdir()
    if there == "layout":
        write_layout(source.path, read_image(source.path), target, name="x:1")
    before = sorted(target.parent.rglob("*"))
    check_writable(target, as_archive=False)
    assert sorted(target.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "as_archive", "wrong"),
    [
        ("nowhere/out", True, "nowhere/out cannot be written: No such file or directory"),
        ("nowhere/out", False, "nowhere/out cannot be written: No such file or directory"),
        ("", True, "cannot be written: it is a directory"),
        ("", False, "is not an OCI image layout"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before(source, tmp_path, name, as_archive, wrong):
    with pytest.raises(ImageError, match=wrong):
        check_writable(tmp_path / name, as_archive=as_archive)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_read_only_place_is_found_before(source, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    code = """
import sys
from pathlib import Path
from warmstart.core.errors import ImageError
from warmstart.image.layout import check_writable, read_image, write_archive
target, source = map(Path, sys.argv[1:])
for write in (
    lambda: check_writable(target, as_archive=True),
    lambda: write_archive(source, read_image(source), target, name="x:1"),
):
    try:
        write()
    except ImageError as error:
        print(error)
"""
    script = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, place, sys.executable, "-c", code, place / "out", source.path]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == [f"{place}/out cannot be written: Read-only file system"] * 2
