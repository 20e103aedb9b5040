"""Inspect the contents, origin and size of a checkpoint archive or an image.

Nothing is trusted and nothing is run. Neither root nor any tool is needed. All text in an inspection is raw: code that
shows it must escape the control characters of terminals (`warmstart.cli.views.inspect` does).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

from warmstart.build.publish import REPORT_TYPE
from warmstart.build.result import Report, parse_report
from warmstart.core.errors import ArchiveError, CheckpointError, ImageError, RegistryError
from warmstart.core.privileges import name_capability
from warmstart.core.reference import Reference, Source, Transport
from warmstart.core.workspace import open_workspace
from warmstart.dump.archive.archive import (
    BIND_MOUNTS,
    CHECKPOINT_DIRECTORY,
    CONFIG_DUMP,
    DELETED_FILES,
    ROOTFS_DIFF,
    SPEC_DUMP,
    Archive,
    RootfsDiff,
)
from warmstart.dump.archive.metadata import Mount, User
from warmstart.dump.archive.outline import extract_outline, extract_spooled, spool_outline
from warmstart.dump.criu.contents import Process, Socket, read_inventory, read_processes, read_sockets, sum_pages_bytes
from warmstart.dump.criu.credentials import Credentials, read_credentials
from warmstart.dump.state.document import parse_state
from warmstart.dump.state.model import KernelState
from warmstart.image.annotations import (
    BASE_DIGEST,
    BASE_NAME,
    CREATED,
    PREFIX,
    SECRETS,
    STATE,
    Provenance,
    read_provenance,
)
from warmstart.image.compose import CREATED_BY
from warmstart.image.crio import CHECKPOINT_NAME, list_expected_mounts, list_given_annotations
from warmstart.image.layout import Image
from warmstart.image.manifest import Platform
from warmstart.image.mount_points import Links, add_layer, check_checkpoint, check_image
from warmstart.image.open import OpenedImage, open_image
from warmstart.image.registry.client import read_reports
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.secrets.record import FoundSecret, parse_record
from warmstart.image.selfrestore.inspect import unpack_launched
from warmstart.image.selfrestore.pack import read_manifest, restores_itself
from warmstart.image.signatures.check import ANYBODY, Checked, Trust
from warmstart.inspect.target import read_target

#: Runtimes that restore an image, by the manifest annotation that each looks for. containerd's is checkpointctl's
#: (`lib/annotations.go` of https://github.com/checkpoint-restore/checkpointctl).
RESTORERS = {CHECKPOINT_NAME: "CRI-O", "org.criu.checkpoint.container.name": "containerd"}

#: The same for an image that has the launcher as its entrypoint.
ITSELF = "itself"

# Whiteouts: files in a layer that hide files of the layers below it (layer.md of the image specification).
_HIDING = {f".wh.{CONFIG_DUMP}", f".wh.{CHECKPOINT_DIRECTORY}", ".wh..wh..opq"}


# Files of a checkpoint outside its directory.
_BESIDE = frozenset({CONFIG_DUMP, SPEC_DUMP, BIND_MOUNTS, DELETED_FILES, ROOTFS_DIFF})


@dataclass(frozen=True)
class Layer:
    """A layer of an image.

    Attributes:
        digest: digest of its blob.
        media_type: media type of its blob.
        size_bytes: size of its blob, compressed according to the media type.
        created_by: command or program that made it; empty if not recorded.
        added: whether warmstart added it to the base image; None if not recorded.
    """

    digest: str
    media_type: str
    size_bytes: int
    created_by: str
    added: bool | None


@dataclass(frozen=True)
class ImageFacts:
    """The metadata of an image.

    Attributes:
        digest: digest of its manifest.
        platform: its operating system and architecture.
        created: creation time as written in the image; empty if not recorded.
        base_name: its base image; empty if not recorded.
        base_digest: manifest digest of the base image; empty if not recorded.
        restorers: values of RESTORERS, and ITSELF.
        provenance: warmstart's build record; None for an image that warmstart did not make.
        notes: warmstart's other annotations, without their prefix.
        layers: from the lowest.
        secrets: secrets of the build that it is recorded to hold; None if its build searched for none.
        state: the kernel state of the application before the checkpoint; empty if not recorded.
    """

    digest: str
    platform: Platform
    created: str
    base_name: str
    base_digest: str
    restorers: tuple[str, ...]
    provenance: Provenance | None
    notes: Mapping[str, str]
    layers: tuple[Layer, ...]
    secrets: tuple[FoundSecret, ...] | None = None
    state: KernelState = field(default_factory=KernelState)

    @property
    def size_bytes(self) -> int:
        """The compressed size of all layers."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def added_bytes(self) -> int | None:
        """The compressed size of the layers on top of the base image; None if unknown."""
        if any(layer.added is None for layer in self.layers):
            return None
        return sum(layer.size_bytes for layer in self.layers if layer.added)


