"""What a benchmark has to say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.benches import make_bench, make_full_bench, make_series, make_start

from warmstart.bench.page import render_page
from warmstart.bench.report import find_verdict, list_bench_sections, list_facts, make_bench_document
from warmstart.bench.result import Load
from warmstart.build.launcher_report import LauncherTimes


def cells(bench, title: str) -> dict[str, dict[str, str]]:
    """A table: name of the row → name of the column → what is there."""
    [section] = [section for section in list_bench_sections(bench) if section.title.startswith(title)]
    return {row[0]: dict(zip(section.columns[1:], row[1:], strict=True)) for row in section.rows}


def test_the_verdict_says_how_much_is_gained():
    assert find_verdict(make_full_bench()) == (
        "A restored start is 15.6 times as fast as a cold one: 3.20 s cold, 205 ms restored. It stays ahead for ever."
    )


def test_the_verdict_says_so_when_nothing_is_gained():
    bench = make_bench(make_series("cold", [make_start(0.02)]), make_series("plain", [make_start(0.18)]))
    assert find_verdict(bench) == (
        "Restoring is not worth it here: 20 ms cold, 180 ms restored. Start this application as it is."
    )
    assert cells(bench, "Time to")["restored, plain"]["faster"] == "0.1 ×"


def test_starts():
    table = cells(make_full_bench(), "Time to")
    assert list(table) == ["cold", "restored, plain", "restored, mapped"]
    assert table["cold"] == {
        "median": "3.20 s",
        "p95": "4.00 s",
        "fastest": "3.00 s",
        "slowest": "4.00 s",
        "faster": "1.0 ×",
        "starts": "3",
    }
    assert table["restored, mapped"]["faster"] == "15.6 ×"
    assert table["restored, mapped"]["starts"] == "2 and 1 failed"


def test_steps_and_memory():
    bench = make_full_bench()
    steps = cells(bench, "What each step")
    assert steps["cold"]["to fetch"] == "50.0 MiB"
    assert steps["restored, mapped"]["to fetch"] == "20.0 MiB"
    assert steps["restored, plain"]["pod sandbox"] == "50 ms"
    assert steps["restored, plain"]["start or restore"] == "480 ms"
    memory = cells(bench, "Memory of one replica")
    assert memory["restored, mapped"]["its own"] == "20.0 MiB"
    assert memory["restored, mapped"]["shared file pages"] == "30.0 MiB"


def test_requests_and_replicas():
    bench = make_full_bench()
    requests = cells(bench, "The first 3 requests, for each")
    assert requests["warm, not restored"] == {
        "p50": "3.00 ms",
        "p99": "20.00 ms",
        "processor": "2.08 ms",
        "ratio": "1.0",
        "faults": "10",
        "own after": "100.0 MiB",
        "busiest threads": "server 75%",
    }
    assert requests["restored, mapped"]["ratio"] == "2.0"
    assert requests["restored, mapped"]["own after"] == "20.0 MiB"
    assert cells(bench, "The first request (")["cold"]["p50"] == "20.00 ms"
    replicas = cells(bench, "2 replicas at once")
    assert replicas["cold"]["all ready"] == "5.00 s"
    assert replicas["restored, mapped"]["failed attempts"] == "1"
    assert replicas["restored, mapped"]["first ready"] == "500 ms"
    assert replicas["restored, mapped"]["all ready"] == "never"
    assert replicas["cold"]["taken from the node"] == "1000.0 MiB"


TIME = "restored, plain, time"


def test_how_long_a_lead_lasts():
    def lead(restored_s: float) -> dict[str, str]:
        cold = make_series("cold", [make_start(3.0, requests_s=[0.01] * 100)])
        plain = make_series("plain", [make_start(1.0, requests_s=[restored_s] * 100)])
        bench = make_bench(cold, plain, load=Load(requests=100))
        assert find_verdict(bench).endswith(f" It stays ahead {cells(bench, 'The lead')[TIME]['stays ahead']}.")
        return cells(bench, "The lead")[TIME]

    ahead = {"when ready": "2.00 s", "after 100 requests": "2.50 s", "stays ahead": "for ever"}
    assert lead(0.005) == ahead
    assert lead(0.011)["stays ahead"] == "for about 2,000 requests"
    assert lead(0.012345)["stays ahead"] == "for about 850 requests"


def test_the_launchers_own_times():
    starts = [
        replace(make_start(0.2), launcher=LauncherTimes(restore_ms, hooks_ms=None, steps_ms=steps_ms))
        for restore_ms, steps_ms in ((40, 5), (60, 7), (50, 9))
    ]
    bench = make_bench(make_series("cold", [make_start(3)]), make_series("self", starts))
    assert cells(bench, "What the launcher") == {
        "restored by itself": {"restore": "50 ms", "hooks": "—", "after-restore steps": "7 ms"}
    }


def test_what_was_not_measured_is_not_shown():
    bench = make_bench(make_series("cold", [make_start(3)]), make_series("plain", [make_start(1)]))
    titles = [section.title for section in list_bench_sections(bench)]
    assert len(titles) == 3
    assert not any("request" in title.lower().replace("the request to create", "") for title in titles)


def test_replicas_that_were_left_out():
    bench = make_full_bench()
    cold, plain, mapped = bench.series
    bench = make_full_bench(series=(cold, make_series("plain", plain.starts), mapped))
    assert cells(bench, "2 replicas")["restored, plain"]["first ready"] == "left out"


def test_every_row_has_a_cell_for_every_column():
    for section in list_bench_sections(make_full_bench()):
        assert {len(row) for row in section.rows} == {len(section.columns)}


def test_facts_say_where_and_when():
    facts = dict(list_facts(make_full_bench()).rows)
    assert facts["measured"] == "2025-01-02 03:04 UTC, 3 rounds, each way once in a round"
    assert facts["machine"] == "2 × Processor 3000, 8.0 GiB"
    assert facts["software"] == "Linux 6.1, cri-o 1.36.3, CRIU 4.2.1"
    assert facts["note"] == "something was left out"


def test_the_document_is_json_with_every_start():
    bench = make_full_bench()
    document = json.loads(json.dumps(make_bench_document(bench)))
    assert document["worthIt"] is True
    assert document["ratio"] == pytest.approx(bench.ratio)
    assert [series["way"] for series in document["series"]] == ["cold", "plain", "mapped"]
    cold, _, mapped = document["series"]
    assert [start["start_s"] for start in cold["starts"]] == [start.start_s for start in bench.cold.starts]
    assert mapped["failures"] == ["no restore"]
    assert mapped["stepSeconds"]["create"]["median"] == pytest.approx(0.0205)
    assert [first["requests"] for first in document["warmed"]["first"]] == [1, 3]
    assert document["warmed"]["first"][1]["p99_s"] == 0.02
    assert mapped["first"][1]["cpu_s"] == pytest.approx(0.025 / 6)
    assert cold["lead"] is None
    assert mapped["lead"]["time"]["forEver"] is True
    assert mapped["lead"]["time"]["requests"] is None


def test_an_empty_page_cache_is_told_everywhere():
    bench = replace(make_full_bench(), load=Load(cold_cache=True))
    assert "205 ms restored, with an empty page cache." in find_verdict(bench)
    assert list_bench_sections(bench)[0].title.endswith(", with an empty page cache")
    assert dict(list_facts(bench).rows)["page cache"] == "dropped before each start"
    assert make_bench_document(bench)["load"]["cold_cache"] is True
    assert "dropped before each start" in render_page(bench)
