"""Find CRIU's version and the relevant errors in its log."""

from __future__ import annotations

import re
from pathlib import Path

# `(00.041315) Error (criu/net.c:3436): net: Locking network failed`, also quoted in a runtime's message.
_ERROR = re.compile(r"Error \((?P<where>[\w./-]+:\d+)\): (?P<text>.*)")
# `(00.000021) Version: 4.2.1 (gitid 0)`, the first line (`print_versions` in criu/log.c); only with `-v4` or more.
_VERSION = re.compile(r"\) Version: (?P<version>[\w.+~-]{1,40}) \(gitid", re.ASCII)
# It comes within the first lines.
_HEAD_CHARACTERS = 1 << 16
# Errors that CRIU logs in every run on a host without some optional device or privilege, and messages that only repeat
# that it failed.
_NOISE = (
    "Unable to create tun",
    "Can't setup RLIMIT_NOFILE",
    "exited, status=",
    "Dumping FAILED",
    "Restoring FAILED",
    "Cleaning failed",
)


def find_errors(log: str) -> list[str]:
    """Return the errors in CRIU's log, or in a runtime's message that quotes it: `TEXT (SOURCE:LINE)`, in order."""
    found: dict[str, None] = {}
    for line in log.splitlines():
        match = _ERROR.search(line.rstrip().removesuffix('"'))
        if match and not any(noise in match["text"] for noise in _NOISE):
            found[f"{match['text']} ({match['where']})"] = None
    return list(found)


def find_version(log: str) -> str | None:
    """Return the version of CRIU that wrote a log; None if the log does not contain it."""
    match = _VERSION.search(log)
    return match["version"] if match else None


def read_version(log: Path | None) -> str | None:
    """Return the version of CRIU that wrote a log file; None if there is no such file, or the version is not in it."""
    if log is None or not log.exists():
        return None
    with log.open(errors="replace") as file:
        return find_version(file.read(_HEAD_CHARACTERS))
