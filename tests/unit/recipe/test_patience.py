"""Probes as a build asks them."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.recipe.patience import make_patient


@pytest.mark.parametrize(
    ("given", "failures"),
    [
        ({}, 120),
        ({"initialDelaySeconds": 30, "failureThreshold": 9}, 120),
        ({"initialDelaySeconds": 30, "periodSeconds": 10, "failureThreshold": 20}, 230),
        ({"periodSeconds": 60, "failureThreshold": 1000}, 3600),
        ({"periodSeconds": "often", "failureThreshold": True}, 120),
    ],
)
def test_a_build_asks_every_second_for_at_least_as_long_as_a_pod(given: dict[str, Any], failures: int) -> None:
    action = {"httpGet": {"port": 80}, "timeoutSeconds": 3}
    made = make_patient({**action, **given, "terminationGracePeriodSeconds": 5})
    assert made == {**action, "periodSeconds": 1, "failureThreshold": failures}
