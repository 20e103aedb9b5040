"""Saving the state of a container in a cluster as an image, and restoring it in a new pod.

The image is made as a build makes one: the layers of the image that the container runs, and its checkpoint on top. An
annotation has the manifest of the pod, so that nothing else is needed to restore it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from warmstart import __version__
from warmstart.build.assemble import add_tmp, open_container
from warmstart.build.base import pin_source
from warmstart.build.publish import REGISTRY, Output, Signing, describe_output, prepare_signer, publish_image
from warmstart.core.errors import ArchiveError, ClusterError, ImageError, VerifyError
from warmstart.core.privileges import Kind, Privilege
from warmstart.core.progress import Progress
from warmstart.core.reference import Reference, Source, Transport, parse_reference, parse_source
from warmstart.core.undo import undoing_on_error
from warmstart.core.workspace import open_workspace
from warmstart.dump.archive.archive import Archive, extract_archive
from warmstart.dump.archive.metadata import load_json
from warmstart.dump.edit.cgroups import move_to_cgroup_v2
from warmstart.dump.edit.sockets import close_sockets
from warmstart.engine.local import find_access
from warmstart.image.annotations import BASE_DIGEST, BASE_NAME, POD_NOTE, PREFIX, created_now
from warmstart.image.compose import compose_image, pack_addition, remove_checkpoint
from warmstart.image.crio import CHECKPOINT_NAME, prepare_checkpoint
from warmstart.image.layout import Image, read_image, write_index
from warmstart.image.open import open_image
from warmstart.image.registry.client import push_layout
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.secrets.judge import JudgedFinding
from warmstart.image.signatures.keyless import Signer
from warmstart.image.skopeo import copy_image, find_image
from warmstart.kube.client import Cluster, PodTimeoutError
from warmstart.kube.pods import ContainerState, Pod, list_cautions, make_copy, strip_pod
from warmstart.kube.recorded import list_pod_privileges
from warmstart.kube.refusal import RefusedError
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.pods.checkpoint import CheckpointOptions, FetchedCheckpoint, take_checkpoint
from warmstart.pods.secrets import search_saved
from warmstart.recipe.model import SecretSearch

POD = f"{PREFIX}{POD_NOTE}"
VERSION = f"{PREFIX}version"
IMAGE_ID_DIGITS = 64
COPY_BYTES = 1 << 20
REMOVALS = 3
REMOVAL_PAUSE_S = 2.0


@dataclass(frozen=True)
class SaveOptions:
    """Options for saving a container.

    Attributes:
        cache: the cache directory.
        checkpoint: how the checkpoint is taken.
        output: destination of the image.
        access: registries without TLS, and the credentials file.
        ready_s: time limit for a restored pod to become ready.
        signer: the key or identity that signs the image; None for no signature.
        search: the search for secrets in the image.
    """

    cache: Path
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    output: Output = REGISTRY
    access: RegistryAccess = DEFAULT_ACCESS
    ready_s: float = 120.0
    signer: Signer | None = None
    search: SecretSearch = field(default_factory=SecretSearch)


@dataclass(frozen=True)
class SavedImage:
    """A saved container.

    Attributes:
        name: the image's name.
        image: its manifest and config.
        destination: its destination.
        taken: the checkpoint.
        closed: number of open connections; they are closed in the restored container.
        manifest: of the pod that restores it.
        secrets: the secrets in it.
    """

    name: str
    image: Image
    destination: str
    taken: FetchedCheckpoint
    closed: int
    manifest: Mapping[str, Any]
    secrets: tuple[JudgedFinding, ...] = ()


@dataclass(frozen=True)
class RestoredPod:
    """A pod that was restored.

    Attributes:
        pod: as it was when it was ready.
        ready_s: seconds from its creation until then.
        ready: `time.monotonic()` at that moment.
    """

    pod: Pod
    ready_s: float
    ready: float


@dataclass(frozen=True)
class SaveContext:
    """The session that makes an image, and the base image in it.

    Attributes:
        session: a session with the tools.
        directory: a directory for one image, visible in the session.
        base: the layout of the image that the container runs, without any checkpoint.
        source: source of that image.
        digest: of its manifest.
        config_digest: digest of its configuration, the id of an image in runtimes.
    """

    session: Session
    directory: Path
    base: Path
    source: Source
    digest: str
    config_digest: str


def save_pod(
    cluster: Cluster, pod: Pod, container: ContainerState, name: str, options: SaveOptions, progress: Progress
) -> SavedImage:
    """Save a container as an image; the container continues.

    Raises:
        WarmstartError: a step failed; nothing was published.
    """
    target = parse_reference(name)
    if options.signer is not None:
        prepare_signer(options.signer, options.output)
    for caution in list_cautions(pod, container.name):
        progress.warn(f"{pod.name}: {caution}")
    with open_session(options, progress) as session:
        with progress.step("pull"):
            bench = fetch_base(session, session.workspace / "image", container, options, progress)
        archive = bench.directory / "checkpoint.tar"
        taken = take_checkpoint(cluster, pod, container, archive, options.checkpoint, progress)
        return publish_saved(bench, taken, target, options, progress)


@contextlib.contextmanager
def open_session(options: SaveOptions, progress: Progress) -> Iterator[Session]:
    """Open a node to make images in."""
    with open_node("save", options.cache, progress) as session:
        yield session


def fetch_base(
    session: Session, directory: Path, container: ContainerState, options: SaveOptions, progress: Progress
) -> SaveContext:
    """Fetch the image that the container runs into `directory`, without any checkpoint.

    Raises:
        ImageError: the image that the container runs is not available.
    """
    pulled, base = directory / "pulled", directory / "base"
    base.mkdir(parents=True)
    source, digest = _pull_any(session, find_sources(container), pulled, options, progress)
    remove_checkpoint(pulled, base)
    return SaveContext(session, directory, base, source, digest, read_image(pulled).manifest.config.digest)


def _pull_any(
    session: Session, sources: Sequence[Source], layout: Path, options: SaveOptions, progress: Progress
) -> tuple[Source, str]:
    """Pull the first of these images that there is; where it was, and its digest."""
    for left, source in zip(reversed(range(len(sources))), sources, strict=True):
        access = find_access(session, source, options.access)
        try:
            digest = find_image(session, str(source), access=access).digest
        except ImageError:
            if not left:
                raise
            continue
        copy_image(session, str(pin_source(source, digest)), f"oci:{layout}", access=access, on_line=progress.note)
        return source, digest
    raise AssertionError


def find_sources(container: ContainerState) -> list[Source]:
    """Where the image that a container runs may be: by its digest, where the runtime knows it, and by its name.

    A node may know an image by a digest that its registry does not have, when it once came to it by another way.

    Raises:
        ImageError: only the node has it.
    """
    names = [name.removeprefix("docker-pullable://") for name in (container.image_id, container.image)]
    sources = [parse_source(name) for name in names if "@sha256:" in name or name == names[-1]]
    found = [source for source in sources if source.kind is Transport.REGISTRY]
    if not found:
        hint = "push it to a registry and run the pod from there"
        brief = f"cannot save the container {container.name}: its image {names[-1]} is not in a registry"
        raise ImageError(brief, hint=hint)
    return found


def check_base(bench: SaveContext, archive: Archive) -> None:
    """See that the image that was pulled is the one that the container was made from: its name may be another's now.

    Raises:
        ImageError: it is not.
    """
    known = archive.config.rootfs_image_ref
    if len(known) == IMAGE_ID_DIGITS and bench.config_digest != f"sha256:{known}":
        hint = "run pods to be saved by a digest, or by a tag that never moves"
        raise ImageError(f"{bench.source} now names another image than the one the container runs", hint=hint)


def publish_saved(
    bench: SaveContext, taken: FetchedCheckpoint, target: Reference, options: SaveOptions, progress: Progress
) -> SavedImage:
    """Make the image of a checkpoint, search it for secrets, and put it where it is to go.

    Raises:
        SecretError: it holds a secret that is refused.
        WarmstartError: another step failed.
    """
    with progress.step("read checkpoint"):
        archive = extract_archive(taken.archive, bench.directory / "checkpoint")
        taken.archive.unlink()
        check_base(bench, archive)
    with progress.step("edit dump"):
        closed = len(close_sockets(archive.checkpoint_dir, established=True))
        move_to_cgroup_v2(archive.checkpoint_dir)
    manifest = make_copy(strip_pod(taken.pod), taken.container.name, str(target))
    with progress.step("image"):
        layout = make_layout(bench, taken, archive, target, manifest)
    secrets = search_saved(layout, bench.base, options.search, progress)
    image = read_image(layout)
    document = {"pod": f"{taken.pod.namespace}/{taken.pod.name}", "container": taken.container.name}
    with progress.step("publish"):
        publish_image(
            layout,
            image,
            target,
            options.output,
            progress,
            report=json.dumps(document).encode(),
            sign=Signing(options.signer) if options.signer else None,
            mount_from=bench.source.reference,
            access=options.access,
        )
    return SavedImage(str(target), image, describe_output(options.output, target), taken, closed, manifest, secrets)


def make_layout(
    bench: SaveContext, taken: FetchedCheckpoint, archive: Archive, target: Reference, manifest: Mapping[str, Any]
) -> Path:
    """Make the image, as an OCI layout in the directory of the bench."""
    layout, addition = bench.directory / "layout", bench.directory / "addition"
    annotations = {
        CHECKPOINT_NAME: taken.container.name,
        **created_now(),
        BASE_NAME: str(bench.source.reference),
        BASE_DIGEST: bench.digest,
        VERSION: __version__,
        POD: json.dumps(manifest),
    }
    prepare_checkpoint(archive, str(target), log_line=find_mark(str(target)))
    if _has_read_only_root(manifest, taken.container.name):
        add_tmp(archive.root)
    with open_container(bench.session, bench.directory) as container:
        container.commit(
            archive.root, f"oci:{addition}", annotations=annotations, labels={}, cmd=archive.spec.args
        ).result()
    compose_image(bench.base, addition, layout, pack_addition(addition, layout))
    return layout


def find_mark(name: str) -> str:
    """The first line in the log of a container that was restored from an image of this name.

    Nothing in the API tells a restored container from one that a runtime without restore has started cold.
    """
    return f"warmstart: restored from {name}"


@dataclass(frozen=True)
class PodRecord:
    """The pod recorded in a saved image. Untrusted: anyone may have written it.

    Attributes:
        manifest: manifest of a pod that restores it.
        container: the restored container in it.
        name: name that the image must have.
        privileges: requests of the manifest beyond an ordinary pod.
        digest: of the image's manifest.
    """

    manifest: dict[str, Any]
    container: str
    name: Reference
    privileges: tuple[Privilege, ...] = ()
    digest: str = ""

    @property
    def context(self) -> Mapping[str, Any]:
        """The security context of the container, with the settings of the pod's."""
        spec = self.manifest["spec"]
        found = next(one for one in spec["containers"] if one["name"] == self.container)
        return {**(spec.get("securityContext") or {}), **(found.get("securityContext") or {})}


