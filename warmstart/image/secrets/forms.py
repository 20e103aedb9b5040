"""The byte strings that a secret has in memory and in files: its value in the encodings that programs use.

Each is a needle of the search. UTF-16 is used by .NET, by Java before 9, and by strings of Node that are not Latin-1;
UTF-32 by Python for a string with a character above U+FFFF. Java and Python have Latin-1 in memory where it suffices.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from urllib.parse import quote, quote_plus, unquote_to_bytes

#: Shorter values are everywhere.
SHORTEST_BYTES = 6
# Digits alone are dates, counters and identifiers.
_FEWEST_DIGITS = 10
# Defaults and stand-ins that every second program has among its strings.
_COMMON = re.compile(
    rb"(?i:access|admin|administrator|anonymous|apikey|changeit|changeme|database|default|development|docker|elastic"
    rb"|example|foobar|guest|guestguest|keycloak|letmein|localhost|minioadmin|mongodb|mypassword|mysecret|nobody"
    rb"|oracle|passphrase|passw0rd|password|password1|password123|postgres|postgresql|production|public|qwerty|rabbitmq"
    rb"|replica|rootpassword|sample|secret|secrets|secret123|service|system|tomcat|undefined|username|welcome|yourpassword)"
)
# A longer value lies in pieces, as a file that is read line by line, or across pages that are not adjacent in a dump.
_LONGEST_BYTES = 64
_PIECE_BYTES = 32
_PIECES = 2
_MOST_RATED = 1000

# As in `postgresql://shop:PASSWORD@postgres:5432/shop`.
_USER_INFO = re.compile(rb"://[^\s/@:?#]{0,200}:([^\s/@]{1,200})@")
# As in a file of properties, and in `jdbc:postgresql://postgres/shop?user=shop&password=PASSWORD`.
_ASSIGNED = re.compile(
    rb"(?:password|passwd|pwd|secret|token|key)[\"']?[ \t]{0,3}[=:][ \t]{0,3}[\"']?([^\s;&,\"']{1,200})", re.IGNORECASE
)
_ESCAPED = re.compile("%[0-9A-F]{2}")


def is_common(value: bytes) -> bool:
    """Whether a value is so common that finding it says nothing: a default such as `changeme`, or a few digits."""
    text = value.strip()
    is_number = text.isdigit() and len(text) < _FEWEST_DIGITS
    return is_number or len(set(text)) < 3 or bool(_COMMON.fullmatch(text))


def list_forms(value: bytes) -> frozenset[bytes]:
    """List the byte strings that tell of a value; empty for one that is too short to be searched for.

    A long value is represented by the pieces of it that look most random. Credentials in a connection string, and
    passwords in a file of settings, are searched for by themselves too.
    """
    stripped = value.strip()
    if len(stripped) < SHORTEST_BYTES:
        return frozenset()
    parts = [*_list_pieces(stripped), *_list_credentials(stripped)]
    return frozenset(chain.from_iterable(map(_encode, parts)))


def _list_pieces(value: bytes) -> list[bytes]:
    if len(value) <= _LONGEST_BYTES:
        return [value]
    step = max(_PIECE_BYTES // 2, len(value) // _MOST_RATED)
    starts = sorted(range(0, len(value) - _PIECE_BYTES + 1, step), key=lambda at: -_rate(value[at : at + _PIECE_BYTES]))
    chosen: list[int] = []
    for start in starts:
        if all(abs(start - other) >= _PIECE_BYTES for other in chosen):
            chosen.append(start)
        if len(chosen) == _PIECES:
            break
    return [value[at : at + _PIECE_BYTES] for at in chosen]


def _rate(piece: bytes) -> float:
    """Rate how random a piece looks: by its entropy, and not at all if it is a mark such as `-----BEGIN`."""
    if b"-----" in piece:
        return 0.0
    counts = [piece.count(one) for one in set(piece)]
    return -sum(count * math.log2(count / len(piece)) for count in counts)


def _list_credentials(value: bytes) -> Iterator[bytes]:
    for found in chain(_USER_INFO.finditer(value), _ASSIGNED.finditer(value)):
        for part in {found[1], unquote_to_bytes(found[1])}:
            if len(part) >= SHORTEST_BYTES:
                yield from _list_pieces(part)


def _encode(value: bytes) -> Iterator[bytes]:
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    yield from _encode_base64(value)
    yield from _encode_url(value)
    # A piece may begin and end within a character.
    text = value.decode(errors="ignore")
    if len(text.encode()) < max(SHORTEST_BYTES, len(value) - 6):
        return
    # Without its last zero bytes, the form of ASCII is found in the other byte order too.
    yield text.encode("utf-16-le").rstrip(b"\0")
    yield text.encode("utf-32-le").rstrip(b"\0")
    if text.isascii() or max(text) <= "\xff":
        yield text.encode("latin-1")
    yield from _encode_json(text)


def _encode_base64(value: bytes) -> Iterator[bytes]:
    """Yield the characters that are the same whatever precedes and follows the value, for each alignment."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value)
        whole = encoded[-(-before * 8 // 6) : (before + len(value)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def _encode_url(value: bytes) -> Iterator[bytes]:
    for escaped in (quote(value, safe=""), quote_plus(value)):
        yield escaped.encode()
        yield _ESCAPED.sub(lambda escape: escape[0].lower(), escaped).encode()


def _encode_json(text: str) -> Iterator[bytes]:
    """Yield the escapes of a JSON string: all of Python's, and those of programs that also escape HTML or slashes."""
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield escaped.encode()
        yield escaped.replace("/", "\\/").encode()
        for one in "<>&":
            escaped = escaped.replace(one, f"\\u{ord(one):04x}")
        yield escaped.encode()
