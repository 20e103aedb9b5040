"""Check that a trusted key or identity signed an image and the statements about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.core.errors import SignatureError
from warmstart.core.reference import Reference, Source, Transport
from warmstart.core.untrusted_json import JsonError
from warmstart.image.annotations import PREFIX, STATEMENTS
from warmstart.image.manifest import Manifest
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.signatures.attach import Attached, read_attached
from warmstart.image.signatures.identity import CertificateIdentity, TrustedSigner
from warmstart.image.signatures.keys import PublicKey
from warmstart.image.signatures.predicates import OWN_TYPES
from warmstart.image.signatures.statement import (
    SIGNED,
    Envelope,
    Predicate,
    is_simple_signing_of,
    parse_statement,
)

_MOST_MISSING = 8


@dataclass(frozen=True)
class Checked:
    """The signatures of an image that trusted signers made.

    Attributes:
        digest: digest of the image.
        signers: the keys and identities that signed the image.
        statements: the statements that one of the trusted signers signed.
        others: number of statements that none of them signed.
    """

    digest: str
    signers: tuple[TrustedSigner, ...]
    statements: tuple[Predicate, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class Trust:
    """The public keys and identities of which one must have signed an image; with none, every image is accepted."""

    signers: tuple[TrustedSigner, ...] = ()

    def require(self, source: Source, manifest: Manifest, access: RegistryAccess = DEFAULT_ACCESS) -> Checked | None:
        """Require that one of the signers signed the image with this manifest; None if there are no signers.

        Raises:
            SignatureError: no trusted signature covers the image, a statement was changed or removed, or the image is
                in no registry, where its signatures would be.
            RegistryError: the registry refused, or could not be reached.
        """
        if not self.signers:
            return None
        if source.kind is not Transport.REGISTRY or source.reference is None:
            self.refuse_file(str(source))
            return None
        return check_signatures(source.reference, manifest, self.signers, access=access)

    def refuse_file(self, name: str) -> None:
        """Refuse what is in no registry, if there are signers.

        Raises:
            SignatureError: there are signers.
        """
        if self.signers:
            hint = "give the image's name in its registry: layouts and archives have no signatures"
            raise SignatureError(f"{name} is in no registry, so that no signature covers it", hint=hint)


#: Accepts every image.
ANYBODY = Trust()


def check_signatures(
    reference: Reference,
    manifest: Manifest,
    signers: Sequence[TrustedSigner],
    *,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> Checked:
    """Check the signatures of an image: one of the signers must have signed its manifest's digest.

    A statement that names a trusted signer must be signed by it. Of the types that a build attaches, at least one
    statement must be signed if there is any, or if the image's annotation says that its build attached one. Other
    statements can be of anybody.

    Args:
        reference: the image's repository.
        manifest: its manifest, whose digest covers the annotations, the config and all layers.
        signers: trusted keys and identities.
        access: registries without TLS, and the credentials file.

    Raises:
        SignatureError: as in `Trust.require`.
        RegistryError: the registry refused, or could not be reached.
        InputError: the trusted root of an identity is not understood.
    """
    digest = manifest.digest
    attached, name = read_attached(reference, digest, access=access), f"{reference.name}@{digest}"
    signed_by = [signer for signer in signers if _has_signed(signer, digest, attached)]
    if not signed_by:
        raise SignatureError(
            f"no trusted key or identity signed {name}",
            details=_describe(attached, signers),
            hint="build it with --sign, or sign it with cosign, and give the key or identity that signed it",
        )
    checked = _check_statements(attached, digest, signers, Checked(digest, tuple(signed_by)), name)
    _require_statements(manifest, checked, name)
    return checked


def _has_signed(signer: TrustedSigner, digest: str, attached: Attached) -> bool:
    if isinstance(signer, PublicKey) and any(
        is_simple_signing_of(payload, digest) and signer.verifies(signature, payload)
        for payload, signature in attached.simple
    ):
        return True
    return any(
        (found := _read(one, digest)) is not None and found.type == SIGNED and signer.has_signed(one)
        for one in attached.envelopes
    )


def _check_statements(
    attached: Attached, digest: str, signers: Sequence[TrustedSigner], checked: Checked, name: str
) -> Checked:
    trusted: dict[tuple[str, bytes], Predicate] = {}
    others: list[str] = []
    for envelope in attached.envelopes:
        signed = any(signer.has_signed(envelope) for signer in signers)
        if not signed and (claimed := [signer for signer in signers if signer.is_named_by(envelope)]):
            raise SignatureError(
                f"a statement about {name} was changed: it names {claimed[0].source}, which did not sign it",
                details=_list_faults([envelope], claimed),
                hint="do not use the image: build it again",
            )
        if not signed:
            found = _read(envelope, digest)
            others.append(found.type if found else "")
            continue
        try:
            found = parse_statement(envelope, digest)
        except JsonError as error:
            raise SignatureError(f"a signed statement about {name} {error}") from error
        if found.type != SIGNED:
            trusted[found.type, envelope.payload] = found
    types = {found.type for found in trusted.values()}
    if unsigned := sorted(kind for kind in set(others) & OWN_TYPES if kind not in types):
        raise SignatureError(
            f"no trusted key or identity signed the statement about {name} of the type {unsigned[0]}",
            hint="if another signer attached it, add its public key with --key, or its identity",
        )
    return Checked(digest, checked.signers, tuple(trusted.values()), len(others) + attached.unread)


def _require_statements(manifest: Manifest, checked: Checked, name: str) -> None:
    """Require the statements that the image's annotation lists: whoever can push can also remove them."""
    wanted = manifest.annotations.get(PREFIX + STATEMENTS, "").split()
    missing = sorted(set(wanted) - {one.type for one in checked.statements})
    if missing:
        raise SignatureError(
            f"a statement about {name} is missing: its build signed one of the type {missing[0]:.200}",
            details=[f"also missing: {kind:.200}" for kind in missing[1:_MOST_MISSING]],
            hint="build the image again; to copy an image with its statements, use `cosign copy`",
        )


def _read(envelope: Envelope, digest: str) -> Predicate | None:
    try:
        return parse_statement(envelope, digest)
    except JsonError:
        return None


def _describe(attached: Attached, signers: Sequence[TrustedSigner]) -> list[str]:
    there = len(attached.simple) + len(attached.envelopes)
    found = f"{there} signatures are attached, by others or of something else" if there else "nothing is attached"
    trusted = f"trusted: {', '.join(signer.source for signer in signers)}"
    return [found, trusted, *_list_faults(attached.envelopes, signers)]


def _list_faults(envelopes: Sequence[Envelope], signers: Sequence[TrustedSigner]) -> list[str]:
    """List why bundles are not signed by identities, once each."""
    identities = [signer for signer in signers if isinstance(signer, CertificateIdentity)]
    faults = [identity.find_fault(one) for identity in identities for one in envelopes if one.bundle]
    return [f"not verified: {fault:.300}" for fault in dict.fromkeys(faults) if fault][:_MOST_MISSING]
