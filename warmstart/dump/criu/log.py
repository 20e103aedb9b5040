"""What CRIU's log says of CRIU itself, and why it failed, in a few lines out of hundreds."""

from __future__ import annotations

import re

# `(00.041315) Error (criu/net.c:3436): net: Locking network failed`, also when a runtime quotes it in a message.
_ERROR = re.compile(r"Error \((?P<where>[\w./-]+:\d+)\): (?P<text>.*)")
# `(00.000021) Version: 4.2.1 (gitid 0)`, first of all (`print_versions` in criu/log.c); only from `-v4` on.
_VERSION = re.compile(r"\) Version: (?P<version>[\w.+~-]{1,40}) \(gitid", re.ASCII)
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


def find_version(log: str) -> str | None:
    """The version of CRIU that wrote a log; None where the log does not say."""
    match = _VERSION.search(log)
    return match["version"] if match else None
