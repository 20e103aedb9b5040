"""Kubernetes' quantities: the numbers of `resources.limits` and `resources.requests`.

The format and its rounding are those of k8s.io/apimachinery, pkg/api/resource/quantity.go: a decimal number with a
binary suffix (Ki ... Ei), a decimal one (n, u, m, k ... E) or an exponent (e3, E3). Values are exact, never a float.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]*))?"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,18}))?",
    re.ASCII,
)
_DECIMAL = ("n", "u", "m", "", *"kMGTPE")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_SUFFIXES = {suffix: Fraction(1000) ** power for power, suffix in enumerate(_DECIMAL, -3)} | {
    suffix: Fraction(1024) ** power for power, suffix in enumerate(_BINARY, 1)
}
_NANO = Fraction(1, 10**9)
_LARGEST = Fraction(2**63 - 1)


def parse_quantity(text: str | float) -> Fraction:
    """The value of a quantity, rounded away from zero to a whole billionth and capped at 2^63-1, as Kubernetes does.

    A number that YAML has read already is taken as its shortest decimal form.

    Raises:
        ValueError: this is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or not (match["whole"] or match["part"]):
        raise ValueError(f"not a quantity: {text!r}")
    digits = match["whole"] + (match["part"] or "")
    value = int(digits) * _power_of_ten(match, len(digits)) * _SUFFIXES[match["suffix"] or ""]
    value = min(_NANO * math.ceil(value / _NANO), _LARGEST)
    return -value if match["sign"] == "-" else value


def _power_of_ten(match: re.Match[str], digits: int) -> Fraction:
    """Return the factor for the digits.

    The exponent is limited to the range that matters between a billionth and 2^63, so that a short text cannot ask for
    a number with a billion digits.
    """
    furthest = digits + 30
    exponent = max(-furthest, min(furthest, int(match["exponent"] or 0)))
    return Fraction(10) ** (exponent - len(match["part"] or ""))


# A CRI quota counts microseconds of 100 ms in 64 bits: 100 for a thousandth of a core.
_MOST_MILLICORES = (2**63 - 1) // 100


def whole_bytes(text: str | float) -> int:
    """Return a quantity of memory in bytes, rounded up."""
    return math.ceil(parse_quantity(text))


def millicores(text: str | float) -> int:
    """Return a quantity of CPU in thousandths of a core, rounded up and capped at the largest quota of CRI."""
    return min(math.ceil(parse_quantity(text) * 1000), _MOST_MILLICORES)
