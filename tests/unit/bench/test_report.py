"""What a benchmark has to say."""

from __future__ import annotations

import json

import pytest
from support.benches import make_bench, make_full_bench, make_series, make_start

from warmstart.bench.report import find_verdict, list_bench_sections, list_facts, make_bench_document


def cells(bench, title: str) -> dict[str, dict[str, str]]:
    """A table: name of the row → name of the column → what is there."""
    [section] = [section for section in list_bench_sections(bench) if section.title.startswith(title)]
    return {row[0]: dict(zip(section.columns[1:], row[1:], strict=True)) for row in section.rows}


def test_the_verdict_says_how_much_is_gained():
    assert find_verdict(make_full_bench()) == (
        "A restored start is 15.6 times as fast as a cold one: 3.20 s cold, 205 ms restored."
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
    requests = cells(bench, "The first 3 requests")
    assert requests["in the process that was dumped"] == {"first": "20 ms", "p50": "3 ms", "p99": "20 ms"}
    replicas = cells(bench, "2 replicas at once")
    assert replicas["cold"]["all ready"] == "5.00 s"
    assert replicas["restored, mapped"]["failed attempts"] == "1"
    assert replicas["restored, mapped"]["first ready"] == "500 ms"
    assert replicas["restored, mapped"]["all ready"] == "never"
    assert replicas["cold"]["taken from the node"] == "1000.0 MiB"


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
    assert document["dumpedProcess"]["p99_s"] == 0.02
