"""Create checkpoint images as warmstart and other tools do, with a real dump."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

import zstandard
from support.checkpoint_archive import CONFIG, SPEC, Entry, entry, tar_of, text

from warmstart.dump.archive.archive import CONFIG_DUMP, DELETED_FILES
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType, TcpState
from warmstart.image.annotations import BASE_DIGEST, BASE_NAME, CREATED, Provenance, write_provenance
from warmstart.image.compose import compose_image, pack_addition, pack_file
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import read_image, write_index
from warmstart.image.manifest import OCI_MANIFEST, Descriptor

SAMPLE = Path(__file__).parents[1] / "unit/dump/samples/objects.tar.xz"

PROVENANCE = Provenance(
    version="0.1.0",
    criu="4.2.1",
    runtime="cri-o 1.36.3",
    kernel="6.18.44",
    architecture="amd64",
    identity="1d" * 32,
    recipe='{"container": {"env": [{"name": "PASSWORD", "value": "hunter2"}]}}',
    edits='{"closedSockets": 2, "mappedBytes": 1048576, "processes": [{"pid": 16}]}',
)
BASE = {BASE_NAME: "registry.example.com/app:1.0", BASE_DIGEST: "sha256:" + "ba" * 32}
ANNOTATIONS = {CHECKPOINT_NAME: "app", CREATED: "2026-03-01T10:00:06Z", **BASE, **write_provenance(PROVENANCE)}


def edit_annotations(layout: Path, edit: Callable[[dict[str, str]], None]) -> None:
    """Change the annotations of a layout's image. This changes its digest."""
    manifest = json.loads((layout / "blobs" / read_image(layout).manifest.digest.replace(":", "/")).read_bytes())
    edit(manifest["annotations"])
    data = json.dumps(manifest).encode()
    digest = sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    write_index(layout, Descriptor(OCI_MANIFEST, f"sha256:{digest}", len(data)))


ORDINARY = {"cap_eff": [0], "cap_prm": [0], "cap_bnd": [0x5FB], "cap_inh": [0], "cap_amb": [0]}


def with_credentials(image: bytes, **fields: object) -> bytes:
    """Return a core image with other credentials of its thread, such as `cap_eff=[1]` or `no_new_privs=1`."""
    head, (size,) = image[:8], struct.unpack("<I", image[8:12])
    core = protos.Core.FromString(image[12 : 12 + size])
    creds = core.thread_core.creds
    for name, value in fields.items():
        creds.ClearField(name)
        if isinstance(value, list):
            getattr(creds, name).extend(value)
        else:
            setattr(creds, name, value)
    message = core.SerializeToString()
    return head + struct.pack("<I", len(message)) + message


@cache
def real_dump() -> dict[str, bytes]:
    """Return CRIU's images of a real dump of three processes, by name.

    The credentials are changed to those of an ordinary container, and a few sockets are added.
    """
    with tarfile.open(SAMPLE) as tar:
        images = {Path(info.name).name: tar.extractfile(info).read() for info in tar if info.isfile()}
    for name in ("core-16.img", "core-17.img", "core-18.img"):
        images[name] = with_credentials(images[name], **ORDINARY)
    sockets = [
        inet_socket(socket.AF_INET6, socket.IPPROTO_TCP, TcpState.LISTEN, "::", 8080),
        inet_socket(socket.AF_INET, socket.IPPROTO_UDP, TcpState.ESTABLISHED, "10.0.0.7", 5353, "10.0.0.53", 53),
        inet_socket(socket.AF_INET, 262, TcpState.LISTEN, "0.0.0.0", 9090),
    ]
    images["files.img"] += b"".join(struct.pack("<I", len(message)) + message for message in sockets)
    return images


def inet_socket(family: int, protocol: int, state: int, source: str, port: int, peer: str = "", peer_port=0) -> bytes:
    def words(address: str) -> list[int]:
        raw = socket.inet_pton(family, address) if address else bytes(4 if family == socket.AF_INET else 16)
        return list(struct.unpack(f"<{len(raw) // 4}I", raw))

    kind = socket.SOCK_DGRAM if protocol == socket.IPPROTO_UDP else socket.SOCK_STREAM
    isk = protos.File().isk.__class__(
        id=90,
        ino=port,
        family=family,
        type=kind,
        proto=protocol,
        state=state,
        src_port=port,
        dst_port=peer_port,
        src_addr=words(source),
        dst_addr=words(peer),
    )
    return protos.File(type=FileType.INET_SOCKET, id=9000 + port, isk=isk).SerializeToString()


def checkpoint(images: Mapping[str, bytes] | None = None, **others: bytes | None) -> list[Entry]:
    """Return the members of a checkpoint archive as CRI-O writes them; `others` replace or (None) omit members."""
    files = {
        "config.dump": text(CONFIG),
        "spec.dump": text(SPEC),
        "rootfs-diff.tar": tar_of(entry("tmp/"), entry("tmp/new", b"new")),
        "deleted.files": text(["/var/cache/app"]),
        **others,
    }
    dump = real_dump() if images is None else images
    return [
        entry("checkpoint/"),
        *(entry(f"checkpoint/{name}", content) for name, content in sorted(dump.items())),
        *(entry(name, content) for name, content in files.items() if content is not None),
    ]


def prepared() -> list[Entry]:
    """Return the members as `prepare_checkpoint` writes them into an image."""
    config = {key: value for key, value in CONFIG.items() if key != "rootfsImageRef"}
    own = ["/checkpoint", "/config.dump", "/deleted.files", "/rootfs-diff.tar", "/spec.dump"]
    deleted = text(["/var/cache/app", *own])
    return checkpoint(**{CONFIG_DUMP: text({**config, "rootfsImageName": "app:warm"}), DELETED_FILES: deleted})


def make_layout(
    path: Path, *layers: bytes, annotations: Mapping[str, str], history: list | None = None, media_type: str = "tar"
) -> Path:
    """Write a layout with one image that has these layers."""
    (path / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str) -> Descriptor:
        digest = sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return Descriptor(kind, f"sha256:{digest}", len(data))

    config = {
        "created": "2026-01-01T00:00:00Z",
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [find_diff_id(layer) for layer in layers]},
    }
    if history is not None:
        config["history"] = history
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json").to_json(),
        "layers": [blob(layer, f"application/vnd.oci.image.layer.v1.{media_type}").to_json() for layer in layers],
        "annotations": dict(annotations),
    }
    write_index(path, blob(json.dumps(manifest).encode(), OCI_MANIFEST))
    return path


def find_diff_id(layer: bytes) -> str:
    """Return the digest of a decompressed layer, or of the layer as it is if it is damaged."""
    try:
        if layer.startswith(b"\x1f\x8b"):
            layer = gzip.decompress(layer)
        elif layer.startswith(b"\x28\xb5\x2f\xfd"):
            layer = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(layer)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        pass
    return f"sha256:{sha256(layer).hexdigest()}"


def make_warm_image(
    place: Path, annotations: Mapping[str, str] = ANNOTATIONS, base_history: list | None = None
) -> Path:
    """Write a layout with a warm image: a base with one layer, and memory and checkpoint on top."""
    base = make_layout(place / "base", tar_of(entry("app", b"x")), annotations={}, history=base_history)
    addition = make_layout(place / "addition", tar_of(*prepared()), annotations=annotations)
    file, content = tarfile.TarInfo(".warmstart/memory"), b"memory" * 1000
    file.size = len(content)
    memory = pack_file(file, [content], place / "image")
    compose_image(base, addition, place / "image", [memory, *pack_addition(addition, place / "image")])
    return place / "image"
