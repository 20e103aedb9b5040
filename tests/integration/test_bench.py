"""Benchmarks of a small server: its starts and their results. Durations are not checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.builds import STATE, build, write_recipe

from warmstart.bench.result import Bench, Load
from warmstart.bench.run import bench_recipe, bench_source
from warmstart.build.context import BuildOptions
from warmstart.build.publish import parse_output
from warmstart.core.errors import ImageError, RecipeError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.inspect.trust import trust
from warmstart.recipe.load import load_recipe

pytestmark = pytest.mark.node

FILL_MB = 32
LOAD = Load(rounds=3, replicas=2, requests=4)


@pytest.fixture(scope="module")
def recipe_path(base_archive, tmp_path_factory):
    return write_recipe(
        tmp_path_factory.mktemp("bench") / "recipe.yaml",
        base_archive,
        "localhost:1/tests/bench:1",
        {"env": [{"name": "FILL_MB", "value": str(FILL_MB)}]},
        warmup=[{**STATE, "repeat": 3}],
        memory={"mapped": "all"},
    )


@pytest.fixture(scope="module")
def options(cache) -> BuildOptions:
    return BuildOptions(cache)


@pytest.fixture(scope="module")
def measured(recipe_path, options) -> Bench:
    return bench_recipe(load_recipe(recipe_path), options, LOAD, Progress(SilentListener()))


def test_each_way_is_started_as_often_as_asked_for(measured):
    assert [series.way.name for series in measured.series] == ["cold", "plain", "mapped"]
    for series in measured.series:
        assert len(series.starts) == LOAD.rounds
        assert series.failures == ()
        for start in series.starts:
            steps = (start.sandbox_s, start.create_s, start.start_s, start.answer_s)
            assert all(seconds > 0 for seconds in steps)
            assert start.total_s == pytest.approx(sum(steps[1:]))


def test_memory_is_shared_where_it_is_mapped(measured):
    cold, plain, mapped = measured.series
    filled = FILL_MB << 20
    for series in (cold, plain):
        assert series.median_of("anonymous_bytes") > filled
        assert series.median_of("cgroup_bytes") > filled
    assert mapped.median_of("anonymous_bytes") < filled / 2


def test_images_differ_in_what_they_add(measured):
    cold, plain, mapped = measured.series
    assert measured.added_bytes(cold) == 0
    assert all(measured.added_bytes(series) > 0 and series.pack_s > 0 for series in (plain, mapped))
    assert set(cold.layers) <= set(plain.layers)
    assert set(plain.layers) != set(mapped.layers)
    assert measured.pages_bytes > FILL_MB << 20


def test_the_first_requests_are_timed_in_the_dumped_process_too(measured):
    assert {len(start.requests_s) for series in measured.series for start in series.starts} == {LOAD.requests}
    assert [len(batch) for batch in measured.dumped_requests_s] == [LOAD.requests] * LOAD.rounds


def test_replicas_are_started_at_once(measured):
    for series in measured.series:
        # CRI-O may fail to restore an image that it restores elsewhere at the same time; that is tried again.
        assert len(series.burst.ready_s) == LOAD.replicas
    cold, plain, _ = measured.series
    assert cold.burst.failures == ()
    # Both have a copy of their own.
    assert cold.burst.memory.proportional_bytes > LOAD.replicas * FILL_MB << 20
    assert plain.burst.memory.anonymous_bytes > len(plain.burst.ready_s) * FILL_MB << 20


def test_without_mapped_memory_there_is_one_way_less_and_a_reason(recipe_path, options):
    recipe = load_recipe(recipe_path, overrides=["memory.mapped=auto"])
    result = bench_recipe(recipe, options, Load(rounds=1), Progress(SilentListener()))
    assert [series.way.name for series in result.series] == ["cold", "plain"]
    [note] = result.notes
    assert note.startswith("no memory is mapped: ")
    assert result.dumped_requests_s == ()
    assert all(series.burst is None for series in result.series)


def test_a_recipe_without_requests_to_time_is_refused_at_once(recipe_path, options):
    recipe = load_recipe(recipe_path)
    probe = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    path = write_recipe(recipe_path.with_name("tcp.yaml"), "localhost:1/none:1", "localhost:1/tests/bench:1", probe)
    with pytest.raises(RecipeError, match="has no HTTP request to time"):
        bench_recipe(replace(load_recipe(path), source=recipe.source), options, LOAD, Progress(SilentListener()))


@pytest.mark.parametrize("restore", [["runtime"], ["runtime", "self"]])
def test_an_image_is_measured_against_its_base(recipe_path, options, tmp_path, restore):
    archive = f"oci-archive:{tmp_path}/warm.tar"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**json.loads(recipe_path.read_text()), "restore": restore}))
    built, _ = build(recipe, replace(options, output=parse_output(archive)))
    result = bench_source(parse_source(archive), options, Load(rounds=2), Progress(SilentListener()), decide=trust(()))
    cold, mapped = result.series
    assert (cold.way.name, mapped.way.name) == ("cold", "mapped")
    assert mapped.way.identity == built.provenance.identity
    assert (len(cold.starts), len(mapped.starts)) == (2, 2)
    assert set(cold.layers) < set(mapped.layers)
    assert result.added_bytes(mapped) == built.added_bytes
    assert cold.median_of("anonymous_bytes") > FILL_MB << 20 > mapped.median_of("anonymous_bytes")
    assert result.pages_bytes == json.loads(built.provenance.edits)["dumpedBytes"]


def test_an_image_of_another_origin_is_refused(base_archive, options):
    with pytest.raises(ImageError, match="was not built by warmstart"):
        bench_source(
            parse_source(f"oci-archive:{base_archive}"),
            options,
            Load(rounds=1),
            Progress(SilentListener()),
            decide=trust(()),
        )
