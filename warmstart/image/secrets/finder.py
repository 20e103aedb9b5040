"""Find the values of secrets in texts, all of them in one pass."""

from __future__ import annotations

from collections.abc import Collection

from warmstart.image.secrets.forms import list_forms
from warmstart.image.secrets.scan import Scanner
from warmstart.recipe.model import Secret


class Finder:
    """Finds the names of the secrets whose values occur in a piece of content.

    Args:
        secrets: those to search for; the ones without a form are not.
    """

    def __init__(self, secrets: Collection[Secret]) -> None:
        self.names = frozenset(secret.name for secret in secrets if list_forms(secret.value))
        self._scanner = Scanner(secrets, rules=())

    def find(self, content: bytes) -> set[str]:
        """Return the names of the secrets in `content`."""
        return {hit.title for hit in self._scanner.scan(content, 0, len(content))}
