"""The few figures that stand for many."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.benches import MIB, make_bench, make_series, make_start

from warmstart.bench.result import Latency, Spread

FIGURES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=200)


def test_percentiles_are_figures_that_were_measured():
    spread = Spread.of([float(number) for number in range(100, 0, -1)])
    assert spread == Spread(50.5, 95.0, 99.0, 1.0, 100.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0)
    assert Spread.of([float(number) for number in range(1, 21)]).p95 == 19.0


@given(FIGURES)
def test_any_figures(figures):
    spread = Spread.of(figures)
    assert spread.smallest <= spread.median <= spread.largest
    assert spread.p95 <= spread.p99 <= spread.largest
    assert {spread.p95, spread.p99} <= set(figures)
    for share, figure in ((0.95, spread.p95), (0.99, spread.p99)):
        assert sum(each <= figure for each in figures) >= share * len(figures)
    assert spread.median == statistics.median(figures)


def test_latency_is_that_of_the_batch_in_the_middle():
    batches = [[0.9, *[0.1] * 99], [0.5, *[0.2] * 98, 0.4], [0.7, *[0.3] * 97, 0.8, 0.8]]
    latency = Latency.of(batches)
    assert latency == Latency(first_s=0.7, p50_s=0.2, p99_s=0.4)
    assert Latency.of([]) is None
    assert Latency.of([(), ()]) is None


def test_a_series_sums_up_what_its_starts_took():
    series = make_series("mapped", [make_start(total_s, own_mib) for total_s, own_mib in ((1.0, 10), (3.0, 30))])
    assert series.total.median == pytest.approx(2.0)
    assert series.median_of("start_s") == pytest.approx(1.6)
    assert series.median_of("anonymous_bytes") == 20 * MIB
    assert series.latency is None


def test_the_best_is_the_fastest_of_those_that_are_restored():
    cold = make_series("cold", [make_start(0.1)])
    plain, mapped = make_series("plain", [make_start(0.5)]), make_series("mapped", [make_start(0.25)])
    bench = make_bench(cold, plain, mapped)
    assert bench.best is mapped
    assert bench.ratio == pytest.approx(0.4)
    assert bench.find("plain") is plain
    assert bench.find("other") is None


@pytest.mark.parametrize(("cold_s", "worth"), [(0.02, False), (0.2, False), (0.29, False), (0.31, True), (3.0, True)])
def test_worth_it_is_what_is_faster_by_half(cold_s, worth):
    bench = make_bench(make_series("cold", [make_start(cold_s)]), make_series("plain", [make_start(0.2)]))
    assert bench.is_worth_it == worth


def test_only_layers_that_the_base_image_does_not_have_are_added():
    cold, mapped = make_series("cold", [make_start(3)]), make_series("mapped", [make_start(0.2)])
    bench = make_bench(cold, mapped)
    assert (bench.added_bytes(cold), bench.added_bytes(mapped)) == (0, 20 * MIB)
