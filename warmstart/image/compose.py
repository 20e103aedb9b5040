"""Compose an image from a base image and layers on top, leaving the base's own layers untouched.

The base's blobs keep their digests, so a node or registry that has them does not fetch them again.
Formats: manifest.md, config.md and image-layout.md of https://github.com/opencontainers/image-spec.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from warmstart.image.annotations import CREATED
from warmstart.image.frames import FrameCompressor
from warmstart.image.layout import CheckedReader, Image, open_blob, read_document, read_image, write_index
from warmstart.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor, find_digest
from warmstart.recipe.model import Compression

OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
# On two processors, 121 MiB of a Java process take 0.2 s at level 1 (29.5 MiB), 2.4 s at 12 (24.3 MiB), 29 s at 17
# (22.0 MiB) and 44 s at 19 (21.1 MiB).
ZSTD_LEVELS = {Compression.FAST: 1, Compression.SMALL: 12}
# A frame knows nothing of those before it. With these sizes, layers grow by less than 1 %.
_FRAME_BYTES = {Compression.FAST: 2 << 20, Compression.SMALL: 8 << 20}
#: How the history of an image begins that speaks of a layer of ours.
CREATED_BY = "warmstart build: "
CHECKPOINT = f"{CREATED_BY}checkpoint"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A layer in a layout: its compressed blob, the digest of its tar, and its entry in the image's history."""

    blob: Descriptor
    diff_id: str
    created_by: str


@dataclass(frozen=True)
class Run:
    """Entrypoint, Cmd and User of an image that starts differently from its base image; `env` extends its Env."""

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    user: str
    env: tuple[tuple[str, str], ...] = ()


class LayerWriter:
    """Compresses a tar, written to it piece by piece, into a blob of a layout; finds both digests on the way."""

    def __init__(self, layout: Path, created_by: str, compression: Compression = Compression.FAST) -> None:
        self._blobs = layout / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._partial = self._blobs / f".layer-{os.urandom(4).hex()}"
        self._out = self._partial.open("xb")
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._size_bytes = 0
        self._compressor = FrameCompressor(ZSTD_LEVELS[compression], _FRAME_BYTES[compression], self._store)
        self._created_by = created_by

    def write(self, data: bytes | memoryview) -> int:
        """Add a piece of the tar."""
        self._plain.update(data)
        self._compressor.write(data)
        return len(data)

    def finish(self) -> Layer:
        """Finish the tar and return the layer."""
        self._compressor.finish()
        self._out.close()
        digest = self._packed.hexdigest()
        self._partial.rename(self._blobs / digest)
        blob = Descriptor(OCI_LAYER_ZSTD, f"sha256:{digest}", self._size_bytes)
        return Layer(blob, f"sha256:{self._plain.hexdigest()}", self._created_by)

    def abandon(self) -> None:
        """Remove what has been written."""
        self._compressor.abandon()
        self._out.close()
        self._partial.unlink(missing_ok=True)

    def _store(self, data: bytes) -> None:
        self._packed.update(data)
        self._size_bytes += len(data)
        self._out.write(data)


def pack_layer(
    tar: BinaryIO | CheckedReader, layout: Path, created_by: str, compression: Compression = Compression.FAST
) -> Layer:
    """Compress a whole tar into a layer of a layout."""
    writer = LayerWriter(layout, created_by, compression)
    while chunk := tar.read(_CHUNK_BYTES):
        writer.write(chunk)
    return writer.finish()


