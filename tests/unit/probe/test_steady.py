from __future__ import annotations

import pytest

from warmstart.probe.steady import Batch, is_steady


def make(latencies_s, cpus_s):
    return [Batch(100, *values) for values in zip(latencies_s, cpus_s, strict=True)]


FLAT = [1.0] * 8


@pytest.mark.parametrize(
    ("latencies_s", "cpus_s", "steady"),
    [
        (FLAT[:4], FLAT[:4], False),
        (FLAT[:5], FLAT[:5], True),
        ([5, 3, 1, 1, 1, 1, 1], FLAT[:7], True),
        ([5, 3, 1, 1, 1, 1], FLAT[:6], False),
        # A late wave in either measure.
        (FLAT, [1, 1, 1, 1, 1, 1, 1, 0.9], False),
        ([1, 1, 1, 1, 1, 1, 1, 0.9], FLAT, False),
        # Too little to be a gain, and noise above the best.
        (FLAT, [1, 1, 1, 1, 0.97, 1.8, 0.96, 1.2], True),
        # A container that uses no measurable time.
        (FLAT, [0.0] * 8, True),
    ],
)
def test_an_application_is_steady_after_some_batches_without_gain(latencies_s, cpus_s, steady):
    assert is_steady(make(latencies_s, cpus_s)) is steady


@pytest.mark.parametrize(
    ("compiling_s", "steady"),
    [
        ([0.9] * 4 + [0.0] * 4, True),
        ([0.09] * 8, True),
        ([0.2] * 8, False),
        # A wave in one of the last batches, after others without any.
        ([0.0] * 7 + [0.5], False),
        ([0.0] * 3 + [0.9] + [0.0] * 4, True),
    ],
)
def test_an_application_is_not_steady_while_compilers_work(compiling_s, steady):
    assert is_steady([Batch(100, 1.0, 1.0, used_s) for used_s in compiling_s]) is steady