def read_record(source: Source, *, access: RegistryAccess = DEFAULT_ACCESS) -> PodRecord:
    """Read the pod recorded in an image, from a registry or an oci-archive.

    Raises:
        ImageError: it was not made by `save_pod`, or has another name now, so that no runtime would restore it.
        RegistryError: the registry refused, or could not be reached.
    """
    with open_image(source, access=access) as opened:
        annotations, user = opened.image.manifest.annotations, opened.image.config.user
        digest = opened.image.manifest.digest
    try:
        manifest: Any = load_json(annotations[POD].encode(), "the pod")
        container = annotations[CHECKPOINT_NAME]
        [name] = [str(one["image"]) for one in manifest["spec"]["containers"] if one["name"] == container]
        str(manifest["metadata"]["name"])
    except (KeyError, ValueError, TypeError, ArchiveError) as error:
        hint = "create one with `warmstart save`"
        raise ImageError(f"{source} was not made by `warmstart save`: it has no pod record", hint=hint) from error
    reference = parse_reference(name)
    if source.reference not in (None, reference):
        hint = "push it to that name: the runtime looks it up by name"
        raise ImageError(f"{source} restores only under the name it was saved with: {name}", hint=hint)
    asked = list_pod_privileges(manifest, name, root=user.partition(":")[0] in ("", "0", "root"))
    if source.reference is None:
        why = "the image is pushed to this name, and the pod runs what is there"
        asked = [Privilege(Kind.IMAGE, str(reference), why), *asked]
    return PodRecord(manifest, container, reference, tuple(asked), digest)


