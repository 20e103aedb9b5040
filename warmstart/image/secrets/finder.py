"""Find secrets in content that arrives piece by piece: all of them in one pass."""

from __future__ import annotations

from collections.abc import Collection

from ahocorasick_rs import BytesAhoCorasick, Implementation

from warmstart.image.secrets.forms import list_forms
from warmstart.recipe.model import Secret

MORE = "more"
_MOST_PLACES = 8


class Finder:
    """Finds the names of the secrets whose values occur in a piece of content.

    Args:
        secrets: those to search for; the ones without a form are not.
    """

    def __init__(self, secrets: Collection[Secret]) -> None:
        forms: dict[bytes, set[str]] = {}
        for secret in secrets:
            for form in list_forms(secret.value):
                forms.setdefault(form, set()).add(secret.name)
        self._forms = forms
        self._needles: dict[frozenset[str], _Needles] = {}
        self.names = frozenset(name for names in forms.values() for name in names)
        #: The bytes to keep of a piece, so that a value across its end is found with the next one.
        self.overlap_bytes = max(map(len, forms), default=1) - 1

    def find(self, content: bytes, known: Collection[str] = ()) -> set[str]:
        """Return the names of the secrets in `content`, without those that are `known`."""
        found: set[str] = set()
        # A match hides those that overlap it, so the others are searched for again.
        while wanted := self.names.difference(known, found):
            more = self._select(wanted).find(content)
            if not more:
                break
            found |= more & wanted
        return found

    def _select(self, names: frozenset[str]) -> _Needles:
        if names not in self._needles:
            forms = {form: owners for form, owners in self._forms.items() if not owners.isdisjoint(names)}
            self._needles[names] = _Needles(forms)
        return self._needles[names]


class _Needles:
    """Forms of secrets, and the names they stand for."""

    def __init__(self, forms: dict[bytes, set[str]]) -> None:
        self._owners = list(forms.values())
        # Of the implementations, it is the one whose speed does not fall with the number of forms.
        self._automaton = BytesAhoCorasick(forms, implementation=Implementation.DFA)

    def find(self, content: bytes) -> set[str]:
        matches = {index for index, _, _ in self._automaton.find_matches_as_indexes(content)}
        return {name for index in matches for name in self._owners[index]}


class Search:
    """A search through contents one after the other, such as the files of a layer.

    Attributes:
        places: the places where each secret was found, in order; after _MOST_PLACES of them, MORE.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._place = ""
        self._end = b""
        self.places: dict[str, dict[str, None]] = {name: {} for name in finder.names}

    def fork(self) -> Search:
        """Return a search through another content of the same place, at the same time."""
        forked = Search(self._finder)
        forked.places = self.places
        forked.enter(self._place)
        return forked

    def is_held_by(self, text: str) -> bool:
        """Whether a text holds a secret."""
        return bool(self._finder.find(text.encode(errors="surrogatepass")))

    def enter(self, place: str) -> None:
        """Begin another content; its place may be that of one before it."""
        self._place, self._end = place, b""

    def feed(self, piece: bytes) -> None:
        """Search the next piece of the content."""
        content = self._end + piece
        known = [name for name, places in self.places.items() if self._place in places or MORE in places]
        for name in self._finder.find(content, known):
            places = self.places[name]
            places[self._place if len(places) < _MOST_PLACES else MORE] = None
        kept = self._finder.overlap_bytes
        self._end = content[-kept:] if kept else b""
