"""Benchmarks of a small server: its starts and their results. Durations are not checked."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

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
LOAD = Load(rounds=2, replicas=2, requests=4, warmed=1)


@pytest.fixture(scope="module")
def recipe_path(base_archive, tmp_path_factory):
    return write_recipe(
        tmp_path_factory.mktemp("bench") / "recipe.yaml",
        base_archive,
        "localhost:1/tests/bench:1",
        {"env": [{"name": "FILL_MB", "value": str(FILL_MB)}, {"name": "LOCK", "value": "/server.lock"}]},
        restore=["runtime", "self"],
        warmup=[{**STATE, "repeat": 3}],
        memory={"mapped": "all"},
    )


@pytest.fixture(scope="module")
def options(cache) -> BuildOptions:
    return BuildOptions(cache)


@pytest.fixture(scope="module")
def measured(recipe_path, options, make_once) -> Bench:
    def measure(path: Path) -> None:
        result = bench_recipe(load_recipe(recipe_path), options, LOAD, Progress(SilentListener()))
        path.write_bytes(pickle.dumps(result))

    bench: Bench = pickle.loads(make_once("bench.pickle", measure).read_bytes())
    return bench


def test_each_way_is_started_as_often_as_asked_for(measured):
    assert [series.way.name for series in measured.series] == ["cold", "plain", "mapped", "self"]
    for series in measured.series:
        assert len(series.starts) == LOAD.rounds
        assert series.failures == ()
        for start in series.starts:
            steps = (start.sandbox_s, start.create_s, start.start_s, start.answer_s)
            assert all(seconds > 0 for seconds in steps)
            assert start.total_s == pytest.approx(sum(steps[1:]))


def test_what_the_runtime_loses_is_noted(measured):
    (note,) = measured.notes
    assert note.startswith("not everything is restored: server")
    assert note.endswith("[lost-lock]")


def test_memory_is_shared_where_it_is_mapped(measured):
    cold, plain, mapped, itself = measured.series
    filled = FILL_MB << 20
    for series in (cold, plain):
        assert series.median_of("anonymous_bytes") > filled
        assert series.median_of("cgroup_bytes") > filled
    for series in (mapped, itself):
        assert series.median_of("anonymous_bytes") < filled / 2


def test_images_differ_in_what_they_add(measured):
    cold, *restored = measured.series
    plain, mapped, itself = restored
    assert measured.added_bytes(cold) == 0
    assert all(measured.added_bytes(series) > 0 and series.pack_s > 0 for series in restored)
    assert set(cold.layers) <= set(plain.layers)
    assert set(plain.layers) != set(mapped.layers) != set(itself.layers)
    assert measured.pages_bytes > FILL_MB << 20


def test_the_first_requests_are_measured_without_a_restore_too(measured):
    runs = [start.requests for series in measured.series for start in series.starts]
    # The dumped process, and one that was warmed up besides.
    assert len(measured.warmed) == 1 + LOAD.warmed
    for run in (*runs, *measured.warmed):
        assert len(run.durations_s) == LOAD.requests
        assert [use.requests for use in run.uses] == [1, LOAD.requests]
        assert run.uses[-1].cpu_s > 0
    assert all(measured.find_leads(series) for series in measured.series[1:])


def test_the_launcher_tells_its_times(measured):
    cold, plain, mapped, itself = measured.series
    assert all(start.launcher is None for series in (cold, plain, mapped) for start in series.starts)
    assert all(start.launcher.restore_ms > 0 for start in itself.starts)


def test_replicas_are_started_at_once(measured):
    for series in measured.series:
        # CRI-O may fail to restore an image that it restores elsewhere at the same time; that is tried again.
        assert len(series.burst.ready_s) == LOAD.replicas
    cold, plain, *_ = measured.series
    assert cold.burst.failures == ()
    # Both have a copy of their own.
    assert cold.burst.memory.proportional_bytes > LOAD.replicas * FILL_MB << 20
    assert plain.burst.memory.anonymous_bytes > len(plain.burst.ready_s) * FILL_MB << 20


def test_a_recipe_without_requests_to_time_is_refused_at_once(recipe_path, options):
    recipe = load_recipe(recipe_path)
    probe = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    path = write_recipe(recipe_path.with_name("tcp.yaml"), "localhost:1/none:1", "localhost:1/tests/bench:1", probe)
    with pytest.raises(RecipeError, match="has no HTTP request to time"):
        bench_recipe(replace(load_recipe(path), source=recipe.source), options, LOAD, Progress(SilentListener()))


@pytest.mark.parametrize(
    ("restore", "name"),
    [
        pytest.param(["runtime"], "mapped", marks=pytest.mark.slow),
        (["runtime", "self"], "mapped"),
        (["self"], "self"),
    ],
)
def test_an_image_is_measured_against_its_base(recipe_path, options, tmp_path, monkeypatch, restore, name):
    dropped = []  # the page cache of this machine is other tests' too
    monkeypatch.setattr("warmstart.bench.run.drop_page_cache", lambda: dropped.append(True))
    archive = f"oci-archive:{tmp_path}/warm.tar"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**json.loads(recipe_path.read_text()), "restore": restore}))
    built, _ = build(recipe, replace(options, output=parse_output(archive)))
    load, progress = Load(rounds=1, cold_cache=True), Progress(SilentListener())
    result = bench_source(parse_source(archive), options, load, progress, decide=trust(()))
    cold, mapped = result.series
    assert len(dropped) == 1 + 2  # at once, and before each start
    assert any("page cache of the whole machine" in warning for warning in progress.warnings)
    assert (cold.way.name, mapped.way.name) == ("cold", name)
    assert mapped.way.identity == built.provenance.identity
    assert (len(cold.starts), len(mapped.starts)) == (1, 1)
    assert (cold.burst, mapped.burst) == (None, None)
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