@dataclass(frozen=True)
class ContainerFacts:
    """The container that was checkpointed.

    Attributes:
        name: its name in its pod.
        args: its command line.
        env: its environment as (name, value) pairs; values may be secrets.
        cwd: its working directory.
        user: its user and groups.
        mounts: mounts that a pod needs for CRI-O to restore it.
        runtime: OCI runtime, or CRI-O's handler for it; may be empty.
        root_image: image of its root filesystem, as the runtime names it; may be empty.
        created: time of its creation.
        checkpointed: time of the checkpoint; None if the runtime does not record it.
        limits: its privileges under the runtime; None for an image that restores itself, since its pod sets them.
    """

    name: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(repr=False)
    cwd: str
    user: User
    mounts: tuple[Mount, ...]
    runtime: str
    root_image: str
    created: datetime
    checkpointed: datetime | None
    limits: ContainerLimits | None = None


@dataclass(frozen=True)
class ContainerLimits:
    """The privileges of a container under its runtime, by its configuration (spec.dump).

    Attributes:
        capabilities: capabilities in any of the sets, without `CAP_`.
        no_new_privs: whether its processes were kept from gaining privileges.
        filtered: whether the runtime put them under a system call filter.
        apparmor: AppArmor profile; may be empty.
        devices: paths of its devices.
        annotations: keys of the annotations passed to the runtime.
    """

    capabilities: tuple[str, ...]
    no_new_privs: bool
    filtered: bool
    apparmor: str
    devices: tuple[str, ...]
    annotations: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint.

    Attributes:
        container: the checkpointed container.
        processes: parents before their children.
        sockets: internet sockets.
        closes_tcp: whether open connections are closed in the restored container.
        memory_bytes: all memory in the dump, private and shared.
        size_bytes: size of all files of the checkpoint, uncompressed.
        rootfs_diff: files that the container changed in its root filesystem; None for no changes.
        deleted_files: files that it deleted there, without the checkpoint's own files that CRI-O is to delete.
        credentials: credentials of each thread, by process id.
    """

    container: ContainerFacts
    processes: tuple[Process, ...]
    sockets: tuple[Socket, ...]
    closes_tcp: bool
    memory_bytes: int
    size_bytes: int
    rootfs_diff: RootfsDiff | None
    deleted_files: tuple[str, ...]
    credentials: Mapping[int, tuple[Credentials, ...]] = field(default_factory=dict)

    @property
    def shared_bytes(self) -> int:
        """The memory that belongs to no single process, such as shared memory segments."""
        return max(0, self.memory_bytes - sum(process.memory_bytes for process in self.processes))


@dataclass(frozen=True)
class Inspection:
    """The contents of an image or an archive.

    Attributes:
        name: name or path of the image or archive, as given.
        image: None for an archive.
        checkpoint: None if it could not be read.
        unread: reason the checkpoint could not be read, for an image that warmstart did not make; else empty.
        reports: build reports attached to the image in its registry.
        reports_unread: reason the reports could not be read; empty if they could, or if there are none.
        signatures: signatures by trusted signers; None if none are given.
    """

    name: str
    image: ImageFacts | None
    checkpoint: CheckpointFacts | None
    unread: str = ""
    reports: tuple[Report, ...] = ()
    reports_unread: str = ""
    signatures: Checked | None = None


def inspect_target(target: str, *, access: RegistryAccess = DEFAULT_ACCESS, signed: Trust = ANYBODY) -> Inspection:
    """Inspect a checkpoint archive or an image.

    Args:
        target: path of a checkpoint archive, an oci-archive, or a layout; or an image, as for `parse_source`.
        access: registries without TLS, and the file of credentials.
        signed: keys, one of which must have signed the image.

    Raises:
        SignatureError: none of the keys did, or it is in no registry.
        ArchiveError: the archive, or the checkpoint in an image that warmstart made, is broken or unsafe.
        ImageError: the image holds no checkpoint, is broken, or cannot be read.
        InputError: it is a recipe, or a file that does not exist.
        ImageReferenceError: it is neither a path nor the name of an image.
        RegistryError: the registry refused, or could not be reached.
    """
    found = read_target(target)
    if found.source is not None:
        return inspect_image(found.source, access=access, signed=signed)
    if found.path is None or found.recipe is not None:
        raise found.mismatch("an image or a checkpoint archive")
    signed.refuse_file(target)
    return inspect_archive(found.path)


def inspect_archive(path: Path) -> Inspection:
    """Inspect a checkpoint archive.

    Raises:
        ArchiveError: the file cannot be read, is no checkpoint archive, is broken, or is unsafe.
    """
    with open_workspace("inspect") as workspace:
        archive = extract_outline(path, workspace / "outline")
        return Inspection(str(path), None, _describe_checkpoint(archive, str(path)))


def inspect_image(source: Source, *, access: RegistryAccess = DEFAULT_ACCESS, signed: Trust = ANYBODY) -> Inspection:
    """Inspect the image of a checkpoint. Only layers that can hold the checkpoint are read.

    Args:
        source: image in a registry, in a layout, or in an oci-archive.
        access: registries without TLS, and the file of credentials.
        signed: keys, one of which must have signed the image.

    Raises:
        SignatureError: none of the keys did, or it is in no registry.
        ArchiveError: the checkpoint in an image that warmstart made is missing, broken, or unsafe.
        ImageError: the image holds no checkpoint, is broken, or cannot be read.
        RegistryError: the registry refused, or could not be reached.
    """
    name = str(source.reference or source)
    with (
        open_workspace("inspect") as workspace,
        open_image(source, access=access) as opened,
    ):
        checked = signed.require(source, opened.image.manifest, access)
        facts = _describe_image(opened.image, name)
        is_local = source.kind is not Transport.REGISTRY
        try:
            if facts.restorers == (ITSELF,):
                _check_mount_points(opened, None, name, is_local=is_local)
                found = Inspection(name, facts, _describe_launched(opened, facts, workspace))
            else:
                layer, archive = _find_checkpoint(opened, facts, workspace)
                _check_mount_points(opened, archive, name, is_local=is_local)
                found = Inspection(name, facts, _describe_checkpoint(archive, layer))
        except ArchiveError as error:
            if facts.provenance is not None:
                raise
            found = Inspection(name, facts, None, error.brief)
        found = replace(found, signatures=checked)
        if source.kind is not Transport.REGISTRY or source.reference is None:
            return found
        try:
            return replace(found, reports=_read_reports(source.reference, facts.digest, access))
        except (ImageError, RegistryError) as error:
            # Anyone who can push may attach anything, so a bad report is no fault of the image.
            return replace(found, reports_unread=error.brief)


def _read_reports(reference: Reference, digest: str, access: RegistryAccess) -> tuple[Report, ...]:
    documents = read_reports(reference, digest, artifact_type=REPORT_TYPE, access=access)
    return tuple(map(parse_report, documents))


def _describe_image(image: Image, name: str) -> ImageFacts:
    annotations = image.manifest.annotations
    restorers = tuple(restorer for annotation, restorer in RESTORERS.items() if annotation in annotations)
    restorers += (ITSELF,) if restores_itself(image.config) else ()
    if not restorers:
        raise ImageError(
            f"{name} is not the image of a checkpoint: its manifest has none of the annotations {', '.join(RESTORERS)}",
            hint="these are lost when an image is converted to Docker's format",
        )
    provenance = read_provenance(annotations)
    known = {PREFIX + SECRETS, PREFIX + STATE, *(PREFIX + attribute.name for attribute in fields(Provenance))}
    return ImageFacts(
        digest=image.manifest.digest,
        platform=image.config.platform,
        created=annotations.get(CREATED, image.config.created),
        base_name=annotations.get(BASE_NAME, ""),
        base_digest=annotations.get(BASE_DIGEST, ""),
        restorers=restorers,
        provenance=provenance,
        notes={
            key.removeprefix(PREFIX): value
            for key, value in annotations.items()
            if key.startswith(PREFIX) and key not in known
        },
        layers=_describe_layers(image),
        secrets=parse_record(annotations[PREFIX + SECRETS]) if PREFIX + SECRETS in annotations else None,
        state=parse_state(annotations[PREFIX + STATE]) if PREFIX + STATE in annotations else KernelState(),
    )


def _describe_layers(image: Image) -> tuple[Layer, ...]:
    blobs = image.manifest.layers
    known = any(made.startswith(CREATED_BY) for made in image.makers)
    return tuple(
        Layer(blob.digest, blob.media_type, blob.size_bytes, made, made.startswith(CREATED_BY) if known else None)
        for blob, made in zip(blobs, image.makers, strict=False)
    )


def _find_checkpoint(opened: OpenedImage, facts: ImageFacts, workspace: Path) -> tuple[str, Archive]:
    """Return the label of the topmost layer with a checkpoint, and the outline of that checkpoint."""
    blobs = opened.image.manifest.layers
    # The layers below those that warmstart added are the base image, and are not fetched.
    lowest = next((index for index, layer in enumerate(facts.layers) if layer.added), 0)
    for index in range(len(blobs) - 1, lowest - 1, -1):
        label = f"layer {blobs[index].digest}"
        spool = workspace / f"layer-{index}"
        with opened.open_layer(blobs[index]) as tar:
            names = set(spool_outline(tar, spool, label))
        if names & {CONFIG_DUMP, f"{CHECKPOINT_DIRECTORY}/inventory.img"}:
            return label, extract_spooled(spool, workspace / "outline", label)
        if not names & _HIDING and any(map(_is_of_checkpoint, names)):
            # A runtime would restore the lower layer's checkpoint with these files in it.
            raise ArchiveError(f"{label}: changes the checkpoint of a layer below it")
        spool.unlink()
        if names & _HIDING:
            break
    raise ArchiveError("none of its layers holds a checkpoint")


def _check_mount_points(opened: OpenedImage, archive: Archive | None, name: str, *, is_local: bool) -> None:
    """Check mount destinations. The layers of an image in a registry are not fetched for this."""
    links = Links()
    for layer in opened.image.manifest.layers if is_local else ():
        add_layer(links, opened, layer)
    if archive is None:
        check_image(links, name)
    else:
        check_checkpoint(links, archive, name)


def _is_of_checkpoint(name: str) -> bool:
    top, *rest = posixpath.normpath(name).lstrip("/").split("/")
    return top == CHECKPOINT_DIRECTORY or (not rest and top.removeprefix(".wh.") in _BESIDE)


def _describe_checkpoint(archive: Archive, label: str) -> CheckpointFacts:
    directory = archive.checkpoint_dir
    try:
        inventory = read_inventory(directory)
        processes, sockets = read_processes(directory), read_sockets(directory)
        credentials = read_credentials(directory)
    except ArchiveError as error:
        # The user does not know the temporary directory, so the error names the archive or layer.
        brief = error.brief.replace(str(archive.root), label)
        raise ArchiveError(brief, details=error.details, hint=error.hint) from error
    own = {f"/{name}" for name in (DELETED_FILES, *(member.name for member in archive.members))}
    return CheckpointFacts(
        container=_describe_container(archive),
        processes=processes,
        sockets=sockets,
        closes_tcp=inventory.tcp_close,
        memory_bytes=sum_pages_bytes(directory),
        size_bytes=archive.size_bytes,
        rootfs_diff=archive.rootfs_diff,
        deleted_files=tuple(path for path in archive.deleted_files if path not in own),
        credentials=credentials,
    )


def _describe_container(archive: Archive) -> ContainerFacts:
    spec, config = archive.spec, archive.config
    # The runtime's defaults precede the image's variables of the same name. runc takes the last.
    variables = {name: value for name, _, value in (variable.partition("=") for variable in spec.env)}
    return ContainerFacts(
        name=archive.container_name,
        args=spec.args,
        env=tuple(variables.items()),
        cwd=spec.cwd,
        user=spec.user,
        mounts=list_expected_mounts(spec),
        runtime=config.runtime,
        root_image=config.rootfs_image_name or config.rootfs_image,
        created=config.created,
        checkpointed=config.checkpointed,
        limits=ContainerLimits(
            capabilities=tuple(
                sorted({name_capability(name) for names in vars(spec.capabilities).values() for name in names})
            ),
            no_new_privs=spec.no_new_privs,
            filtered=spec.filtered,
            apparmor=spec.apparmor,
            devices=spec.devices,
            annotations=list_given_annotations(spec),
        ),
    )


def _describe_launched(opened: OpenedImage, facts: ImageFacts, workspace: Path) -> CheckpointFacts:
    """Describe the checkpoint of an image that restores itself, from the topmost layer with a checkpoint."""
    for index, layer in reversed(list(enumerate(opened.image.manifest.layers))):
        if not facts.layers[index].added:
            continue
        directory, label = workspace / f"layer-{index}", f"layer {layer.digest}"
        directory.mkdir()
        with opened.open_layer(layer) as tar:
            if not unpack_launched(tar, directory, label):
                continue
        images = directory / "checkpoint"
        processes, sockets = read_processes(images), read_sockets(images)
        return CheckpointFacts(
            container=_describe_launched_container(opened.image, facts, directory),
            processes=processes,
            sockets=sockets,
            closes_tcp=True,
            memory_bytes=sum_pages_bytes(images),
            size_bytes=sum(file.stat().st_size for file in images.iterdir()),
            rootfs_diff=None,
            deleted_files=(),
            credentials=read_credentials(images),
        )
    raise ArchiveError("none of its layers holds a checkpoint")


def _describe_launched_container(image: Image, facts: ImageFacts, directory: Path) -> ContainerFacts:
    try:
        identity = read_manifest(directory)
        created = datetime.fromisoformat(facts.created)
    except (CheckpointError, ValueError) as error:
        raise ArchiveError(f"the launcher's manifest is not understood: {error}") from error
    return ContainerFacts(
        name="",
        args=identity.arguments,
        env=image.config.env,
        cwd=image.config.working_dir,
        user=User(identity.user, identity.group, identity.groups),
        mounts=(),
        runtime="",
        root_image=facts.base_name,
        created=created,
        checkpointed=created,
    )
