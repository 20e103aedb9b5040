"""Publish a verified image in a registry, as an OCI layout or as an archive: complete, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import InputError
from warmstart.core.progress import Progress
from warmstart.core.reference import Reference, Transport
from warmstart.image.layout import Image, check_writable, write_archive, write_layout
from warmstart.image.registry.client import attach_report, push_layout, tag_manifest
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.registry.push_access import check_push_access
from warmstart.image.signatures.attach import attach_signatures
from warmstart.image.signatures.keyless import KeylessSigner, Signer
from warmstart.image.signatures.statement import Predicate


@dataclass(frozen=True)
class Output:
    """The destination of an image.

    Attributes:
        kind: REGISTRY, OCI (a layout directory) or OCI_ARCHIVE.
        path: the directory or file; None for a registry.
    """

    kind: Transport = Transport.REGISTRY
    path: Path | None = None


@dataclass(frozen=True)
class Signing:
    """How an image is signed.

    Attributes:
        signer: the private key, or the identity.
        predicates: what statements about the image say, which are signed and attached.
    """

    signer: Signer
    predicates: tuple[Predicate, ...] = ()


REGISTRY = Output()
REPORT_TYPE = "application/vnd.warmstart.report.v1+json"


def parse_output(text: str) -> Output:
    """Parse `oci:DIRECTORY` or `oci-archive:FILE`.

    Raises:
        InputError: the text is neither, or the parent directory does not exist.
    """
    kind, _, path = text.partition(":")
    if kind not in (Transport.OCI, Transport.OCI_ARCHIVE) or not path:
        raise InputError(f"--output {text}: expected oci:DIRECTORY or oci-archive:FILE")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"--output {text}: the directory {Path(path).parent} does not exist")
    return Output(Transport(kind), Path(path))


def describe_output(output: Output, target: Reference) -> str:
    """Describe the destination of an image called `target`, as in containers-transports(5)."""
    return f"docker://{target}" if output.path is None else f"{output.kind}:{output.path}"


def check_output(
    target: Reference, output: Output, *, access: RegistryAccess = DEFAULT_ACCESS, signer: Signer | None = None
) -> None:
    """Check that `publish_image` could write to a destination and sign there, before the build starts.

    Raises:
        InputError: the image is to be signed, but not published in a registry.
        WarmstartError: the image is to be signed without a key, and no certificate can be had.
        RegistryError: the registry refused, or is unreachable.
        ImageError: the layout or archive is not writable.
    """
    if signer is not None:
        prepare_signer(signer, output)
    if output.path is not None:
        check_writable(output.path, as_archive=output.kind is Transport.OCI_ARCHIVE)
    else:
        check_push_access(target, access=access)


def prepare_signer(signer: Signer, output: Output) -> None:
    """Check that signatures can be made and attached to an image at a destination.

    Raises:
        InputError: it is a layout or an archive.
        WarmstartError: no certificate can be had for signatures without a key.
    """
    if output.path is not None:
        raise InputError(
            f"--sign attaches signatures in a registry, and the output is {output.kind}:{output.path}",
            hint="push the image to its registry, and sign it there with `cosign sign --key`",
        )
    if isinstance(signer, KeylessSigner):
        signer.prepare()


def publish_image(
    layout: Path,
    image: Image,
    target: Reference,
    output: Output,
    progress: Progress,
    *,
    report: bytes,
    sign: Signing | None = None,
    mount_from: Reference | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> None:
    """Write an image to its destination; in a registry, set the tag last.

    Args:
        layout: layout of the image.
        image: the image.
        target: its name.
        output: destination.
        progress: progress reporter.
        report: build report as JSON, attached to the image in a registry.
        sign: how it is signed in a registry, before its tag is set; None for no signature.
        mount_from: image in the same registry that shares some layers.
        access: registries without TLS, and the credentials file.

    Raises:
        RegistryError: the registry refused, or is unreachable.
        ImageError: the layout or archive is not writable.
    """
    if output.path is not None:
        write = write_layout if output.kind is Transport.OCI else write_archive
        write(layout, image, output.path, name=str(target))
        return
    digest = push_layout(
        layout,
        replace(target, tag=None),
        mount_from=mount_from,
        access=access,
        on_progress=lambda done, total, label: progress.note(f"{label}, {done * 100 // max(total, 1)} %"),
    )
    attach_report(target, digest, report, artifact_type=REPORT_TYPE, access=access)
    if sign is not None:
        progress.note("signatures")
        attach_signatures(target, digest, sign.signer, sign.predicates, access=access)
    tag_manifest(target, digest, access=access)