def push_record(source: Source, record: PodRecord, access: RegistryAccess) -> None:
    """Push an image from an oci-archive to where nodes will look for it.

    Raises:
        ImageError: the archive is broken.
        RegistryError: the registry refused, or could not be reached.
    """
    with open_workspace("restore") as workspace, open_image(source) as opened:
        layout, manifest = workspace / "layout", opened.image.manifest
        for blob in (manifest.descriptor, *manifest.blobs):
            path = layout / "blobs" / blob.digest.replace(":", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open_content(blob) as content, path.open("wb") as out:
                shutil.copyfileobj(content, out, COPY_BYTES)
        write_index(layout, manifest.descriptor)
        push_layout(layout, record.name, access=access)


def restore_pod(
    cluster: Cluster, manifest: Mapping[str, Any], container: str, ready_s: float, progress: Progress
) -> RestoredPod:
    """Create a pod, and wait until it is restored and ready; otherwise remove it again.

    Raises:
        VerifyError: its container was not restored but started cold.
        ClusterError: it may not be created, or was not ready in time.
    """
    created = time.monotonic()
    with progress.step("restore"):
        pod = _create(cluster, manifest)
        with undoing_on_error(lambda: remove_pod(cluster, pod, progress)):
            ready = await_ready(cluster, pod, ready_s, progress)
            restored = RestoredPod(ready, time.monotonic() - created, time.monotonic())
            check_restored(cluster, ready, container)
    return restored


def remove_pod(cluster: Cluster, pod: Pod, progress: Progress) -> None:
    """Remove a pod, also from a cluster that is busy; warn the user if it stays."""
    for attempt in range(REMOVALS):
        if attempt:
            time.sleep(REMOVAL_PAUSE_S)
        try:
            return cluster.delete_pod(pod.namespace, pod.name, uid=pod.uid)
        except ClusterError as error:
            failure = error
    command = f"kubectl delete pod {pod.name} --namespace {pod.namespace}"
    progress.warn(f"the pod {pod.name} was not removed: {failure.brief}. Remove it: {command}")
    raise failure


def await_ready(cluster: Cluster, pod: Pod, timeout_s: float, progress: Progress) -> Pod:
    """Wait until a pod is ready, and report the reasons for the delay.

    Raises:
        ClusterError: it was not ready in time, or cannot become ready.
    """

    def is_settled(now: Pod) -> bool:
        progress.note("; ".join(now.explain()) or now.phase)
        return now.ready or now.stuck

    try:
        now = cluster.wait_pod(pod, is_settled, timeout_s)
    except PodTimeoutError as late:
        brief = f"the pod {pod.name} was not ready within {timeout_s:g} s"
        raise ClusterError(brief, details=late.pod.explain()) from late
    if not now.ready:
        details = [*now.explain(), *cluster.log_tail(now, now.containers[0].name, 10)]
        raise ClusterError(f"the pod {pod.name} cannot become ready", details=details)
    return now


def check_restored(cluster: Cluster, pod: Pod, container: str) -> None:
    """Check that a container was restored.

    Raises:
        VerifyError: it was started cold.
    """
    image = next(one["image"] for one in pod.manifest["spec"]["containers"] if one["name"] == container)
    if find_mark(image) not in cluster.log_head(pod, container):
        hint = "set `enable_criu_support` and, in newer releases, checkpoint_restore in the node's CRI-O configuration"
        raise VerifyError(f"the node {pod.node} started {image} cold instead of restoring it", hint=hint)


def _create(cluster: Cluster, manifest: Mapping[str, Any]) -> Pod:
    try:
        return cluster.create_pod(manifest)
    except RefusedError as refusal:
        if refusal.status == HTTPStatus.CONFLICT:
            name = manifest["metadata"]["name"]
            raise ClusterError(f"the pod {name} already exists", hint="choose another name with --name") from refusal
        raise


def _has_read_only_root(manifest: Mapping[str, Any], container: str) -> bool:
    found = next(one for one in manifest["spec"]["containers"] if one["name"] == container)
    return bool((found.get("securityContext") or {}).get("readOnlyRootFilesystem"))
