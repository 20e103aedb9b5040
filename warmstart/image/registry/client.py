"""Push, tag and read images in registries, and attach reports.

A partial image is never visible: blobs go first, then the manifest by digest, its tag last. A registry's
answers are untrusted: sizes are bounded and digests are checked.

Every function takes `access` (a RegistryAccess: the registries without TLS, and the credentials file), and raises
RegistryError when the registry refuses, cannot be reached, or answers nonsense.

Protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from warmstart.core.errors import RegistryError
from warmstart.core.reference import Reference, is_digest
from warmstart.image.layout import CheckedReader, open_blob, read_document, read_image
from warmstart.image.manifest import (
    DOCUMENT_LIMIT_BYTES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Config,
    Descriptor,
    Manifest,
    Platform,
    choose_platform,
    find_digest,
    parse_config,
    parse_index,
    parse_manifest,
)
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.registry.exchange import RETRIES, Answer, add_query

if TYPE_CHECKING:
    from warmstart.image.registry.connection import Connection

#: Called with the bytes done, the total bytes, and the name of the current part. A blob that is sent again
#: lowers the bytes done.
Progress = Callable[[int, int, str], None]

_CHUNK_BYTES = 1 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}
_ACCEPT = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
_REPORT_TITLE = {"org.opencontainers.image.title": "report.json"}
# Anyone who can push to the repository can attach any number.
_MOST_REPORTS = 64
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def connect(reference: Reference, access: RegistryAccess, *, retries: int = RETRIES) -> Connection:
    """Open a conversation with a registry; see `Connection`.

    The libraries below it take a quarter of the start of a command. Many commands ask no registry.
    """
    from warmstart.image.registry.connection import Connection

    return Connection(reference, access, retries=retries)


def push_layout(
    layout: Path,
    reference: Reference,
    *,
    name: str = "",
    mount_from: Reference | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
    on_progress: Progress | None = None,
) -> str:
    """Push an image of an OCI layout; blobs that the registry already has are not sent again.

    Args:
        layout: the directory.
        reference: the destination; without a tag, the image is reachable by its digest only.
        name: name of the image in the layout, as for `read_image`.
        mount_from: an image with some of the same layers, such as the base image; they are mounted from it if it is
            in the same registry.
        access: registries without TLS, and the file of credentials.
        on_progress: callback for the upload's progress.

    Returns:
        The digest of the image's manifest.

    Raises:
        ImageError: the layout is broken.
        RegistryError: see the module; or the image is not the one that `reference` has the digest of.
    """
    manifest = read_image(layout, name).manifest
    if reference.digest not in (None, manifest.digest):
        raise RegistryError(f"{layout} cannot be pushed as {reference}: its digest is {manifest.digest}")
    lender = None
    if mount_from and mount_from.registry == reference.registry and mount_from.repository != reference.repository:
        lender = mount_from.repository
    document = read_document(layout, manifest.descriptor)
    total_bytes = sum(blob.size_bytes for blob in manifest.blobs)
    done_bytes = 0

    with connect(reference, access) as connection:
        for place, blob in enumerate(manifest.blobs, 1):
            what = "the config" if blob == manifest.config else f"layer {place} of {len(manifest.layers)}"
            report = partial(_report, on_progress, done_bytes, total_bytes, what)
            _push_blob(connection, _Upload(blob, what, partial(open_blob, layout, blob), report), lender)
            report(blob.size_bytes)
            done_bytes += blob.size_bytes
        _put_manifest(connection, manifest.digest, manifest.descriptor, document)
        if reference.tag:
            _put_manifest(connection, reference.tag, manifest.descriptor, document)
    return manifest.digest


def tag_manifest(reference: Reference, digest: str, *, access: RegistryAccess = DEFAULT_ACCESS) -> None:
    """Point the tag of `reference` at a manifest that is already in its repository."""
    if not reference.tag:
        raise RegistryError(f"{reference} has no tag to set")
    with connect(reference, access) as connection:
        descriptor, document = _get_manifest(connection, digest)
        _put_manifest(connection, reference.tag, descriptor, document)


def attach_report(
    reference: Reference,
    digest: str,
    report: bytes,
    *,
    artifact_type: str,
    media_type: str = "application/json",
    annotations: Mapping[str, str] | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> str:
    """Attach a JSON report to a manifest, as an OCI referrer.

    Without the referrers API, the list is kept under the tag ALGORITHM-HEX, as in the distribution
    specification. The same report attached again changes nothing.

    Args:
        reference: the repository; its tag and digest do not matter.
        digest: digest of the report's subject.
        report: a JSON document, not longer than DOCUMENT_LIMIT_BYTES.
        artifact_type: what kind of report it is.
        media_type: the media type of the report.
        annotations: annotations of the report's own manifest, which lists of referrers show.
        access: registries without TLS, and the file of credentials.

    Returns:
        The digest of the report's own manifest.
    """
    layer, notes = _describe(report, media_type), dict(annotations or {})
    config = _describe(_EMPTY, _EMPTY_TYPE)
    with connect(reference, access) as connection:
        subject, _ = _get_manifest(connection, digest)
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": artifact_type,
                "config": config.to_json(),
                "layers": [replace(layer, annotations=_REPORT_TITLE).to_json()],
                "subject": subject.to_json(),
                **({"annotations": notes} if notes else {}),
            }
        ).encode()
        for blob, content, what in ((config, _EMPTY, "the empty config"), (layer, report, "the report")):
            _push_blob(connection, _Upload(blob, what, partial(_open_bytes, content)), None)
        descriptor = replace(_describe(document, OCI_MANIFEST), artifact_type=artifact_type, annotations=notes)
        answer = _put(connection, descriptor.digest, descriptor, document)
        if "OCI-Subject" not in answer.headers:
            _list_under_tag(connection, digest, descriptor)
    return descriptor.digest


def read_reports(
    reference: Reference,
    digest: str,
    *,
    artifact_type: str,
    media_type: str = "",
    access: RegistryAccess = DEFAULT_ACCESS,
) -> tuple[bytes, ...]:
    """Return the attached reports of a type, in the registry's order; at most _MOST_REPORTS.

    Args:
        reference: the repository; its tag and digest do not matter.
        digest: digest of the reports' subject.
        artifact_type: the type in the list of referrers.
        media_type: the media type of the reports; any if empty. With it, a list that has no type is enough: without
            the referrers API, go-containerregistry lists the type of the config instead (pkg/v1/remote/write.go).
        access: registries without TLS, and the file of credentials.

    Raises:
        ImageError: an attachment is broken.
        RegistryError: see the module.
    """
    with connect(reference, access) as connection:
        types = (artifact_type, *(("", _EMPTY_TYPE) if media_type else ()))
        attached = [entry for entry in _list_referrers(connection, digest) if entry.artifact_type in types]
        manifests = [_get_image(connection, entry.digest, None) for entry in attached[:_MOST_REPORTS]]
        layers = [layer for manifest in manifests for layer in manifest.layers[:1]]
        return tuple(_get_blob(connection, layer) for layer in layers if media_type in ("", layer.media_type))


@dataclass(frozen=True)
class TaggedLayer:
    """A small document in an image of its own, as cosign keeps signatures."""

    content: bytes
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def append_layers(
    reference: Reference, layers: Sequence[TaggedLayer], *, access: RegistryAccess = DEFAULT_ACCESS
) -> None:
    """Add small layers to the image with the tag of `reference`; make the image if there is none.

    Raises:
        ImageError: the tag is of something else.
        RegistryError: see the module.
    """
    assert reference.tag
    with connect(reference, access) as connection:
        added = [replace(_describe(one.content, one.media_type), annotations=one.annotations) for one in layers]
        found = _find_manifest(connection, reference.tag)
        kept = parse_manifest(found[1], found[0]).layers if found else ()
        blobs = [*kept, *(one for one in added if one not in kept)]
        rootfs = {"type": "layers", "diff_ids": [blob.digest for blob in blobs]}
        content = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).encode()
        config = _describe(content, OCI_CONFIG)
        for blob, data in (*zip(added, (one.content for one in layers), strict=True), (config, content)):
            _push_blob(connection, _Upload(blob, f"a part of {reference.tag}", partial(_open_bytes, data)), None)
        entries = [blob.to_json() for blob in blobs]
        document = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": entries}
        ).encode()
        _put(connection, reference.tag, _describe(document, OCI_MANIFEST), document)


def read_layers(
    reference: Reference, media_type: str, *, access: RegistryAccess = DEFAULT_ACCESS
) -> tuple[TaggedLayer, ...]:
    """Return the layers of a type of the image with the tag of `reference`, at most _MOST_REPORTS; none without it.

    Raises:
        ImageError: the tag is of something else.
        RegistryError: see the module.
    """
    assert reference.tag
    with connect(reference, access) as connection:
        found = _find_manifest(connection, reference.tag)
        blobs = parse_manifest(found[1], found[0]).layers if found else ()
        chosen = [blob for blob in blobs if blob.media_type == media_type][:_MOST_REPORTS]
        return tuple(TaggedLayer(_get_blob(connection, blob), media_type, blob.annotations) for blob in chosen)


def read_manifest(
    reference: Reference,
    *,
    platform: Platform | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
    retries: int = RETRIES,
) -> Manifest:
    """Return the manifest of an image; of a multi-platform image, the one for `platform` (this machine's when None).

    Raises:
        ImageError: it is not the manifest of an image.
        RegistryError: see the module; or there is no such image.
    """
    with connect(reference, access, retries=retries) as connection:
        return _get_image(connection, _identify(reference), platform)


def find_manifest_digest(reference: Reference, *, access: RegistryAccess = DEFAULT_ACCESS) -> str | None:
    """Return the digest of the manifest or index that a name refers to now; None if there is none. Does not retry."""
    with connect(reference, access, retries=0) as connection:
        digest = _head_manifest(connection, _identify(reference)).headers.get("Docker-Content-Digest", "")
        if is_digest(digest):
            return digest
        # Some registries send it with the manifest only, or not at all.
        found = _find_manifest(connection, _identify(reference))
        return found[0].digest if found else None


def read_config(
    reference: Reference,
    *,
    platform: Platform | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> Config:
    """Return the config of an image; `platform` and errors as for `read_manifest`."""
    with connect(reference, access) as connection:
        manifest = _get_image(connection, _identify(reference), platform)
        return parse_config(_get_blob(connection, manifest.config), f"config {manifest.config.digest}")


@contextmanager
def download_blob(
    reference: Reference, blob: Descriptor, *, access: RegistryAccess = DEFAULT_ACCESS
) -> Iterator[CheckedReader]:
    """Open a blob of an image's repository for streaming; reading it to its end checks its digest.

    Raises:
        ImageError: it does not match its descriptor; raised while reading.
        RegistryError: see the module; also while reading.
    """
    with connect(reference, access) as connection:
        purpose = f"read {_full_name(connection, blob.digest)}"
        with connection.download(connection.url(f"blobs/{blob.digest}"), purpose) as content:
            yield CheckedReader(content, blob, reference.name)


def exists(reference: Reference, *, access: RegistryAccess = DEFAULT_ACCESS) -> bool:
    """Return whether the registry has a manifest with that tag or digest."""
    with connect(reference, access) as connection:
        return _head_manifest(connection, _identify(reference)).status == 200


def delete_manifest(reference: Reference, digest: str, *, access: RegistryAccess = DEFAULT_ACCESS) -> None:
    """Delete a manifest and its tags; not every registry allows it."""
    with connect(reference, access) as connection:
        url = connection.url(f"manifests/{digest}")
        connection.call("DELETE", url, f"delete {reference.name}@{digest}", (202,))


def delete_tag(reference: Reference, *, access: RegistryAccess = DEFAULT_ACCESS) -> None:
    """Delete a tag but not its manifest; not every registry supports it."""
    with connect(reference, access) as connection:
        connection.call("DELETE", connection.url(f"manifests/{reference.tag}"), f"delete {reference}", (202,))


class _Reader(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class _Upload:
    """A blob as a request body; each iteration reads it from the start."""

    blob: Descriptor
    what: str
    open: Callable[[], AbstractContextManager[_Reader]]
    report: Callable[[int], None] = lambda _: None

    def __len__(self) -> int:
        return self.blob.size_bytes

    def __iter__(self) -> Iterator[bytes]:
        sent_bytes = 0
        with self.open() as content:
            while chunk := content.read(_CHUNK_BYTES):
                yield chunk
                sent_bytes += len(chunk)
                self.report(sent_bytes)


def _report(on_progress: Progress | None, before_bytes: int, total_bytes: int, what: str, sent_bytes: int) -> None:
    if on_progress:
        on_progress(before_bytes + sent_bytes, total_bytes, what)


def _push_blob(connection: Connection, upload: _Upload, lender: str | None) -> None:
    # A broken upload starts over: registries differ most in how they report the received part.
    connection.retry(lambda: _try_push_blob(connection, upload, lender))


def _try_push_blob(connection: Connection, upload: _Upload, lender: str | None) -> None:
    digest = upload.blob.digest
    purpose = f"push {upload.what} ({digest[:19]}) to {connection.reference.name}"
    if connection.request("HEAD", connection.url(f"blobs/{digest}"), purpose, (200, 404)).status == 200:
        return
    started = _start_upload(connection, digest, lender, purpose)
    if started.status == 201:
        return
    # One PATCH with all of it, as docker and containers/image do; many registries take no smaller pieces.
    url = connection.follow(started)
    sent = connection.request("PATCH", url, purpose, (202, 204), headers=_OCTETS, body=upload)
    url = add_query(connection.follow(sent), "digest", digest)
    _check_echo(connection.request("PUT", url, purpose, (201, 204), headers=_OCTETS), digest, purpose)


def _start_upload(connection: Connection, digest: str, lender: str | None, purpose: str) -> Answer:
    """Start an upload: 201 if the blob was mounted from the repository `lender`, 202 if it must be sent."""
    url = connection.url("blobs/uploads/")
    if lender:
        mount = add_query(add_query(url, "mount", digest), "from", lender)
        # Without read access there, fall back to an ordinary upload.
        answer = connection.request("POST", mount, purpose, (201, 202, 400, 401, 403, 404, 405))
        if answer.status in (201, 202):
            return answer
    return connection.request("POST", url, purpose, (202,))


def _put_manifest(connection: Connection, identifier: str, descriptor: Descriptor, document: bytes) -> None:
    """Put a manifest under its digest or a tag, unless it is there."""
    found = _head_manifest(connection, identifier)
    there = found.headers.get("Docker-Content-Digest", identifier)
    if found.status != 200 or there != descriptor.digest:
        _put(connection, identifier, descriptor, document)


def _put(connection: Connection, identifier: str, descriptor: Descriptor, document: bytes) -> Answer:
    purpose = f"put the manifest {_full_name(connection, identifier)}"
    url = connection.url(f"manifests/{identifier}")
    headers = {"Content-Type": descriptor.media_type}
    answer = connection.call("PUT", url, purpose, (201,), headers=headers, body=document)
    _check_echo(answer, descriptor.digest, purpose)
    return answer


def _check_echo(answer: Answer, digest: str, purpose: str) -> None:
    echo = answer.headers.get("Docker-Content-Digest", digest)
    if echo != digest:
        raise RegistryError(f"could not {purpose}: the registry stored {echo:.80}, expected {digest}")


def _head_manifest(connection: Connection, identifier: str) -> Answer:
    purpose = f"look for {_full_name(connection, identifier)}"
    url = connection.url(f"manifests/{identifier}")
    return connection.call("HEAD", url, purpose, (200, 404), headers=_ACCEPT)


def _find_manifest(connection: Connection, identifier: str) -> tuple[Descriptor, bytes] | None:
    """Return the checked manifest or index with this tag or digest; None if there is none."""
    purpose = f"read {_full_name(connection, identifier)}"
    answer = connection.call(
        "GET",
        connection.url(f"manifests/{identifier}"),
        purpose,
        (200, 404),
        headers=_ACCEPT,
        limit_bytes=DOCUMENT_LIMIT_BYTES,
    )
    if answer.status == 404:
        return None
    announced = answer.headers.get("Docker-Content-Digest", "")
    digest = identifier if is_digest(identifier) else announced or find_digest(answer.body)
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    _check_content(answer.body, digest, purpose)
    return Descriptor(media_type, digest, len(answer.body)), answer.body


def _get_manifest(connection: Connection, identifier: str) -> tuple[Descriptor, bytes]:
    found = _find_manifest(connection, identifier)
    if found is None:
        raise RegistryError(
            f"the registry has no {_full_name(connection, identifier)}",
            hint="check the name, or log in: registries hide private images",
        )
    return found


def _get_image(connection: Connection, identifier: str, platform: Platform | None) -> Manifest:
    descriptor, document = _get_manifest(connection, identifier)
    if descriptor.media_type in INDEX_TYPES:
        where = f"index {descriptor.digest}"
        index = parse_index(document, descriptor.media_type, where)
        descriptor, document = _get_manifest(connection, choose_platform(index.manifests, platform, where).digest)
    return parse_manifest(document, descriptor)


def _get_blob(connection: Connection, blob: Descriptor) -> bytes:
    purpose = f"read {_full_name(connection, blob.digest)}"
    url = connection.url(f"blobs/{blob.digest}")
    answer = connection.call("GET", url, purpose, (200,), limit_bytes=DOCUMENT_LIMIT_BYTES)
    _check_content(answer.body, blob.digest, purpose)
    return answer.body


def _check_content(content: bytes, digest: str, purpose: str) -> None:
    if not is_digest(digest) or find_digest(content, digest.partition(":")[0]) != digest:
        raise RegistryError(f"could not {purpose}: the content does not match {digest:.80}")


def _list_referrers(connection: Connection, digest: str) -> tuple[Descriptor, ...]:
    answer = connection.call(
        "GET",
        connection.url(f"referrers/{digest}"),
        f"list the reports of {_full_name(connection, digest)}",
        (200, 404),
        limit_bytes=DOCUMENT_LIMIT_BYTES,
    )
    if answer.status == 200:
        return parse_index(answer.body, where=f"the referrers of {digest}").manifests
    return _read_referrers_tag(connection, digest)


def _read_referrers_tag(connection: Connection, digest: str) -> tuple[Descriptor, ...]:
    found = _find_manifest(connection, digest.replace(":", "-"))
    return parse_index(found[1], found[0].media_type, f"the referrers of {digest}").manifests if found else ()


def _list_under_tag(connection: Connection, digest: str, descriptor: Descriptor) -> None:
    referrers = _read_referrers_tag(connection, digest)
    if descriptor.digest in (entry.digest for entry in referrers):
        return
    manifests = [entry.to_json() for entry in (*referrers, descriptor)]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
    _put(connection, digest.replace(":", "-"), _describe(index, OCI_INDEX), index)


def _full_name(connection: Connection, identifier: str) -> str:
    """Return the name with its tag or digest, for messages."""
    return f"{connection.reference.name}{'@' if is_digest(identifier) else ':'}{identifier}"


def _identify(reference: Reference) -> str:
    return reference.digest or reference.tag or "latest"


def _describe(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, find_digest(content), len(content))


def _open_bytes(content: bytes) -> AbstractContextManager[_Reader]:
    return nullcontext(BytesIO(content))
