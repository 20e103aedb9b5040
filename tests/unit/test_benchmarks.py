"""The scripts of `make bench`, as far as they can be tried without measuring."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from warmstart.recipe.model import Mapped

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("run")


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (12.0, {"at_least": 12}, ("12.00", True)),
        (11.99, {"at_least": 12}, ("11.99", False)),
        (1.3, {"at_most": 1.3}, ("1.30", True)),
        (1.31, {"at_most": 1.3}, ("1.31", False)),
        (1.0, {"below": 1}, ("1.00", False)),
        (0.5, {"below": 1}, ("0.50", True)),
    ],
)
def test_a_ratio_is_judged_by_its_bounds(run, value, bounds, expected):
    assert run.judge(value, **bounds) == expected


def test_the_example_takes_live_data_and_a_heap_for_it(run):
    recipe = run.with_live_data(1900, 2800, "4Gi")
    assert recipe.container.args == ("--live-data.size-mb=1900",)
    [(name, options)] = recipe.container.env
    assert name == "JAVA_TOOL_OPTIONS"
    assert [option for option in options.split() if option.startswith("-Xmx")] == ["-Xmx2800m"]
    assert recipe.container.resources.memory_limit_bytes == 4 << 30
    assert recipe.mapped is not Mapped.NONE


def test_as_it_comes_it_is_not_prepared(run):
    recipe = run.as_it_comes(run.with_live_data(80, 384, "1Gi"))
    assert (recipe.container.env, recipe.before_checkpoint) == ((), ())
    assert recipe.warmup
