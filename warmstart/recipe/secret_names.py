"""Literal values that are probably secrets: by the name of their variable, or as a connection string with a password.

Only a name and a reason are ever shown, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from warmstart.core.yaml_document import KeyPath

# As the last part of a word: PGPASSWORD, DBPASS, CLIENTSECRET, AUTHTOKEN, APIKEY.
_ENDING = re.compile(r"(?P<kind>PASSWORD|PASSWD|PASSPHRASE|PASSCODE|PWD|PASS|SECRET|TOKEN|KEY|CREDENTIAL)S?\Z")
_ORDINARY = {"BYPASS", "COMPASS", "MONKEY", "HOTKEY", "TURNKEY"}
# Before KEY: a key that everybody may know.
_HARMLESS_KEYS = {"PUBLIC", "PUB", "PRIMARY", "FOREIGN", "SORT", "PARTITION", "ROUTING", "CACHE", "LABEL", "MAP"}
# As the last word: something about a secret, not the secret.
_ABOUT = re.compile(
    "FILES?|PATH|DIR|DIRECTORY|LOCATION|NAMES?|IDS?|URL|URI|ENDPOINT|HOST|PORT|ISSUER|AUDIENCE|TYPE|ALG|ALGORITHM|FORMAT"
    "|LENGTH|SIZE|LIMIT|COUNT|TTL|EXPIRY|EXPIRATION|EXPIRES|TIMEOUT|LIFETIME|VALIDITY|DURATION|INTERVAL|SECONDS|MINUTES"
    "|HOURS|DAYS|AGE|ENABLED|DISABLED|REQUIRED|POLICY|PREFIX|SUFFIX|HEADER|FIELD|COLUMN|MODE|VERSION|PROVIDER|STORE"
    "|ROTATION|USER|USERNAME|PATTERN|REGEX"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", re.ASCII)
_SWITCHES = {"true", "false", "yes", "no", "on", "off", "none", "null"}
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]+)?", re.ASCII)
_PATH = re.compile(r"(file:)?\.{0,2}/[\w.-]+(/[\w.@-]+)*/?", re.ASCII)
_REFERENCE = re.compile(
    r"\$\([^()]{0,200}\)|\$\{[^{}]{0,200}\}|\{\{[^{}]{0,200}\}\}|<[^<>]{0,200}>",
)
_USER_INFO = re.compile(r"[a-z][a-z0-9+.-]{0,40}://[^\s/@:?#]{0,200}:(?P<value>[^\s/@]{1,200})@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(?P<kind>password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?"
    r"(?P<value>[^\s;&,\"']{1,200})",
    re.IGNORECASE,
)
_PRIVATE_KEY = "PRIVATE KEY-----"


@dataclass(frozen=True)
class Suspect:
    """A literal value that is probably a secret: its path, its variable, and why."""

    path: KeyPath
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def find_suspects(env: Any, path: KeyPath = ("container", "env")) -> Iterator[Suspect]:
    """Find the variables of a container's `env`, checked or not, whose literal values are probably secrets."""
    for index, item in enumerate(env if isinstance(env, list) else []):
        if not isinstance(item, dict):
            continue
        name, value = item.get("name"), item.get("value")
        if isinstance(name, str) and isinstance(value, str) and (reason := secret_reason(name, value)):
            yield Suspect((*path, index, "value"), name, reason)


def secret_reason(name: str, value: str) -> str:
    """Tell why the literal value of a variable is probably a secret; empty if it is not.

    References such as `$(NAME)` are not literal: a value of nothing else is none.
    """
    literal = _REFERENCE.sub("", value)
    if not literal.strip() or not any(map(str.isalnum, literal)):
        return ""
    if _PRIVATE_KEY in value:
        return "it is a private key"
    if _has_password(value):
        return "it holds a password, token or key, as a connection string does"
    kind = _kind_of(name)
    if kind and not _is_harmless(value, kind):
        return f"its name says {kind}"
    return ""


def _has_password(value: str) -> bool:
    text = _REFERENCE.sub("$", value)
    found = (match["value"] for pattern in (_USER_INFO, _ASSIGNED) for match in pattern.finditer(text))
    return any(one.strip("$") and one.lower() not in _SWITCHES for one in found)


def _kind_of(name: str) -> str:
    """The word of a variable's name that tells of a secret; empty if there is none."""
    words = [word.upper() for word in _WORDS.findall(name)]
    if not words or _ABOUT.fullmatch(words[-1]) or words == ["PWD"]:  # PWD alone is the shell's directory
        return ""
    for index, word in enumerate(words):
        match = None if word in _ORDINARY else _ENDING.search(word)
        is_last, before = index == len(words) - 1, words[index - 1] if index else ""
        if match and (match["kind"] != "KEY" or (is_last and before not in _HARMLESS_KEYS)):
            return match["kind"]
    return ""


def _is_harmless(value: str, kind: str) -> bool:
    """Tell whether a value is no secret whatever its name: a switch, a path, a number of tokens or of keys."""
    text = value.strip()
    number = kind in ("TOKEN", "KEY") and _NUMBER.fullmatch(text)
    return bool(text.lower() in _SWITCHES or number or _PATH.fullmatch(text))
