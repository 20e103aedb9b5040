"""The packages `cryptography` and PyNaCl: the extra `warmstart[sign]`.

Import this module inside of functions: the packages may not be installed.

Raises:
    HostError: a package is missing.
"""

from __future__ import annotations

from warmstart.core.errors import HostError

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        SECP256R1,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_der_private_key,
        load_der_public_key,
        load_pem_private_key,
        load_pem_public_key,
    )
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox
except ModuleNotFoundError as error:
    raise HostError(
        "signatures need packages that are not installed", details=[str(error)], hint="pip install 'warmstart[sign]'"
    ) from error

__all__ = [
    "ECDSA",
    "SECP256R1",
    "SHA256",
    "CryptoError",
    "Ed25519PrivateKey",
    "Ed25519PublicKey",
    "EllipticCurvePrivateKey",
    "EllipticCurvePublicKey",
    "Encoding",
    "InvalidSignature",
    "NoEncryption",
    "PrivateFormat",
    "PublicFormat",
    "SecretBox",
    "UnsupportedAlgorithm",
    "load_der_private_key",
    "load_der_public_key",
    "load_pem_private_key",
    "load_pem_public_key",
]
