"""Quantities, against the rules and examples of Kubernetes' own documentation of them."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.core.quantity import millicores, parse_quantity, whole_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("512Mi", 512 * 1024**2),
        ("1Ki", 1024),
        ("1k", 1000),
        ("1.5Gi", 1536 * 1024**2),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1.", 1),
        ("1.G", 10**9),
        ("500m", Fraction(1, 2)),
        ("+100u", Fraction(1, 10**4)),
        ("-2", -2),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12E-1", Fraction(12, 10)),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("007", 7),
        # finer than a billionth is rounded up, away from zero
        ("0.1n", Fraction(1, 10**9)),
        ("-0.1n", Fraction(-1, 10**9)),
        ("1e-999999999999", Fraction(1, 10**9)),
        # beyond an int64 is capped
        ("9Ei", 2**63 - 1),
        ("1e999999999999", 2**63 - 1),
        ("0e999999999999", 0),
        ("0." + "0" * 60 + "1e62", 10),
        # numbers that YAML has read already
        (2, 2),
        (0.1, Fraction(1, 10)),
        (1e-05, Fraction(1, 10**5)),
    ],
)
def test_parse_quantity(text: str | float, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "Mi",
        "512mi",
        "512MB",
        "512 Mi",
        "1e",
        "1e3.5",
        "1Kie3",
        "1ee3",
        "0x10",
        "1_000",
        "٣",
        "1\n",
        "nan",
    ],
)
def test_what_is_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


def test_units() -> None:
    assert whole_bytes("1.5Ki") == 1536
    assert whole_bytes("100m") == 1
    assert millicores("1") == 1000
    assert millicores("0.1") == 100
    assert millicores("1100u") == 2


@settings(deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(["", "k", "Ki", "M", "Mi", "e3"]))
def test_a_suffix_multiplies(number: int, suffix: str) -> None:
    factor = {"": 1, "k": 10**3, "Ki": 2**10, "M": 10**6, "Mi": 2**20, "e3": 1000}[suffix]
    assert parse_quantity(f"{number}{suffix}") == number * factor


@settings(deadline=None)
@given(st.text(alphabet="0123456789.+-eEinumkKMGTP", max_size=30))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert -(2**63) < value < 2**63
