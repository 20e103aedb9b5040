"""What is found in checkpoint archives and in images."""

from __future__ import annotations

import gc
import gzip
import json
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import zstandard
from support.checkpoint_archive import CONFIG, SPEC, entry, open_files, tar_of, text
from support.checkpoint_image import ANNOTATIONS, BASE, PROVENANCE, checkpoint, make_layout, make_warm_image, real_dump

from tests.support.registry_access import http
from warmstart.build.publish import REPORT_TYPE
from warmstart.build.result import Report
from warmstart.build.verify import check_content
from warmstart.core.errors import ArchiveError, ImageError, ImageReferenceError, InputError, RegistryError
from warmstart.core.reference import Reference, Source, Transport
from warmstart.dump.archive import outline
from warmstart.dump.archive.archive import RootfsDiff
from warmstart.dump.archive.metadata import User
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import CheckedReader, open_blob, read_image, write_archive
from warmstart.image.manifest import Descriptor, Platform
from warmstart.image.open import OpenedImage
from warmstart.image.registry.client import attach_report, push_layout
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.inspection import inspect_archive, inspect_image, inspect_target

CRIO = {CHECKPOINT_NAME: "app"}
CONTAINERD = {"org.criu.checkpoint.container.name": "app"}


@pytest.fixture(autouse=True)
def own_workspaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set an own directory for workspaces, and check that they are removed and that no file stays open."""
    (tmp_path / "workspaces").mkdir()
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path / "workspaces"))
    gc.collect()  # objects of earlier tests may have files open
    before = set(open_files())
    yield
    assert list((tmp_path / "workspaces").iterdir()) == []
    gc.collect()  # an error holds on to the files that were read when it was raised
    # Threads of earlier tests may have closed some meanwhile.
    assert set(open_files()) - before == set()


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    return make_warm_image(tmp_path)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def layout_of(place: Path, *layers: bytes, annotations: dict[str, str] = CRIO, **more: object) -> Source:
    return Source(Transport.OCI, path=make_layout(place / "other", *layers, annotations=annotations, **more))


def test_an_archive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar_of(*checkpoint()))
    found = inspect_archive(path)
    assert (found.name, found.image, found.unread) == (str(path), None, "")
    facts = found.checkpoint
    assert facts is not None
    assert [(process.pid, process.ppid, process.comm, process.threads) for process in facts.processes] == [
        (16, 0, "objects", 1),
        (17, 16, "objects", 1),
        (18, 17, "objects", 1),
    ]
    assert facts.processes[0].arguments == ("/scratch/objects", "sysv")
    assert [str(socket.source) for socket in facts.sockets] == ["[::]:8080", "10.0.0.7:5353", "0.0.0.0:9090"]
    assert facts.memory_bytes == sum(len(data) for name, data in real_dump().items() if name.startswith("pages-"))
    assert facts.shared_bytes == facts.memory_bytes - 69632 * 2 - 61440
    assert facts.size_bytes == sum(info.size for info, _ in checkpoint())
    assert facts.rootfs_diff == RootfsDiff(2, 2560)
    assert facts.deleted_files == ("/var/cache/app",)
    assert not facts.closes_tcp


def test_the_container(tmp_path: Path) -> None:
    facts = inspect_archive(write(tmp_path / "a.tar", tar_of(*checkpoint()))).checkpoint
    assert facts is not None
    container = facts.container
    assert (container.name, container.args, container.cwd) == ("app", ("java", "-jar", "/app.jar"), "/app/")
    assert container.env == (("PATH", "/usr/bin:/bin"), ("GREETING", "two\nlines"))
    assert container.user == User(1000, 1000, (1000, 2000))
    assert [mount.destination for mount in container.mounts] == ["/etc/hosts"]
    assert (container.runtime, container.root_image) == ("runc", "localhost/java-app:1.0")
    assert container.created == datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert container.checkpointed == datetime(2026, 3, 1, 10, 0, 5, 500000, tzinfo=UTC)
    assert "lines" not in repr(facts)


def test_an_image_that_warmstart_made(warm: Path) -> None:
    found = inspect_image(Source(Transport.OCI, path=warm))
    image, manifest = found.image, read_image(warm).manifest
    assert image is not None
    assert (found.name, found.unread) == (f"oci:{warm}", "")
    assert (image.digest, image.platform) == (manifest.digest, Platform("linux", "amd64"))
    assert image.created == "2026-03-01T10:00:06Z"
    assert [image.base_name, image.base_digest] == list(BASE.values())
    assert (image.restorers, image.provenance, image.notes) == (("CRI-O",), PROVENANCE, {})
    assert [(layer.created_by, layer.added) for layer in image.layers] == [
        ("", False),
        ("warmstart build: .warmstart/memory", True),
        ("warmstart build: checkpoint", True),
    ]
    assert [layer.digest for layer in image.layers] == [layer.digest for layer in manifest.layers]
    sizes = [layer.size_bytes for layer in manifest.layers]
    assert (image.size_bytes, image.added_bytes) == (sum(sizes), sum(sizes[1:]))


def test_the_checkpoint_in_an_image_is_that_of_the_archive(warm: Path, tmp_path: Path) -> None:
    in_image = inspect_image(Source(Transport.OCI, path=warm)).checkpoint
    in_archive = inspect_archive(write(tmp_path / "a.tar", tar_of(*checkpoint()))).checkpoint
    assert in_image is not None
    assert in_archive is not None
    assert in_image.container.root_image == "app:warm"
    for what in ("processes", "sockets", "memory_bytes", "rootfs_diff", "deleted_files"):
        assert getattr(in_image, what) == getattr(in_archive, what)


def test_history_of_the_base_is_told_where_there_is_one(tmp_path: Path) -> None:
    steps = [{"created_by": "COPY app"}, {"created_by": "CMD app", "empty_layer": True}]
    found = inspect_image(Source(Transport.OCI, path=make_warm_image(tmp_path, base_history=steps)))
    assert found.image is not None
    assert [(layer.created_by, layer.added) for layer in found.image.layers][:2] == [
        ("COPY app", False),
        ("warmstart build: .warmstart/memory", True),
    ]


def test_other_annotations_of_warmstart_are_noted(tmp_path: Path) -> None:
    image = make_warm_image(tmp_path, {**ANNOTATIONS, "dev.warmstart.later": "something new"})
    found = inspect_image(Source(Transport.OCI, path=image))
    assert found.image is not None
    assert found.image.notes == {"later": "something new"}


def test_only_layers_that_may_hold_the_checkpoint_are_fetched(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    @contextmanager
    def open_recorded(source: Source, **options: object) -> Iterator[OpenedImage]:
        def open_content(descriptor: Descriptor) -> AbstractContextManager[CheckedReader]:
            opened.append(descriptor.digest)
            return open_blob(warm, descriptor)

        yield OpenedImage(read_image(warm), open_content)

    monkeypatch.setattr("warmstart.inspect.inspection.open_image", open_recorded)
    monkeypatch.setattr("warmstart.inspect.inspection.read_reports", lambda *_, **__: ())
    source = Source(Transport.REGISTRY, Reference("registry.example.com", "app", "1"))
    assert inspect_image(source).checkpoint is not None
    assert opened == [read_image(warm).manifest.layers[-1].digest]


def linked(*links: tuple[str, str]) -> bytes:
    return tar_of(*(entry(name, type=tarfile.SYMTYPE, linkname=to) for name, to in links))


CRAFTED = linked(("mnt", "x]:/host"))
DATA_MOUNT = {**SPEC, "mounts": [{"destination": "/mnt/data", "type": "bind", "source": "/volumes/1"}]}


def test_mounts_that_lead_through_crafted_links_are_refused(tmp_path: Path) -> None:
    crafted = layout_of(tmp_path / "a", CRAFTED, tar_of(*checkpoint(**{"spec.dump": text(DATA_MOUNT)})))
    with pytest.raises(ImageError, match=r"'/mnt/data' leads through '/mnt -> x\]:/host'"):
        inspect_image(crafted)
    with pytest.raises(ImageError, match=r"'/mnt/data' leads through"):
        check_content(tmp_path / "a/other", "an image")
    hidden = layout_of(tmp_path / "b", CRAFTED, tar_of(entry("mnt/")), tar_of(*checkpoint()))
    assert inspect_image(hidden).checkpoint is not None
    check_content(tmp_path / "b/other", "an image")


def test_the_name_of_a_mount_is_judged_in_an_archive_too(tmp_path: Path) -> None:
    spec = {**SPEC, "mounts": [{"destination": "/x]:/host/etc", "type": "bind", "source": "/volumes/1"}]}
    path = write(tmp_path / "a.tar", tar_of(*checkpoint(**{"spec.dump": text(spec)})))
    with pytest.raises(ArchiveError, match=r"holds \]: or a control character"):
        inspect_archive(path)


def test_changed_files_do_not_move_a_mount(tmp_path: Path) -> None:
    diff = linked(("mnt", "etc"))
    members = checkpoint(**{"spec.dump": text(DATA_MOUNT), "rootfs-diff.tar": diff})
    source = layout_of(tmp_path, tar_of(entry("mnt/")), tar_of(*members))
    with pytest.raises(ImageError, match="lead the mount destination '/mnt/data' from '/mnt/data' to '/etc/data'"):
        inspect_image(source)


def test_a_layer_on_top_of_what_warmstart_added(warm: Path, tmp_path: Path) -> None:
    image, more = read_image(warm), tar_of(entry("etc/"), entry("etc/app", b"more"))
    layers = [(warm / "blobs" / layer.digest.replace(":", "/")).read_bytes() for layer in image.manifest.layers]
    history = [{"created_by": made} for made in ("", *image.config.history, "COPY etc")]
    source = layout_of(tmp_path, *layers, more, annotations=ANNOTATIONS, history=history)
    found = inspect_image(source)
    assert found.image is not None
    assert [layer.added for layer in found.image.layers] == [False, True, True, False]
    assert found.checkpoint is not None


@pytest.mark.parametrize("kind", ["layout", "archive", "gnu tar"])
def test_a_path_is_enough(kind: str, warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    if kind == "archive":
        write_archive(warm, read_image(warm), path, name="localhost/app:warm")
    elif kind == "gnu tar":
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(warm, ".")
    found = inspect_target(str(warm if kind == "layout" else path))
    assert found.image is not None
    assert found.image.digest == read_image(warm).manifest.digest


def test_a_checkpoint_archive_is_told_from_an_image_in_an_archive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar_of(*checkpoint()))
    assert inspect_target(str(path)) == inspect_archive(path)


def test_an_image_in_a_registry(warm: Path, registry: str) -> None:
    reference = Reference(registry, f"team/{uuid4().hex}", "warm")
    push_layout(warm, reference, access=http())
    found = inspect_target(str(reference), access=RegistryAccess((registry,)))
    assert found.name == str(reference)
    in_layout = inspect_image(Source(Transport.OCI, path=warm))
    assert (found.image, found.checkpoint) == (in_layout.image, in_layout.checkpoint)
    with pytest.raises(RegistryError, match=r"has no .*:other"):
        inspect_target(f"{reference.name}:other", access=RegistryAccess((registry,)))


def test_reports_that_are_attached_in_a_registry(warm: Path, registry: str) -> None:
    reference = Reference(registry, f"team/{uuid4().hex}", "warm")
    digest = push_layout(warm, reference, access=http())
    attach = partial(attach_report, reference, digest, access=http())
    attach(b"{}", artifact_type="application/vnd.example.other+json")
    assert inspect_target(str(reference), access=RegistryAccess((registry,))).reports == ()
    report = {
        "verified": "2026-03-01T10:00:00+00:00",
        "coldStartSeconds": 3,
        "restores": [{"firstSuccessSeconds": 0.25}],
        "provenance": {"runtime": "cri-o 1.36.3", "criu": "4.2.1", "kernel": "6.18"},
    }
    attach(json.dumps(report).encode(), artifact_type=REPORT_TYPE)
    found = inspect_target(str(reference), access=RegistryAccess((registry,)))
    assert (found.reports, found.reports_unread) == (
        (Report(report["verified"], "cri-o 1.36.3", "4.2.1", "6.18", 3.0, (0.25,)),),
        "",
    )
    attach(b"{}", artifact_type=REPORT_TYPE)
    found = inspect_target(str(reference), access=RegistryAccess((registry,)))
    assert (found.reports, found.checkpoint is None) == ((), False)
    assert "not a build report of warmstart" in found.reports_unread


@pytest.mark.parametrize(
    ("target", "error", "problem"),
    [
        ("./none", InputError, "none: no such file"),
        ("/dev/null", InputError, "found a file that is not a tar"),
        ("/proc", ImageError, "is not an OCI image layout"),
        ("UPPER CASE", ImageReferenceError, "is not the name of an image"),
        ("localhost/app:1", ImageError, "containers-storage:localhost/app:1 is not read here"),
    ],
)
def test_what_is_no_target_is_refused(target: str, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        inspect_target(target)


@pytest.mark.parametrize(
    ("annotations", "restorers"), [(CRIO, ("CRI-O",)), (CONTAINERD, ("containerd",)), (CRIO | CONTAINERD, None)]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_an_image_that_somebody_else_made(annotations, restorers, pack, tmp_path: Path) -> None:
    found = inspect_image(layout_of(tmp_path, pack(tar_of(*checkpoint())), annotations=annotations))
    assert found.image is not None
    assert found.image.restorers == (restorers or ("CRI-O", "containerd"))
    assert (found.image.provenance, found.image.added_bytes) == (None, None)
    assert (found.image.created, found.image.base_name) == ("2026-01-01T00:00:00Z", "")
    assert [layer.added for layer in found.image.layers] == [None]
    assert found.checkpoint is not None
    assert len(found.checkpoint.processes) == 3


def test_an_image_of_no_checkpoint_is_refused(tmp_path: Path) -> None:
    source = layout_of(tmp_path, tar_of(*checkpoint()), annotations={"org.example": "x"})
    with pytest.raises(ImageError, match="is not the image of a checkpoint: its manifest has none of the annotations"):
        inspect_image(source)


def test_the_topmost_checkpoint_counts(tmp_path: Path) -> None:
    lower = tar_of(*checkpoint(**{"spec.dump": text({**SPEC, "process": {**SPEC["process"], "args": ["older"]}})}))
    found = inspect_image(layout_of(tmp_path, lower, tar_of(*checkpoint()), tar_of(entry("etc/"))))
    assert found.checkpoint is not None
    assert found.checkpoint.container.args[0] == "java"


@pytest.mark.parametrize("hiding", [".wh.config.dump", ".wh.checkpoint", ".wh..wh..opq"])
def test_a_checkpoint_that_a_layer_hides_is_not_there(hiding: str, tmp_path: Path) -> None:
    found = inspect_image(layout_of(tmp_path, tar_of(*checkpoint()), tar_of(entry(hiding))))
    assert (found.checkpoint, found.unread) == (None, "none of its layers holds a checkpoint")


def damaged(name: str, data: bytes) -> bytes:
    return tar_of(*checkpoint({**real_dump(), name: data}))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (tar_of(entry("etc/")), "none of its layers holds a checkpoint"),
        (tar_of(*checkpoint(**{"spec.dump": None})), r"^layer sha256:\w+: has no 'spec.dump'"),
        (tar_of(*checkpoint(**{"config.dump": b"{}"})), r"^layer sha256:\w+: 'config.dump': id is missing"),
        (damaged("inventory.img", b""), r"^layer sha256:\w+/checkpoint/inventory.img: a magic number of 4 bytes"),
        (damaged("pstree.img", real_dump()["pstree.img"][:-1]), r"^layer sha256:\w+/checkpoint/pstree.img: a message"),
        (damaged("pages-4.img", b"x" * 4096), r"^layer sha256:\w+/checkpoint/pages-4.img: is 4096 bytes long, but"),
    ],
)
def test_what_cannot_be_read_is_told_of(layer: bytes, problem: str, tmp_path: Path) -> None:
    """Of an image that warmstart made more is expected than of another."""
    with pytest.raises(ArchiveError, match=problem):
        inspect_image(Source(Transport.OCI, path=make_layout(tmp_path / "ours", layer, annotations=ANNOTATIONS)))
    theirs = inspect_image(layout_of(tmp_path, layer))
    assert theirs.image is not None
    assert theirs.checkpoint is None
    with pytest.raises(ArchiveError, match=problem):
        raise ArchiveError(theirs.unread)


def test_an_archive_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", damaged("core-16.img", b"not CRIU's"))
    with pytest.raises(ArchiveError, match=f"^{path}/checkpoint/core-16.img: magic") as caught:
        inspect_archive(path)
    assert caught.value.hint


def test_damage_to_a_layer_is_found_although_only_its_start_is_needed(tmp_path: Path) -> None:
    layer = tar_of(*checkpoint())
    source = layout_of(tmp_path, layer)
    assert source.path is not None
    blob = source.path / "blobs" / read_image(source.path).manifest.layers[0].digest.replace(":", "/")
    write(blob, layer[:-1] + b"x")
    with pytest.raises(ImageError, match="is damaged"):
        inspect_image(source)


def test_memory_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for an outline is enough, whatever the size of the dump."""
    large = {**real_dump(), "pages-99.img": b"memory" * (10 << 20)}
    source = layout_of(tmp_path, zstandard.ZstdCompressor().compress(tar_of(*checkpoint(large))))
    monkeypatch.setattr(outline, "LIMIT_BYTES", 4 << 20)
    found = inspect_image(source)
    assert found.checkpoint is not None
    assert found.checkpoint.memory_bytes > 60 << 20


def test_a_document_of_an_edited_config_is_refused_as_in_an_archive(tmp_path: Path) -> None:
    config = json.dumps({**CONFIG, "ID": CONFIG["id"]}).encode()
    with pytest.raises(ArchiveError, match="runtimes take for the same"):
        inspect_archive(write(tmp_path / "a.tar", tar_of(*checkpoint(**{"config.dump": config}))))