def pack_file(
    file: tarfile.TarInfo,
    content: Iterable[bytes | memoryview],
    layout: Path,
    compression: Compression = Compression.FAST,
) -> Layer:
    """Make a layer that holds one file.

    Args:
        file: its path in the image, without a leading slash, its size, mode and owner; parent directories are created.
        content: its content, in pieces.
        layout: where the layer goes.
        compression: of the layer.
    """
    writer = LayerWriter(layout, f"{CREATED_BY}{file.name}", compression)
    try:
        for parent in reversed(PurePosixPath(file.name).parents[:-1]):
            directory = tarfile.TarInfo(f"{parent}/")
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            writer.write(directory.tobuf())
        writer.write(file.tobuf())
        # A TarFile would copy each block three times.
        for piece in content:
            writer.write(piece)
        writer.write(bytes(-file.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def pack_addition(addition: Path, layout: Path, compression: Compression = Compression.FAST) -> list[Layer]:
    """Compress the layers of an image made from scratch into another layout.

    Raises:
        ImageError: its layout is broken.
    """
    layers = []
    for blob in read_image(addition).manifest.layers:
        with open_blob(addition, blob) as tar:
            layers.append(pack_layer(tar, layout, CHECKPOINT, compression))
    return layers


def compose_image(base: Path, addition: Path, layout: Path, layers: Sequence[Layer], run: Run | None = None) -> Image:
    """Make an image of a base image, `layers` on top, and what else an addition says.

    Args:
        base: the layout of the base image.
        addition: the layout of an image made from scratch: its annotations and labels are added to the base's; its Cmd
            is used if the base has neither Entrypoint nor Cmd.
        layout: where to make the image; holds the blobs of `layers` already.
        layers: layers on top, those of `pack_addition` among them.
        run: its entrypoint, command and user; the base image's when None.

    Raises:
        ImageError: one of the layouts is broken.
    """
    above = read_image(addition)
    added = json.loads(read_document(addition, above.manifest.config))
    return _put_together(base, layout, layers, added, above.manifest.annotations, run)


def add_layers(
    base: Path,
    layout: Path,
    layers: Sequence[Layer],
    run: Run | None,
    annotations: Mapping[str, str],
    labels: Mapping[str, str],
) -> Image:
    """Make an image of a base image and `layers` alone.

    Args:
        base: the layout of the base image.
        layout: where to make the image; holds the blobs of `layers` already.
        layers: layers on top.
        run: its entrypoint, command and user; the base image's when None.
        annotations: of the manifest; CREATED is one.
        labels: added to those of the base image.

    Raises:
        ImageError: the layout of the base image is broken.
    """
    added = {"created": annotations[CREATED], "config": {"Labels": dict(labels)}}
    return _put_together(base, layout, layers, added, annotations, run)


def add_annotations(layout: Path, annotations: Mapping[str, str]) -> Image:
    """Add annotations to the manifest of an image; its digest is another one then.

    Raises:
        ImageError: the layout is broken.
    """
    manifest = json.loads(read_document(layout, read_image(layout).manifest.descriptor))
    manifest["annotations"] = {**manifest.get("annotations", {}), **annotations}
    write_index(layout, _write_document(layout, manifest, OCI_MANIFEST))
    return read_image(layout)


@dataclass(frozen=True)
class Replacement:
    """Layers that have the files of one or more adjacent layers of another image.

    Attributes:
        replaced: number of those layers.
        layers: blob and digest of the tar of each new layer, lowest first.
    """

    replaced: int
    layers: Sequence[tuple[Descriptor, str]]


def replace_layers(layout: Path, into: Path, replacements: Sequence[Replacement]) -> Image:
    """Write an image with other layers than another one: the same files, packed differently.

    Args:
        layout: layout of the other image.
        into: the new layout; holds the blobs of the new layers already.
        replacements: for all layers of the image, lowest first.

    Raises:
        ImageError: the layout is broken.
    """
    image = read_image(layout)
    config = json.loads(read_document(layout, image.manifest.config))
    layers = [layer for one in replacements for layer in one.layers]
    config["rootfs"]["diff_ids"] = [diff_id for _, diff_id in layers]
    config["history"] = _replace_history(config.get("history") or [], replacements)
    return _write_image(into, config, [blob for blob, _ in layers], image.manifest.annotations)


def _replace_history(history: Sequence[dict[str, Any]], replacements: Sequence[Replacement]) -> list[dict[str, Any]]:
    """Return as many entries of layers as there are new layers; the others say that they have no layer of their own."""
    counts = [count for one in replacements for count in (len(one.layers), *[0] * (one.replaced - 1))]
    # If the base image has no history, only the layers on top have.
    missing = len(counts) - sum(not entry.get("empty_layer") for entry in history)
    left = iter(counts[missing:])
    replaced: list[dict[str, Any]] = []
    for entry in history:
        count = 0 if entry.get("empty_layer") else next(left)
        replaced += [entry] * count or [{**entry, "empty_layer": True}]
    return replaced


def link_layers(layers: Sequence[Layer], source: Path, target: Path) -> None:
    """Put layers of one layout into another on the same filesystem."""
    for layer in layers:
        _link_blob(source, target, layer.blob)


def _put_together(
    base: Path,
    layout: Path,
    layers: Sequence[Layer],
    added: Mapping[str, Any],
    annotations: Mapping[str, str],
    run: Run | None,
) -> Image:
    below = read_image(base)
    for blob in below.manifest.layers:
        _link_blob(base, layout, blob)
    config = json.loads(read_document(base, below.manifest.config))
    _extend_config(config, added, layers)
    if run is not None:
        how: dict[str, object] = {"Entrypoint": list(run.entrypoint), "Cmd": list(run.cmd), "User": run.user}
        if run.env:
            how["Env"] = _merge_env(config["config"].get("Env") or [], run.env)
        config["config"] = {**config["config"], **how}
    blobs = [*below.manifest.layers, *(layer.blob for layer in layers)]
    return _write_image(layout, config, _without_annotations(blobs), annotations)


def _merge_env(entries: Sequence[str], env: Sequence[tuple[str, str]]) -> list[str]:
    merged = {entry.partition("=")[0]: entry for entry in entries}
    merged |= {name: f"{name}={value}" for name, value in env}
    return list(merged.values())


def remove_checkpoint(layout: Path, base: Path) -> Image:
    """Make a copy of an image without its checkpoint layer, if it has one, and without its annotations.

    Other layers stay: a container restored from the image may need the memory in them.

    Args:
        layout: the layout of the image.
        base: layout of the copy, on the same filesystem.

    Raises:
        ImageError: the layout is broken.
    """
    image = read_image(layout)
    config = json.loads(read_document(layout, image.manifest.config))
    history = config.get("history") or []
    makers = [entry.get("created_by", "") for entry in history if not entry.get("empty_layer")]
    blobs = image.manifest.layers
    kept = [place for place in range(len(blobs)) if len(makers) != len(blobs) or makers[place] != CHECKPOINT]
    return _write_less(layout, base, image, config, kept, lambda maker: maker == CHECKPOINT)


def take_apart(layout: Path, base: Path, launcher: Sequence[str] = ()) -> Image:
    """Recover the base image of an image that `compose_image` made; labels, variables, user and command stay.

    Args:
        layout: the layout of the image.
        base: layout of the base image, on the same filesystem.
        launcher: first words of the entrypoint of an image that restores itself; the base image has none of them.

    Raises:
        ImageError: the layout is broken.
    """
    image = read_image(layout)
    config = json.loads(read_document(layout, image.manifest.config))
    run = config.setdefault("config", {})
    entrypoint = run.get("Entrypoint") or []
    if launcher and entrypoint[: len(launcher)] == list(launcher):
        run["Entrypoint"] = entrypoint[len(launcher) :]
    added = sum(entry.startswith(CREATED_BY) for entry in image.config.history)
    kept = range(len(image.manifest.layers) - added)
    return _write_less(layout, base, image, config, kept, lambda maker: maker.startswith(CREATED_BY))


def _write_less(
    layout: Path,
    base: Path,
    image: Image,
    config: dict[str, Any],
    kept: Sequence[int],
    is_gone: Callable[[str], bool],
) -> Image:
    """Write an image with the `kept` layers of another one, and without the history entries that `is_gone` accepts."""
    blobs = [image.manifest.layers[place] for place in kept]
    config["rootfs"]["diff_ids"] = [one for place, one in enumerate(config["rootfs"]["diff_ids"]) if place in kept]
    history = config.get("history") or []
    config["history"] = [entry for entry in history if not is_gone(entry.get("created_by", ""))]
    for blob in blobs:
        _link_blob(layout, base, blob)
    return _write_image(base, config, _without_annotations(blobs), {})


def _without_annotations(blobs: Sequence[Descriptor]) -> list[Descriptor]:
    return [replace(blob, annotations={}) for blob in blobs]


def _extend_config(config: dict[str, Any], addition: Mapping[str, Any], layers: Sequence[Layer]) -> None:
    created = addition["created"]
    config["created"] = created
    config["rootfs"]["diff_ids"] += [layer.diff_id for layer in layers]
    config.setdefault("history", []).extend({"created": created, "created_by": layer.created_by} for layer in layers)
    run, added = config.setdefault("config", {}), addition.get("config") or {}
    if labels := added.get("Labels"):
        run["Labels"] = {**(run.get("Labels") or {}), **labels}
    # CRI-O refuses to create a container from an image without either, even to restore it.
    if not run.get("Entrypoint") and not run.get("Cmd") and added.get("Cmd"):
        run["Cmd"] = added["Cmd"]


def _write_image(
    layout: Path, config: Mapping[str, Any], blobs: Sequence[Descriptor], annotations: Mapping[str, str]
) -> Image:
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _write_document(layout, config, OCI_CONFIG).to_json(),
        "layers": [blob.to_json() for blob in blobs],
        "annotations": dict(annotations),
    }
    write_index(layout, _write_document(layout, manifest, OCI_MANIFEST))
    return read_image(layout)


def _write_document(layout: Path, document: Mapping[str, Any], media_type: str) -> Descriptor:
    data = json.dumps(document).encode()
    digest = find_digest(data)
    (layout / "blobs" / digest.replace(":", "/")).write_bytes(data)
    return Descriptor(media_type, digest, len(data))


def _link_blob(source: Path, target: Path, blob: Descriptor) -> None:
    below = Path("blobs") / blob.digest.replace(":", "/")
    (target / below).parent.mkdir(parents=True, exist_ok=True)
    if not (target / below).exists():
        os.link(source / below, target / below)
