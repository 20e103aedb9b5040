"""The lines of CRIU's log that say why it failed, out of the hundreds that do not."""

from __future__ import annotations

import re

# `(00.041315) Error (criu/net.c:3436): net: Locking network failed`, also when a runtime quotes it in a message.
_ERROR = re.compile(r"Error \((?P<where>[\w./-]+:\d+)\): (?P<text>.*)")
# What CRIU logs as an error in every run on a host that lacks a device or a privilege it can do without, and what only
# repeats that something failed.
_NOISE = (
    "Unable to create tun",
    "Can't setup RLIMIT_NOFILE",
    "exited, status=",
    "Dumping FAILED",
    "Restoring FAILED",
    "Cleaning failed",
)


def find_errors(log: str) -> list[str]:
    """The errors in a log of CRIU, or in a runtime's message that quotes one: `TEXT (SOURCE:LINE)`, in order."""
    found: dict[str, None] = {}
    for line in log.splitlines():
        match = _ERROR.search(line.rstrip().removesuffix('"'))
        if match and not any(noise in match["text"] for noise in _NOISE):
            found[f"{match['text']} ({match['where']})"] = None
    return list(found)
