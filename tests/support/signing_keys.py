"""Keys for signatures: one pair that cosign made, and new ones."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from warmstart.image.signatures.keys import SigningKey, read_signing_key

PASSWORD = "pw"
# `cosign generate-key-pair` of cosign 3.1.1, with that password.
COSIGN_KEY = """\
-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJSQ1BiV004YlBlV2RWdS81SXlLclJGR1ltaGVoMFpM
UkV0ajNlTlQ1OUo4PSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJ2U1FMZnFCdVhpQjhmdU9lMmRPdjA4VWZldTFBNzh3SSJ9LCJj
aXBoZXJ0ZXh0IjoidURDN3VoUzNrM2gvVThOUG00blp6bG9lYjZJSFZFTVRSYnVh
NzdEUHVEQmFsSEVWdkdCbzYrTnNxdW8yQnNmbUNJQzhkNTNweWlHTjhuYjYwNlVn
aVpPUnBOeXAvSmhxQ0JXTjM3dU55L0FkZk4ySjl5SVNQL2cva0tIMXRReDZqQklY
Y2ZRWW1MdFlPa3pHbVczNTFJUXBNYmRJcWdQOEdnZEZIVFJWSXlNVmFBL0xJcWgz
YTZoS2tYZHNIdENYMzc5OGlJZ1V5OWoxSXc9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
COSIGN_PUB = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEI7XARsvNWNTrr0C5MJhzD2qlFZrY
BxVyMljtCeRTWmkWu5x7Xyr8J3oxgybDDGHKpIG5k+RiMJ+QmdxCghmq+w==
-----END PUBLIC KEY-----
"""


def write_pair(
    directory: Path, name: str = "key", *, curve: ec.EllipticCurve | None = None, password: str = ""
) -> Path:
    """Write NAME.key and NAME.pub, of a new key on this curve or of Ed25519; return the path of the private key."""
    key = ec.generate_private_key(curve) if curve else ed25519.Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    path = directory / f"{name}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def write_rsa_pair(directory: Path) -> Path:
    """Write a private key into a directory, and its public key beside the directory; return the path of the latter."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (directory / "node.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = directory.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def make_key(directory: Path, name: str = "key") -> SigningKey:
    """Return a new key on P-256, with its files in a directory."""
    return read_signing_key(write_pair(directory, name, curve=ec.SECP256R1()))
