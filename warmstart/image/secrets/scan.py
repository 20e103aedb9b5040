"""Search content that arrives in pieces for known values and by rules, in a single pass.

One automaton finds the forms of all values and the keywords of all rules. Where it finds a keyword, the rule's pattern
is tried. Content is hostile: each step is bounded by the size of the content.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from ahocorasick_rs import BytesAhoCorasick, Implementation

from warmstart.image.secrets.forms import list_forms
from warmstart.image.secrets.rules import CHARS_AFTER, CHARS_BEFORE, RULES, Rule
from warmstart.recipe.model import Secret

#: The kind of a finding that is a value which the build or the user knows.
KNOWN = "known-value"
#: Stands for all further places.
MORE = "more"

_BLOCK_BYTES = 1 << 20
# Bytes of a character: Latin-1 and UTF-8, UTF-16, UTF-32.
_WIDTHS = (1, 2, 4)
_BYTES_BEFORE = CHARS_BEFORE * _WIDTHS[-1]
_BYTES_AFTER = CHARS_AFTER * _WIDTHS[-1]
# Of the keywords of one rule in one block: one in each 64 bytes. Real memory has a few hundred URLs in a block.
_MOST_TRIED = 16384
_MOST_FINDINGS = 1000
_MOST_PLACES = 8
_MOST_SPOTS = 8
_SHOWN_CHARS = 4


@dataclass(frozen=True)
class Spot:
    """Where something was found.

    Attributes:
        place: the place for a user, such as `memory`.
        member: the file of the checkpoint; empty for others.
        offset: of the first byte in the content.
        path: the path of a text in a document, which says where it is; empty for files.
    """

    place: str
    member: str
    offset: int
    path: str = ""


@dataclass(frozen=True)
class Hit:
    """One occurrence.

    Attributes:
        kind: the rule's kind, or KNOWN.
        title: the rule's title, or the name of the value.
        at: offset of its first byte.
        secret: its bytes, a character each if it is a text; empty for a known value.
        excerpt: what may be shown of it.
    """

    kind: str
    title: str
    at: int
    secret: bytes = field(default=b"", repr=False)
    excerpt: str = ""


@dataclass
class Found:
    """All occurrences of one secret.

    Attributes:
        kind, title, excerpt: as in `Hit`.
        count: the number of occurrences.
        places: the places for a user, in order; after _MOST_PLACES of them, MORE.
        spots: the first occurrences.
    """

    kind: str
    title: str
    excerpt: str
    count: int = 0
    places: dict[str, None] = field(default_factory=dict)
    spots: list[Spot] = field(default_factory=list)


class Scanner:
    """Finds values and secrets in a piece of content.

    Args:
        secrets: values to search for; the ones without a form are not.
        rules: rules to search by.

    Attributes:
        ahead: number of bytes that must follow the start of an occurrence, unless the content ends.
        is_complete: whether it has looked at each keyword so far.
    """

    def __init__(self, secrets: Collection[Secret] = (), rules: Sequence[Rule] = RULES) -> None:
        owners: dict[bytes, list[str | tuple[Rule, int]]] = {}
        self._values: list[bytes] = []
        for secret in secrets:
            forms = list_forms(secret.value)
            self._values += [secret.value.strip()] if forms else []
            for form in forms:
                owners.setdefault(form, []).append(secret.name)
        self.is_complete = True
        self.ahead = max([_BYTES_AFTER if rules else 1, *map(len, owners)])
        for rule in rules:
            for keyword in rule.keywords:
                for width in _WIDTHS if rule.is_text else _WIDTHS[:1]:
                    owners.setdefault(_widen(keyword, width), []).append((rule, width))
        self._owners = list(owners.values())
        # Of the implementations, it is the one whose speed does not fall with the number of forms.
        self._automaton = BytesAhoCorasick(owners, implementation=Implementation.DFA) if owners else None

    def knows(self, secret: bytes) -> bool:
        """Whether a known value is a secret that a rule has found, or is in it: it is found by its name as well."""
        plain = unquote_to_bytes(secret)
        return any(value in secret or value in plain for value in self._values)

    def scan(self, content: bytes, start: int, end: int) -> Iterator[Hit]:
        """Yield what begins in `content` between `start` and `end`, in order; the bytes around are looked at too."""
        if self._automaton is None:
            return
        haystack = memoryview(content)[start : min(len(content), end + self.ahead)]
        tried: Counter[int] = Counter()
        last: dict[tuple[int, int], int] = {}
        for index, first, _ in sorted(
            self._automaton.find_matches_as_indexes(haystack, overlapping=True), key=lambda match: match[1]
        ):
            at = start + first
            if at >= end:
                break
            for owner in self._owners[index]:
                if isinstance(owner, str):
                    yield Hit(KNOWN, owner, at)
                    continue
                rule, width = owner
                key = (id(rule), width)
                tried[id(rule)] += 1
                if tried[id(rule)] > _MOST_TRIED:
                    self.is_complete = False
                    continue
                if at < last.get(key, 0):
                    continue
                if found := _try(rule, width, content, at):
                    hit, last[key] = found
                    yield hit


def _widen(keyword: bytes, width: int) -> bytes:
    """Return a keyword in a wider encoding, without its last zero bytes: so it is found in either byte order."""
    return bytes(width - 1).join(keyword[at : at + 1] for at in range(len(keyword)))


def _try(rule: Rule, width: int, content: bytes, at: int) -> tuple[Hit, int] | None:
    """Try a rule where one of its keywords is; return what was found, and where that ends."""
    if width == 1:
        text, pos, end = content, at, min(len(content), at + CHARS_AFTER)
    else:
        text, pos = _narrow(content, at, width)
        end = len(text)
    span = rule.find(text, pos, end)
    if span is None:
        return None
    first, after = span
    secret = text[first:after]
    return Hit(rule.kind, rule.title, at + (first - pos) * width, secret, _mask(rule, text[pos:after], len(secret))), (
        at + (after - pos) * width
    )


def _narrow(content: bytes, at: int, width: int) -> tuple[bytes, int]:
    """Return the text around a place of wide characters, as far as they are of ASCII, and the place in it."""
    before = min(CHARS_BEFORE, at // width)
    after = content[at + 1 : at + CHARS_AFTER * width : width]
    # The zero bytes between the characters, without the last, which may be part of the next thing.
    chars = len(after) - len(after.lstrip(b"\0")) + 1
    return content[at - before * width : at + chars * width : width], before


def _mask(rule: Rule, text: bytes, secret_chars: int) -> str:
    if not rule.is_text:
        return f"{secret_chars} bytes"
    keyword = next((one for one in rule.keywords if text.startswith(one)), b"") if rule.shown else b""
    return f"{keyword.decode('ascii')}… ({secret_chars} characters)"


class Search:
    """A search through contents one after the other, such as the files of a layer.

    Attributes:
        found: the secrets that were found, by a digest that is of no use elsewhere.
    """

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._salt = os.urandom(16)
        self._place = self._member = self._path = ""
        # Content that is not searched yet, from `_next` on; before it there is what was searched last.
        self._content, self._next, self._offset = b"", 0, 0
        self.found: dict[bytes, Found] = {}
        self._is_complete = True

    @property
    def is_complete(self) -> bool:
        """Whether all that there is was found, and is in `found`."""
        return self._is_complete and self._scanner.is_complete

    def holds_secret(self, text: str) -> bool:
        """Whether a text holds a secret."""
        content = text.encode(errors="surrogatepass")
        return any(True for _ in self._scanner.scan(content, 0, len(content)))

    def enter(self, place: str, member: str = "", path: str = "") -> None:
        """Begin another content.

        Args:
            place: its place for a user, which may be that of a content before it.
            member: the file, if it is one of a checkpoint.
            path: its path, if it is a text of a document.
        """
        self.finish()
        self._place, self._member, self._path = place, member, path

    def feed(self, piece: bytes) -> None:
        """Search the next piece of the content."""
        self._content += piece
        if len(self._content) - self._next >= _BLOCK_BYTES + self._scanner.ahead:
            self._search(len(self._content) - self._scanner.ahead)

    def finish(self) -> None:
        """Search the end of the content."""
        self._search(len(self._content))
        self._content, self._next, self._offset = b"", 0, 0

    def _search(self, end: int) -> None:
        if end > self._next:
            for hit in self._scanner.scan(self._content, self._next, end):
                self._note(hit)
        dropped = max(0, end - _BYTES_BEFORE)
        self._content = self._content[dropped:]
        self._offset += dropped
        self._next = end - dropped

    def _note(self, hit: Hit) -> None:
        if hit.kind != KNOWN and self._scanner.knows(hit.secret):
            return
        text = f"{hit.kind}\0{hit.title}\0".encode()
        key = hashlib.blake2b(text + hit.secret, key=self._salt).digest()
        found = self.found.get(key)
        if found is None:
            if len(self.found) >= _MOST_FINDINGS and hit.kind != KNOWN:
                self._is_complete = False
                return
            found = self.found[key] = Found(hit.kind, hit.title, hit.excerpt)
        found.count += 1
        if self._place not in found.places:
            found.places[self._place if len(found.places) < _MOST_PLACES else MORE] = None
        if len(found.spots) < _MOST_SPOTS:
            found.spots.append(Spot(self._place, self._member, self._offset + hit.at, self._path))
