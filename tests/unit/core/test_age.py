"""Durations and times of images."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from warmstart.core.age import format_time, has_passed, parse_duration, parse_time


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30d", timedelta(days=30)),
        ("1d12h", timedelta(hours=36)),
        ("90m", timedelta(minutes=90)),
        ("5s", timedelta(seconds=5)),
        ("1h1h", timedelta(hours=2)),
    ],
)
def test_durations(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "d", "30", "1w", "-1d", "1.5h", "1 d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_times_have_a_zone_and_whole_seconds():
    moment = datetime(2026, 3, 1, 10, 0, 6, 123, tzinfo=UTC)
    assert format_time(moment) == "2026-03-01T10:00:06Z"
    assert parse_time("2026-03-01T12:00:06+02:00") == moment.replace(microsecond=0)
    assert parse_time("2026-03-01T10:00:06") is None
    assert parse_time("tomorrow") is None


def test_a_time_passes_once():
    now = datetime.now(UTC)
    assert has_passed(format_time(now))
    assert not has_passed(format_time(now + timedelta(minutes=1)))
    assert not has_passed("x")
