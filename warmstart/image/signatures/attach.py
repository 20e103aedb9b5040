"""Attach signatures and statements to an image in a registry, and read those that are attached.

Both of cosign's layouts are written for a key, since there are readers that know only one of them: tags next to the
image, `.sig` for signatures and `.att` for statements (cosign 1 and 2, CRI-O and all of containers/image), and Sigstore
bundles as referrers (cosign 3). Signatures without a key are bundles alone. Both layouts are read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmstart.core.reference import Reference
from warmstart.core.untrusted_json import JsonError
from warmstart.image.registry.client import TaggedLayer, append_layers, attach_report, read_layers, read_reports
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.signatures.keyless import KeylessSigner, Signer
from warmstart.image.signatures.keys import SigningKey
from warmstart.image.signatures.statement import (
    BUNDLE_TYPE,
    SIGNED,
    Envelope,
    Predicate,
    make_bundle,
    make_simple_signing,
    make_statement,
    parse_envelope,
    seal,
)

SIMPLE_SIGNING_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
SIGNATURE_NOTE = "dev.cosignproject.cosign/signature"


@dataclass(frozen=True)
class Attached:
    """Everything that is attached to an image and looks like a signature; nothing has been checked.

    Attributes:
        simple: payloads of simple signing, each with its signature.
        envelopes: signed statements.
        unread: the number of those that are broken.
    """

    simple: tuple[tuple[bytes, bytes], ...] = ()
    envelopes: tuple[Envelope, ...] = ()
    unread: int = 0


def attach_signatures(
    target: Reference,
    digest: str,
    signer: Signer,
    predicates: Sequence[Predicate],
    *,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> None:
    """Sign an image in a registry, and statements about it; attach both.

    Args:
        target: name of the image, which is signed with it.
        digest: digest of its manifest, which must be in the registry.
        signer: private key, or an identity.
        predicates: what the statements say.
        access: registries without TLS, and the credentials file.

    Raises:
        RegistryError: the registry refused, or could not be reached.
        WarmstartError: a service for signatures without a key refused; nothing was attached.
    """
    signed = (*predicates, Predicate(SIGNED, {}))
    statements = [(one.type, make_statement(target.name, digest, one)) for one in signed]
    if isinstance(signer, KeylessSigner):
        _attach_bundles(target, digest, [(kind, signer.sign(statement)) for kind, statement in statements], access)
        return
    envelopes = [(kind, seal(statement, signer)) for kind, statement in statements]
    bundles = [(kind, json.dumps(make_bundle(one, signer.public)).encode()) for kind, one in envelopes]
    _attach_bundles(target, digest, bundles, access)
    _attach_as_tags(target, digest, signer, envelopes[: len(predicates)], access)


def _attach_bundles(
    target: Reference, digest: str, bundles: Sequence[tuple[str, bytes]], access: RegistryAccess
) -> None:
    for kind, bundle in bundles:
        attach_report(
            target,
            digest,
            bundle,
            artifact_type=BUNDLE_TYPE,
            media_type=BUNDLE_TYPE,
            annotations={"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": kind},
            access=access,
        )


def _attach_as_tags(
    target: Reference,
    digest: str,
    key: SigningKey,
    envelopes: Sequence[tuple[str, Mapping[str, Any]]],
    access: RegistryAccess,
) -> None:
    payload = make_simple_signing(str(target), digest)
    signature = {SIGNATURE_NOTE: base64.b64encode(key.sign(payload)).decode()}
    layers = [
        # cosign finds statements by their type here.
        TaggedLayer(json.dumps(one).encode(), ENVELOPE_TYPE, {SIGNATURE_NOTE: "", "predicateType": kind})
        for kind, one in envelopes
    ]
    if layers:
        append_layers(tag_of(target, digest, "att"), layers, access=access)
    append_layers(tag_of(target, digest, "sig"), [TaggedLayer(payload, SIMPLE_SIGNING_TYPE, signature)], access=access)


def read_attached(reference: Reference, digest: str, *, access: RegistryAccess = DEFAULT_ACCESS) -> Attached:
    """Read the signatures and statements of the image with this digest.

    Raises:
        ImageError: an attachment is broken.
        RegistryError: the registry refused, or could not be reached.
    """
    simple = [
        (layer.content, _decode(layer.annotations.get(SIGNATURE_NOTE, "")))
        for layer in read_layers(tag_of(reference, digest, "sig"), SIMPLE_SIGNING_TYPE, access=access)
    ]
    found = [
        *(layer.content for layer in read_layers(tag_of(reference, digest, "att"), ENVELOPE_TYPE, access=access)),
        *read_reports(reference, digest, artifact_type=BUNDLE_TYPE, media_type=BUNDLE_TYPE, access=access),
    ]
    envelopes = []
    for content in found:
        try:
            envelopes.append(parse_envelope(content))
        except JsonError:
            continue
    return Attached(tuple(simple), tuple(envelopes), len(found) - len(envelopes))


def tag_of(reference: Reference, digest: str, suffix: str) -> Reference:
    """Return the name under which cosign keeps signatures (`sig`) or statements (`att`) of a digest."""
    return Reference(reference.registry, reference.repository, f"{digest.replace(':', '-')}.{suffix}")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
