"""The record of secrets in an image's annotation."""

from __future__ import annotations

import pytest

from warmstart.core.errors import ImageError
from warmstart.image.secrets.record import FoundSecret, parse_record, write_record

FOUND = (FoundSecret("shop-db.password", ("memory", "file /app/ä")), FoundSecret("other.key", ("checkpoint",)))


@pytest.mark.parametrize("found", [(), FOUND])
def test_it_is_read_as_it_was_written(found):
    assert parse_record(write_record(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "7", "null", "[7]", "[{}]", '[{"name": 1, "places": []}]', '[{"name": "a", "places": "memory"}]',
     '[{"name": "a", "places": [1]}]', '[{"name": "a", "name": "b", "places": []}]', "[" * 100_000],
)  # fmt: skip
def test_another_document_is_refused(text):
    with pytest.raises(ImageError):
        parse_record(text)
