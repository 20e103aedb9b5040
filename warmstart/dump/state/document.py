"""The kernel state as a JSON document: written by the build into the image, and read back as untrusted input.

It is a list of groups of subjects that have all facts in common, since most threads of a process are alike:
`{"version": 1, "groups": [{"of": ["thread 7", "thread 8"], "facts": {"nice": "0"}}], "leftOut": 0}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from warmstart.core.errors import ImageError
from warmstart.core.untrusted_json import JsonError, parse_json
from warmstart.dump.state.model import IDENTITY, Facts, KernelState

VERSION = 1
#: The document is an annotation of the image's manifest. Subjects beyond this size are left out.
MAX_BYTES = 64 << 10
_MAX_TEXT = 4096
_SUBJECT = re.compile(r"network|ipc|(process|thread) [0-9]{1,10}|descriptor [0-9]{1,10} [0-9]{1,10}")


def write_state(state: KernelState) -> str:
    """Return a state as a document of at most MAX_BYTES. Descriptors are the first to be left out."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for subject, all_facts in state.subjects.items():
        facts = {name: value for name, value in all_facts.items() if len(value) <= _MAX_TEXT}
        groups.setdefault(tuple(sorted(facts.items())), []).append(subject)
    kept: list[Mapping[str, object]] = []
    size, left_out = len(_dump([], len(state.subjects))), 0
    for pairs, subjects in sorted(groups.items(), key=lambda group: group[1][0].startswith("descriptor")):
        group = {"of": subjects, "facts": dict(pairs)}
        size += len(json.dumps(group)) + len(", ")
        if size > MAX_BYTES:
            left_out += len(subjects)
        else:
            kept.append(group)
    return _dump(kept, left_out)


def _dump(groups: list[Mapping[str, object]], left_out: int) -> str:
    return json.dumps({"version": VERSION, "groups": groups, "leftOut": left_out})


def parse_state(text: str) -> KernelState:
    """Parse a document.

    Raises:
        ImageError: it is not such a document, or too large.
    """
    data = text.encode(errors="surrogatepass")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the image's record of the kernel state exceeds {MAX_BYTES} bytes")
    try:
        found: Any = parse_json(data, unique_keys=True)
        if found["version"] != VERSION:
            raise ImageError("the image's record of the kernel state is of another version of warmstart")
        return KernelState(dict(pair for group in found["groups"] for pair in _parse_group(group)))
    except JsonError as error:
        raise ImageError(f"the image's record of the kernel state {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"the image's record of the kernel state is not understood: {error!r}") from error


def _parse_group(group: Mapping[str, Any]) -> list[tuple[str, Facts]]:
    facts = {_check(name): _check(value) for name, value in group["facts"].items()}
    for subject in group["of"]:
        if not _SUBJECT.fullmatch(_check(subject)) or (subject.startswith("descriptor") and IDENTITY not in facts):
            raise ValueError(f"{subject[:80]!r} is no subject")
    return [(subject, facts) for subject in group["of"]]


def _check(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{str(value)[:80]!r} is no text")
    return value
