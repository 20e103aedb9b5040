"""Secrets that open nothing, made anew for each test, so that no scanner of repositories finds them here."""

from __future__ import annotations

import base64
import json
import secrets
import string
import zlib

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def make_token(prefix: str = "ghp_") -> str:
    """Return a token as GitHub and npm make them, with its checksum."""
    body = "".join(secrets.choice(_BASE62) for _ in range(30))
    number, checksum = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        checksum = _BASE62[digit] + checksum
    return prefix + body + checksum.rjust(6, "0")


def make_jwt() -> str:
    """Return a JSON Web Token with a random signature."""
    parts = [{"alg": "RS256", "typ": "JWT"}, {"sub": secrets.token_hex(6), "iat": 1764000000}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, secrets.token_urlsafe(64)])


def make_rsa_key() -> bytes:
    """Return DER with the structure of a PKCS #1 key of 2048 bits, and random numbers."""
    body = b"\x02\x01\x00\x02\x82\x01\x01\x00" + secrets.token_bytes(256) + b"\x02\x03\x01\x00\x01\x02\x82\x01\x00"
    body += secrets.token_bytes(256 + 5 * 132)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def make_pem(der: bytes, label: str = "RSA PRIVATE KEY") -> str:
    """Return a key as PEM."""
    text = base64.encodebytes(der).decode()
    lines = "".join(text.split("\n"))
    wrapped = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN {label}-----\n{wrapped}\n-----END {label}-----\n"
