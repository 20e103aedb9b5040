"""Identities that are trusted to sign images without a key of their own: Sigstore's keyless signatures.

Fulcio gives a signer a certificate of a few minutes, which names the identity and its OIDC issuer. The bundle of a
signature holds that certificate, and proofs of the time and of an entry in Rekor, a transparency log. All of it is
checked offline, against a trusted root with the keys of these services.

Certificates: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md. As `cosign verify` does, an identity is
compared with the certificate's alternative names, and a regular expression may match a part of one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.core.errors import InputError
from warmstart.image.signatures.keys import PublicKey
from warmstart.image.signatures.sigstore_config import flatten, load_config, load_public_config

if TYPE_CHECKING:
    from warmstart.image.signatures.statement import Envelope

_ISSUER = "1.3.6.1.4.1.57264.1.8"
_ISSUER_OF_OLD = "1.3.6.1.4.1.57264.1.1"
_USER_NAME = "1.3.6.1.4.1.57264.1.7"


@dataclass(frozen=True)
class CertificateIdentity:
    """An identity that an OIDC issuer vouches for. With `verify`, it is a policy of the package sigstore.

    Attributes:
        identity: URI, e-mail address or user name in a certificate, or a pattern.
        issuer: URL of the issuer, or a pattern.
        trusted_root: file with the keys of Fulcio, Rekor and others; None for those of the public Sigstore.
    """

    identity: str | re.Pattern[str]
    issuer: str | re.Pattern[str]
    trusted_root: Path | None = None

    @property
    def source(self) -> str:
        """The identity, for people."""
        return f"{_show(self.identity)} of {_show(self.issuer)}"

    @cached_property
    def _verifier(self) -> Any:
        from warmstart.image.signatures import sigstore_package as p

        config = load_public_config() if self.trusted_root is None else load_config(self.trusted_root)
        return p.Verifier(trusted_root=config.trusted_root)

    def has_signed(self, envelope: Envelope) -> bool:
        """Return whether this identity signed an envelope.

        Raises:
            InputError: the trusted root is not understood.
            SigningError: there is none, and the public one cannot be fetched.
            HostError: the package is not installed.
        """
        return not self.find_fault(envelope)

    def find_fault(self, envelope: Envelope) -> str:
        """Return why this identity did not sign an envelope; empty if it did. Errors as for `has_signed`."""
        from warmstart.image.signatures import sigstore_package as p

        verifier = self._verifier
        try:
            found = verifier.verify_dsse(p.Bundle.from_json(envelope.bundle), self)
        except Exception as error:  # the parsers of certificates and timestamps raise many kinds
            return flatten(error)
        return "" if found == (envelope.payload_type, envelope.payload) else "it can be read in two ways"

    def is_named_by(self, envelope: Envelope) -> bool:
        """Return whether the certificate of a bundle names this identity. Nothing is verified."""
        from warmstart.image.signatures import sigstore_package as p

        try:
            self.verify(p.Bundle.from_json(envelope.bundle).signing_certificate)
        except Exception:
            return False
        return True

    def verify(self, cert: Any) -> None:
        """Compare a certificate with this identity.

        Raises:
            VerificationError: it names another identity or issuer.
        """
        from warmstart.image.signatures import sigstore_package as p

        names, issuer = read_certificate(cert)
        if not any(_matches(self.identity, name) for name in names) or not _matches(self.issuer, issuer):
            raise p.VerificationError(f"the certificate names {', '.join(names)} of {issuer}")


TrustedSigner = PublicKey | CertificateIdentity


def parse_identity(
    identity: str | None,
    identity_regexp: str | None,
    oidc_issuer: str | None,
    oidc_issuer_regexp: str | None,
    trusted_root: Path | None,
) -> CertificateIdentity | None:
    """Return the identity that the options of cosign's names describe; None if they are not given.

    Raises:
        InputError: an option is missing, contradicts another, or is no regular expression.
    """
    wanted = _choose("certificate-identity", identity, identity_regexp)
    issuer = _choose("certificate-oidc-issuer", oidc_issuer, oidc_issuer_regexp)
    if (wanted is None) != (issuer is None):
        raise InputError(
            "--certificate-identity and --certificate-oidc-issuer belong together",
            hint="any issuer can vouch for any identity: name the one that you trust to",
        )
    return None if wanted is None or issuer is None else CertificateIdentity(wanted, issuer, trusted_root)


def _choose(option: str, text: str | None, pattern: str | None) -> str | re.Pattern[str] | None:
    if text and pattern:
        raise InputError(f"--{option} and --{option}-regexp exclude each other")
    try:
        return re.compile(pattern) if pattern else text or None
    except re.error as error:
        raise InputError(f"--{option}-regexp {pattern}: {error}") from error


def read_certificate(certificate: Any) -> tuple[list[str], str]:
    """Return the identities in a certificate of Fulcio's, and the issuer that vouches for them."""
    from warmstart.image.signatures import sigstore_package as p

    found = certificate.extensions.get_extension_for_class(p.SubjectAlternativeName).value
    names = [*found.get_values_for_type(p.UniformResourceIdentifier), *found.get_values_for_type(p.RFC822Name)]
    names += [
        p.decode_der(str, other.value)
        for other in found.get_values_for_type(p.OtherName)
        if other.type_id.dotted_string == _USER_NAME
    ]
    try:
        issuer = certificate.extensions.get_extension_for_oid(p.ObjectIdentifier(_ISSUER)).value.value
        return names, p.decode_der(str, issuer)
    except p.ExtensionNotFound:
        issuer = certificate.extensions.get_extension_for_oid(p.ObjectIdentifier(_ISSUER_OF_OLD)).value.value
        return names, str(issuer.decode())


def _matches(wanted: str | re.Pattern[str], value: str) -> bool:
    return wanted == value if isinstance(wanted, str) else wanted.search(value) is not None


def _show(wanted: str | re.Pattern[str]) -> str:
    return wanted if isinstance(wanted, str) else f"/{wanted.pattern}/"
