"""Parse authentication challenges: the header WWW-Authenticate (RFC 9110, section 11.6.1).

The header is untrusted. It is parsed in one pass, and refused if longer than LIMIT_CHARS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from warmstart.core.errors import RegistryError

#: The longest accepted header.
LIMIT_CHARS = 8192

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GAP = re.compile(r"[\s,]*")
_EQUALS = re.compile(r"\s*=\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# The value of a scheme such as Negotiate, instead of parameters.
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*\s*(?=,|$)")


@dataclass(frozen=True)
class Challenge:
    """A scheme and its parameters; the scheme and all parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str, host: str) -> tuple[Challenge, ...]:
    """Parse the challenges of a header, up to the first invalid one.

    Args:
        header: its value; several headers are joined with commas.
        host: name of the registry in errors.

    Raises:
        RegistryError: the header is too long.
    """
    if len(header) > LIMIT_CHARS:
        raise RegistryError(f"{host} sent a WWW-Authenticate header longer than {LIMIT_CHARS} characters")
    found: list[tuple[str, dict[str, str]]] = []
    place = _skip(_GAP, header, 0)
    while name := _TOKEN.match(header, place):
        place = name.end()
        equals = _EQUALS.match(header, place)
        if equals is None:
            found.append((name[0].lower(), {}))
            place = _skip(_TOKEN68, header, _skip(_GAP, header, place))
        else:
            value = _QUOTED.match(header, equals.end()) or _TOKEN.match(header, equals.end())
            if value is None or not found:
                break
            text = re.sub(r"\\(.)", r"\1", value[1]) if value.re is _QUOTED else value[0]
            found[-1][1].setdefault(name[0].lower(), text)
            place = value.end()
        place = _skip(_GAP, header, place)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _skip(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place
