"""Search the image of a saved container for secrets before it is published."""

from __future__ import annotations

from pathlib import Path

from warmstart.core.progress import Progress
from warmstart.image.layout import read_image
from warmstart.image.secrets.documents import list_strings, list_texts, read_documents
from warmstart.image.secrets.judge import JudgedFinding, choose_secrets, judge_findings
from warmstart.image.secrets.search import search_layers
from warmstart.recipe.model import OnSecret, SecretSearch

_HINT = "remove each from the container, or allow it with --allow-secret KIND=REASON"


def search_saved(layout: Path, base: Path, search: SecretSearch, progress: Progress) -> tuple[JudgedFinding, ...]:
    """Search what a saved container adds to its image, and warn of the secrets in it.

    Args:
        layout: layout of the new image.
        base: layout of the container's own image, whose layers and documents are not searched.
        search: the values that must not be in the image, and what is refused and allowed.
        progress: progress reporter.

    Returns:
        What was found; nothing if secrets are ignored.

    Raises:
        SecretError: the image holds a secret that is refused.
        ImageError: the image is broken.
    """
    if search.on_found is OnSecret.IGNORE:
        return ()
    with progress.step("search for secrets"):
        sought = choose_secrets(search.real, progress)
        texts = list_texts(read_documents(layout), list_strings(base))
        result = search_layers(layout, len(read_image(base).manifest.layers), sought, texts=texts)
        return judge_findings(result, search, progress, _HINT)
