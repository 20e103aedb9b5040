"""Signed statements about an image: in-toto statements in DSSE envelopes, bare or in Sigstore bundles; and cosign's
simple signing.

Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto and
https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.untrusted_json import JsonError, parse_json
from warmstart.image.signatures.keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
#: The statement of cosign 3 that stands for a signature of the image itself.
SIGNED = "https://sigstore.dev/cosign/sign/v1"

_STATEMENT_TYPES = (STATEMENT_TYPE, "https://in-toto.io/Statement/v0.1")
_MOST_SIGNATURES = 16


@dataclass(frozen=True)
class Predicate:
    """What a statement says.

    Attributes:
        type: the URI of its type.
        document: the content, as that type defines it.
    """

    type: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope that somebody attached to an image; nothing in it has been checked.

    Attributes:
        payload: the bytes that are signed, together with their type.
        payload_type: the media type of the payload.
        signatures: signatures, each with the identity of its key, which can be empty.
        bundle: the Sigstore bundle around the envelope; empty if there is none.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]
    bundle: bytes = field(default=b"", repr=False)

    @property
    def signed(self) -> bytes:
        """The bytes that are signed."""
        return encode_for_signing(self.payload_type, self.payload)


def encode_for_signing(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def make_statement(name: str, digest: str, predicate: Predicate) -> bytes:
    """Return a statement about the image with this name and digest."""
    algorithm, _, value = digest.partition(":")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {algorithm: value}}],
        "predicateType": predicate.type,
        "predicate": predicate.document,
    }
    return json.dumps(statement, separators=(",", ":")).encode()


def seal(payload: bytes, key: SigningKey) -> dict[str, Any]:
    """Return the envelope of a signed statement, as JSON."""
    signature = base64.b64encode(key.sign(encode_for_signing(PAYLOAD_TYPE, payload))).decode()
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key.public.identity, "sig": signature}],
    }


def make_bundle(envelope: Mapping[str, Any], key: PublicKey) -> dict[str, Any]:
    """Return a Sigstore bundle with an envelope: signed with a key, and in no transparency log."""
    [signature] = envelope["signatures"]
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.identity}},
        # The specification forbids the key's identity here.
        "dsseEnvelope": {**envelope, "signatures": [{"sig": signature["sig"]}]},
    }


def parse_envelope(data: bytes) -> Envelope:
    """Parse an envelope or a bundle with one.

    Raises:
        JsonError: it is neither.
    """
    document, identity, bundle = parse_json(data), "", b""
    try:
        if "dsseEnvelope" in document:
            bundle = data
            identity = str((document.get("verificationMaterial") or {}).get("publicKey", {}).get("hint", ""))
            document = document["dsseEnvelope"]
        found = [
            (str(entry.get("keyid") or identity), base64.b64decode(entry["sig"]))
            for entry in document["signatures"][:_MOST_SIGNATURES]
        ]
        payload = base64.b64decode(document["payload"])
        return Envelope(payload, str(document["payloadType"]), tuple(found), bundle)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JsonError("is not a DSSE envelope") from error


def parse_statement(envelope: Envelope, digest: str) -> Predicate:
    """Return what a statement says about the image with this digest.

    Raises:
        JsonError: it is no statement, or about something else.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise JsonError(f"has the payload type {envelope.payload_type:.80}, not {PAYLOAD_TYPE}")
    statement = parse_json(envelope.payload)
    try:
        kind, subjects, predicate_type = statement["_type"], statement["subject"], statement["predicateType"]
        about = [f"{algorithm}:{value}" for subject in subjects for algorithm, value in subject["digest"].items()]
        document = statement.get("predicate") or {}
    except (AttributeError, KeyError, TypeError) as error:
        raise JsonError("is not an in-toto statement") from error
    if kind not in _STATEMENT_TYPES or not isinstance(predicate_type, str) or not isinstance(document, dict):
        raise JsonError("is not an in-toto statement")
    if digest not in about:
        raise JsonError(f"is about another image, {', '.join(about)[:200] or 'unnamed'}")
    return Predicate(predicate_type, document)


def make_simple_signing(name: str, digest: str) -> bytes:
    """Return the payload that stands for the image with this name and digest (containers-signature(5))."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def is_simple_signing_of(payload: bytes, digest: str) -> bool:
    """Return whether a payload stands for the image with this digest."""
    try:
        found = parse_json(payload)["critical"]["image"]["docker-manifest-digest"]
    except (JsonError, KeyError, TypeError):
        return False
    return bool(found == digest)
