"""Keys that sign images, and keys that check signatures: ECDSA on P-256, or Ed25519, as cosign has them.

A private key is a PEM file, plain or encrypted, or the file of `cosign generate-key-pair`. The latter is JSON below a
PEM label: a secretbox (NaCl) of the PKCS #8 key, under a password stretched with scrypt
(https://github.com/secure-systems-lab/go-securesystemslib/blob/main/encrypted/encrypted.go).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.core.errors import InputError
from warmstart.core.untrusted_json import JsonError, parse_json
from warmstart.image.key_file import read_key_file

if TYPE_CHECKING:
    from warmstart.image.signatures.statement import Envelope

#: The variable with the password of a private key; cosign's.
PASSWORD = "COSIGN_PASSWORD"  # noqa: S105  (a name)

_COSIGN = re.compile(rb"-----BEGIN ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY-----(.*?)-----END", re.DOTALL)
# cosign's own value is 2 ** 16, which takes 64 MiB.
_MOST_SCRYPT_BYTES = 1 << 30
_KINDS = "the key must be ECDSA on P-256, or Ed25519: `cosign generate-key-pair` makes one"


@dataclass(frozen=True)
class PublicKey:
    """A key that checks signatures.

    Attributes:
        der: the key, as a SubjectPublicKeyInfo.
        source: the file it was read from.
    """

    der: bytes
    source: str = field(default="", compare=False)

    @property
    def identity(self) -> str:
        """The key's identity in signatures: base64 of the SHA-256 of `der`, as cosign writes it."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @cached_property
    def _key(self) -> Any:
        from warmstart.image.signatures import package as p

        return p.load_der_public_key(self.der)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether a signature of `data` was made with this key's private key."""
        from warmstart.image.signatures import package as p

        try:
            if isinstance(self._key, p.Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, p.ECDSA(p.SHA256()))
        except p.InvalidSignature:
            return False
        return True

    def has_signed(self, envelope: Envelope) -> bool:
        """Return whether one of an envelope's signatures is of this key. Identities are hints: they do not matter."""
        return any(self.verifies(signature, envelope.signed) for _, signature in envelope.signatures)

    def is_named_by(self, envelope: Envelope) -> bool:
        """Return whether one of an envelope's signatures claims to be of this key."""
        return any(identity == self.identity for identity, _ in envelope.signatures)


@dataclass(frozen=True)
class SigningKey:
    """A private key, decrypted. It can be pickled, for builds in other processes.

    Attributes:
        der: the key, as PKCS #8.
        source: the file it was read from.
    """

    der: bytes = field(repr=False)
    source: str = ""

    @cached_property
    def _key(self) -> Any:
        from warmstart.image.signatures import package as p

        return p.load_der_private_key(self.der, None)

    @cached_property
    def public(self) -> PublicKey:
        """The public key."""
        return _describe_public(self._key.public_key(), self.source)

    def sign(self, data: bytes) -> bytes:
        """Return a signature of `data`: ASN.1 over SHA-256 for ECDSA, 64 bytes for Ed25519."""
        from warmstart.image.signatures import package as p

        signature: bytes = (
            self._key.sign(data)
            if isinstance(self._key, p.Ed25519PrivateKey)
            else self._key.sign(data, p.ECDSA(p.SHA256()))
        )
        return signature


def read_signing_key(path: Path) -> SigningKey:
    """Read a private key; the password of an encrypted one is in the environment variable PASSWORD.

    Raises:
        InputError: the file cannot be read, is no such key, or the password is missing or wrong.
        HostError: the packages for signatures are not installed.
    """
    from warmstart.image.signatures import package as p

    data, given = read_key_file(path), os.environ.get(PASSWORD)
    password = None if given is None else given.encode()
    if found := _COSIGN.search(data):
        key = _load_cosign_key(found[1], password, path)
    else:
        key = _load_pem(data, password, path)
    if not _is_supported(key, p.EllipticCurvePrivateKey, p.Ed25519PrivateKey):
        raise InputError(f"{path}: cannot sign with this kind of key", hint=_KINDS)
    der = key.private_bytes(p.Encoding.DER, p.PrivateFormat.PKCS8, p.NoEncryption())
    return SigningKey(der, str(path))


def read_public_key(path: Path) -> PublicKey:
    """Read a public key in a PEM file.

    Raises:
        InputError: the file cannot be read, or is no such key.
        HostError: the packages for signatures are not installed.
    """
    from warmstart.image.signatures import package as p

    data = read_key_file(path)
    if b"PRIVATE KEY-----" in data:
        raise InputError(f"{path} is a private key", hint="give the public key, such as cosign.pub")
    try:
        key = p.load_pem_public_key(data)
    except (ValueError, p.UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is not a public key in PEM", hint=_KINDS) from error
    if not _is_supported(key, p.EllipticCurvePublicKey, p.Ed25519PublicKey):
        raise InputError(f"{path}: this kind of key is not supported", hint=_KINDS)
    return _describe_public(key, str(path))


def _is_supported(key: Any, elliptic: type, edwards: type) -> bool:
    from warmstart.image.signatures import package as p

    return isinstance(key, edwards) or (isinstance(key, elliptic) and isinstance(key.curve, p.SECP256R1))  # type: ignore[attr-defined]


def _describe_public(key: Any, source: str) -> PublicKey:
    from warmstart.image.signatures import package as p

    return PublicKey(key.public_bytes(p.Encoding.DER, p.PublicFormat.SubjectPublicKeyInfo), source)


def _load_pem(data: bytes, password: bytes | None, path: Path) -> Any:
    from warmstart.image.signatures import package as p

    encrypted = b"ENCRYPTED" in data
    if encrypted and password is None:
        raise _ask_password(path)
    try:
        return p.load_pem_private_key(data, password if encrypted else None)
    except (ValueError, TypeError, p.UnsupportedAlgorithm) as error:
        why = f", or the password in {PASSWORD} is wrong" if encrypted else ""
        raise InputError(f"{path} is not a private key in PEM{why}", hint=_KINDS) from error


def _load_cosign_key(text: bytes, password: bytes | None, path: Path) -> Any:
    from warmstart.image.signatures import package as p

    if password is None:
        raise _ask_password(path)
    broken = InputError(f"{path} is not a key that cosign made", hint=_KINDS)
    try:
        box = parse_json(base64.b64decode(b"".join(text.split()), validate=True))
        stretched = _stretch(password, box["kdf"])
        nonce = base64.b64decode(box["cipher"]["nonce"])
        decrypted = p.SecretBox(stretched).decrypt(base64.b64decode(box["ciphertext"]), nonce)
    except p.CryptoError as error:
        raise InputError(f"{path}: the password in {PASSWORD} is wrong") from error
    except (JsonError, KeyError, TypeError, ValueError) as error:
        raise broken from error
    try:
        return p.load_der_private_key(decrypted, None)
    except (ValueError, p.UnsupportedAlgorithm) as error:
        raise broken from error


def _stretch(password: bytes, kdf: Mapping[str, Any]) -> bytes:
    """Return the key of the secretbox; ValueError if the parameters ask for too much memory."""
    n, r, p = (int(kdf["params"][name]) for name in ("N", "r", "p"))
    needed_bytes = 128 * r * (n + p + 2)
    if kdf["name"] != "scrypt" or not 0 < needed_bytes <= _MOST_SCRYPT_BYTES:
        raise ValueError("not the parameters of cosign")
    salt = base64.b64decode(kdf["salt"])
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=2 * needed_bytes, dklen=32)


def _ask_password(path: Path) -> InputError:
    return InputError(f"{path} is encrypted", hint=f"set {PASSWORD} to its password")
