"""Text for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.text import format_bytes, format_seconds, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünicode, 漢字 and emoji 🙂", "plain, ünicode, 漢字 and emoji 🙂"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("two\nlines\tand a tab\r", r"two\nlines\tand a tab\r"),
        ("right\u202eleft\u200b\u2028", r"right\u202eleft\u200b\u2028"),
        ("c1 \x9b31m del \x7f", r"c1 \x9b31m del \x7f"),
        ("undecodable \udcff", r"undecodable \udcff"),
    ],
)
def test_what_steers_a_terminal_becomes_visible(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_what_comes_out_is_printable(text):
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (3 << 30, "3.0 GiB"),
        (5000 << 30, "5000.0 GiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0004, "0 ms"), (0.2345, "234 ms"), (0.9996, "1.00 s"), (1, "1.00 s"), (75.5, "75.50 s")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
