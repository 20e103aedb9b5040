"""Check that a trusted key signed an image and the statements about it."""

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
from warmstart.image.signatures.keys import PublicKey
from warmstart.image.signatures.predicates import OWN_TYPES
from warmstart.image.signatures.statement import (
    SIGNED,
    Envelope,
    Predicate,
    is_simple_signing_of,
    list_signers,
    parse_statement,
)

_MOST_MISSING = 8


@dataclass(frozen=True)
class Checked:
    """The signatures of an image that trusted keys made.

    Attributes:
        digest: digest of the image.
        keys: the keys that signed the image.
        statements: the statements that one of the trusted keys signed.
        others: number of statements that none of them signed.
    """

    digest: str
    keys: tuple[PublicKey, ...]
    statements: tuple[Predicate, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class Trust:
    """The public keys that an image must be signed with, one of them; with none, every image is accepted."""

    keys: tuple[PublicKey, ...] = ()

    def require(self, source: Source, manifest: Manifest, access: RegistryAccess = DEFAULT_ACCESS) -> Checked | None:
        """Require that one of the keys signed the image with this manifest; None if there are no keys.

        Raises:
            SignatureError: no trusted signature covers the image, a statement was changed or removed, or the image is
                in no registry, where its signatures would be.
            RegistryError: the registry refused, or could not be reached.
        """
        if not self.keys:
            return None
        if source.kind is not Transport.REGISTRY or source.reference is None:
            self.refuse_file(str(source))
            return None
        return check_signatures(source.reference, manifest, self.keys, access=access)

    def refuse_file(self, name: str) -> None:
        """Refuse what is in no registry, if there are keys.

        Raises:
            SignatureError: there are keys.
        """
        if self.keys:
            hint = "give the image's name in its registry: layouts and archives have no signatures"
            raise SignatureError(f"{name} is in no registry, so that no signature covers it", hint=hint)


#: Accepts every image.
ANYBODY = Trust()


def check_signatures(
    reference: Reference, manifest: Manifest, keys: Sequence[PublicKey], *, access: RegistryAccess = DEFAULT_ACCESS
) -> Checked:
    """Check the signatures of an image: one of the keys must have signed its manifest's digest.

    A statement that names a trusted key must be signed with it. Of the types that a build attaches, at least one
    statement must be signed if there is any, or if the image's annotation says that its build attached one. Other
    statements can be of anybody.

    Args:
        reference: the image's repository.
        manifest: its manifest, whose digest covers the annotations, the config and all layers.
        keys: trusted keys.
        access: registries without TLS, and the credentials file.

    Raises:
        SignatureError: as in `Trust.require`.
        RegistryError: the registry refused, or could not be reached.
    """
    digest = manifest.digest
    attached, name = read_attached(reference, digest, access=access), f"{reference.name}@{digest}"
    signed_by = [key for key in keys if _has_signed(key, digest, attached)]
    if not signed_by:
        raise SignatureError(
            f"no trusted key signed {name}",
            details=_describe_keys(attached, keys),
            hint="build it with --sign, or sign it with cosign, and give the public key with --key",
        )
    checked = _check_statements(attached, digest, keys, Checked(digest, tuple(signed_by)), name)
    _require_statements(manifest, checked, name)
    return checked


def _has_signed(key: PublicKey, digest: str, attached: Attached) -> bool:
    if any(
        is_simple_signing_of(payload, digest) and key.verifies(signature, payload)
        for payload, signature in attached.simple
    ):
        return True
    return any(
        one.is_signed_by(key) and (found := _read(one, digest)) is not None and found.type == SIGNED
        for one in attached.envelopes
    )


def _check_statements(
    attached: Attached, digest: str, keys: Sequence[PublicKey], checked: Checked, name: str
) -> Checked:
    trusted: dict[tuple[str, bytes], Predicate] = {}
    others: list[str] = []
    for envelope in attached.envelopes:
        signers = list(list_signers(envelope, keys))
        claimed = [key for key in keys if envelope.names(key)]
        if not signers and claimed:
            raise SignatureError(
                f"a statement about {name} was changed: it names the key {claimed[0].source}, which did not sign it",
                hint="do not use the image: build it again",
            )
        if not signers:
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
            f"no trusted key signed the statement about {name} of the type {unsigned[0]}",
            hint="if another signer attached it, add its public key with --key",
        )
    return Checked(digest, checked.keys, tuple(trusted.values()), len(others) + attached.unread)


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


def _describe_keys(attached: Attached, keys: Sequence[PublicKey]) -> list[str]:
    there = len(attached.simple) + len(attached.envelopes)
    found = f"{there} signatures are attached, by other keys or of something else" if there else "nothing is attached"
    return [found, f"trusted: {', '.join(key.source for key in keys)}"]
