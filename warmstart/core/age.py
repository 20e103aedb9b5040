"""The age of images: durations such as `30d`, and times as in annotations of the OCI image specification (RFC 3339)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"([0-9]{1,9})([dhms])")


def parse_duration(text: str) -> timedelta:
    """Return the duration of numbers with the units d, h, m and s, such as `30d` or `1d12h`.

    Raises:
        ValueError: it is no such duration.
    """
    if not text or _PART.sub("", text):
        raise ValueError(f"not a duration: {text!r}")
    return timedelta(seconds=sum(int(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))


def format_time(moment: datetime) -> str:
    """Return a time as in RFC 3339, in UTC and whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime | None:
    """Return a time as in RFC 3339; None if it is no such time, or has no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def has_passed(text: str) -> bool:
    """Return whether a time as in RFC 3339 has passed; False if it is no such time."""
    moment = parse_time(text)
    return moment is not None and moment <= datetime.now(UTC)
