"""Checks that tell a secret from text that only looks like one: checksums, formats, placeholders and randomness.

All take what a rule's pattern matched, which is untrusted and bounded by the pattern.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import string
import zlib
from collections import Counter
from typing import Any

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CAPITALS = string.ascii_uppercase.encode()
_CHECKSUM_CHARS = 6
_LEAST_ENTROPY = 3.0
# Of 32 random bytes, 30 are different on average, and fewer than 24 in one of a hundred thousand keys.
_RATED_BYTES = 32
_LEAST_DISTINCT = 0.75

# The SHA-256 of the RSA keys that are part of the program openssl, for `openssl speed` (apps/testrsa.h), from 2048 to
# 4096 bits.
_PUBLISHED = frozenset(
    {
        "b098f67eda86b270ed7821c11b0408ba9da9fd4fa64f9d8531a5f33f29c69e9e",
        "c39029e6a117fe7e51e31909cde035ef471e68d3310007fc1313fdf7c9afe815",
        "367218fe9628c2092c157f30b5ccd4f088e1fd4e7807bea2c5f43a9b8e06078a",
    }
)

# Words of documentation, tests and templates that stand where a password would.
_STAND_IN = re.compile(
    rb"(?i:pass(?:word|wd|wrd|phrase)?|pwd?|p|secret|token|key|user(?:name|pass)?|login|name|auth|credentials?|host|port"
    rb"|changeme|change-me|example|sample|dummy|fake|test(?:ing)?|foo|bar|baz|none|null|true|false|hidden|masked|redacted"
    rb"|my-?(?:password|secret|pass)|your-?(?:password|secret|token|pass)|some-?(?:password|secret|pass)|abc|abcd|1234"
    rb"|the-?password|string|value|empty|\*+|x+|\.+|-+|_+|#+|\?+)"
)
# In code, where a variable stands in place of a value.
_NAME = re.compile(
    rb"(?i:[a-z_.]*(?:password|passwd|passphrase|secret|credential)[a-z_.]*)"
    rb"|[a-z_]+(?:\.[a-z_]+)+|[a-z]+(?:_[a-z]+)+|[A-Z]+(?:_[A-Z]+)+"
)
_TEMPLATE = re.compile(
    rb"[$%]\{?|\{\{?|<|\[|\(|:|@|\\|=|\.\.\.|.*(?:\$\{|\{\}|%[sdrv]|%\(|<[a-z]|\{[a-zA-Z0-9_]+\})", re.DOTALL
)
_SPACES_OF_PEM = re.compile(rb"\\[rn]|\s")
_BEGIN_OF_OPENSSH = b"openssh-key-v1\0"
_PEM_CHARS = 48


def is_stand_in(value: bytes) -> bool:
    """Whether a value stands in the place of a password in documentation, code or a template, such as `${PASSWORD}`."""
    patterns = (_STAND_IN.fullmatch, _NAME.fullmatch, _TEMPLATE.match)
    return any(matches(value) for matches in patterns) or len(set(value)) < 3


def is_random(value: bytes, least: float = _LEAST_ENTROPY) -> bool:
    """Whether the characters of a token vary as much as those of random ones: at least `least` bits for each."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts) >= least


def has_mixed_case(letters: bytes) -> bool:
    """Whether letters are no words in camel case: a fifth of them are capitals, and a fifth are not.

    Of 34 random letters, one in 5,000 times they are not mixed like this.
    """
    capitals = sum(letter in _CAPITALS for letter in letters)
    return len(letters) <= 5 * capitals <= 4 * len(letters)


def has_crc32(token: bytes) -> bool:
    """Whether the last six characters of a token are the CRC-32 of those after its prefix, in base 62.

    Tokens of GitHub and npm are made this way:
    https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
    """
    body, checksum = token[:-_CHECKSUM_CHARS].partition(b"_")[2], token[-_CHECKSUM_CHARS:].decode("ascii")
    number, text = zlib.crc32(body), ""
    while number:
        number, digit = divmod(number, len(_BASE62))
        text = _BASE62[digit] + text
    return text.rjust(_CHECKSUM_CHARS, "0") == checksum


def is_jwt(token: bytes) -> bool:
    """Whether a token has the parts of a JSON Web Token (RFC 7519) that is signed or encrypted."""
    header = _decode_json(token.split(b".")[0])
    return isinstance(header, dict) and isinstance(header.get("alg"), str) and header["alg"].lower() != "none"


def is_pem_body(body: bytes) -> bool:
    """Whether the text below the first line of a PEM file begins a key: DER, or OpenSSH's own format."""
    packed = _SPACES_OF_PEM.sub(b"", body)[:_PEM_CHARS]
    data = _decode_base64(packed)
    return len(packed) == _PEM_CHARS and (data.startswith(_BEGIN_OF_OPENSSH) or data[:1] == b"\x30")


def is_key_material(data: bytes) -> bool:
    """Whether the bytes of a key are as different as random ones, which those of a template are not.

    A key that is published is none.
    """
    start = data[:_RATED_BYTES]
    is_varied = len(set(start)) >= len(start) * _LEAST_DISTINCT and bytes(4) not in data
    return is_varied and hashlib.sha256(data).hexdigest() not in _PUBLISHED


def is_basic_login(encoded: bytes) -> bool:
    """Whether a text is a user and a password in base64, as in a header of HTTP."""
    user, colon, password = _decode_base64(encoded).partition(b":")
    return bool(colon and user and len(password) >= 4 and (user + password).isascii()) and not is_stand_in(password)


def _decode_json(part: bytes) -> Any:
    try:
        return json.loads(_decode_base64(part.translate(bytes.maketrans(b"-_", b"+/"))))
    except (ValueError, RecursionError):
        return None


def _decode_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""
