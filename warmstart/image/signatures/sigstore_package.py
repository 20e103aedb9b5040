"""The package `sigstore`: the extra `warmstart[keyless]`.

Import this module inside of functions: the package may not be installed, and takes 0.6 s of a processor to import.

Raises:
    HostError: the package is missing.
"""

from __future__ import annotations

from warmstart.core.errors import HostError

try:
    from cryptography.hazmat.asn1 import decode_der
    from cryptography.x509 import (
        Certificate,
        ExtensionNotFound,
        ObjectIdentifier,
        OtherName,
        RFC822Name,
        SubjectAlternativeName,
        UniformResourceIdentifier,
    )
    from sigstore.dsse import Statement
    from sigstore.errors import VerificationError
    from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier
except ModuleNotFoundError as error:
    raise HostError(
        "signatures without a key need packages that are not installed",
        details=[str(error)],
        hint="pip install 'warmstart[keyless]'",
    ) from error

__all__ = [
    "Bundle",
    "Certificate",
    "ClientTrustConfig",
    "ExtensionNotFound",
    "IdentityError",
    "IdentityToken",
    "ObjectIdentifier",
    "OtherName",
    "RFC822Name",
    "Signer",
    "SigningContext",
    "Statement",
    "SubjectAlternativeName",
    "TrustedRoot",
    "UniformResourceIdentifier",
    "VerificationError",
    "Verifier",
    "decode_der",
    "detect_credential",
]
