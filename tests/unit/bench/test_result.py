"""The few figures that stand for many."""

from __future__ import annotations

import math
import statistics
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.benches import MIB, make_bench, make_requests, make_series, make_start

from warmstart.bench.requests import Requests
from warmstart.bench.result import First, Lead, Spread

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


def test_the_first_requests_are_those_of_the_start_in_the_middle():
    runs = [make_requests([0.9, *[0.1] * 9]), make_requests([0.5, *[0.2] * 8, 0.4]), make_requests([0.7, *[0.3] * 9])]
    one, ten = First.of(runs)
    assert (one.requests, ten.requests) == (1, 10)
    assert (one.p50_s, one.p99_s, ten.p50_s, ten.p99_s) == (0.7, 0.7, 0.2, 0.7)
    assert ten.total_s == pytest.approx(2.5)
    assert (ten.cpu_s, ten.faults, ten.anonymous_bytes) == (pytest.approx(0.125), 10, 100 * MIB)
    assert list(ten.threads_s) == ["server", "timer"]
    assert ten.threads_s["server"] == pytest.approx(0.125 * 0.75)
    assert First.of([]) == First.of([Requests(), Requests()]) == ()


@pytest.mark.parametrize(
    ("ready_s", "gains", "end_s", "requests"),
    [
        (3.0, [(1, 0.5), (10, 0.5), (100, 1.0)], 4.0, math.inf),
        (3.0, [(1, 0.0), (10, 0.0), (100, 0.0)], 3.0, math.inf),
        # The 90 requests from the 11th on take a second of the lead, so two seconds last for 180 more.
        (3.0, [(1, 0.0), (10, 0.0), (100, -1.0)], 2.0, 280),
        (3.0, [(1, 0.0), (10, -1.0)], 2.0, None),
        (3.0, [(1, 0.0), (10, 0.0), (100, -6.0)], -3.0, 55),
        (3.0, [(1, -6.0), (10, 9.0)], 12.0, 0.5),
        (-0.1, [(1, 0.5)], 0.4, 0),
    ],
)
def test_a_lead_lasts_for_some_requests_or_for_ever(ready_s, gains, end_s, requests):
    assert Lead.of(ready_s, gains) == Lead(ready_s, end_s, requests)


def test_a_lead_counts_time_and_processor_time():
    cold = make_series("cold", [make_start(3.0, requests_s=[0.1] * 100)])
    slow = make_series("plain", [make_start(1.0, requests_s=[0.12] * 100)])
    fast = make_series("mapped", [make_start(0.5, requests_s=[0.05] * 100)])
    bench = make_bench(cold, slow, fast)
    elapsed, used = bench.find_leads(slow)
    assert (elapsed.ready_s, elapsed.end_s, elapsed.requests) == (pytest.approx(2.0), pytest.approx(0.0), ANY)
    assert elapsed.requests == pytest.approx(100)
    # Half of it is processor time.
    assert (used.ready_s, used.requests) == (pytest.approx(2.0), pytest.approx(200))
    assert [lead.requests for lead in bench.find_leads(fast)] == [math.inf, math.inf]
    assert (
        make_bench(make_series("cold", [make_start(1)]), make_series("plain", [make_start(1)])).find_leads(slow) is None
    )


def test_a_series_sums_up_what_its_starts_took():
    series = make_series("mapped", [make_start(total_s, own_mib) for total_s, own_mib in ((1.0, 10), (3.0, 30))])
    assert series.total.median == pytest.approx(2.0)
    assert series.median_of("start_s") == pytest.approx(1.6)
    assert series.median_of("anonymous_bytes") == 20 * MIB
    assert series.first == ()


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
