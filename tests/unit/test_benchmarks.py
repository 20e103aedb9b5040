"""The scripts of `make bench`, as far as they can be tried without measuring."""

from __future__ import annotations

import importlib
import io
import tarfile
from pathlib import Path

import pytest
import zstandard
from support.checkpoint_image import make_layout

from warmstart.build.base import BaseImage
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.image.layout import open_blob, read_image
from warmstart.recipe.model import Container, Hooks, Mapped, Resources

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def run(load):
    return load("run")


@pytest.fixture
def caches(load):
    return load("java_caches")


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
    options = dict(recipe.container.env)["JAVA_TOOL_OPTIONS"]
    assert [option for option in options.split() if option.startswith("-Xmx")] == ["-Xmx2800m"]
    assert recipe.container.resources.memory_limit_bytes == 4 << 30
    assert recipe.mapped is not Mapped.NONE


def test_as_it_comes_it_is_not_prepared(run):
    recipe = run.as_it_comes(run.with_live_data(80, 384, "1Gi"))
    assert (recipe.container.env, recipe.before_checkpoint, recipe.hooks) == ((), (), Hooks.NONE)
    assert recipe.warmup


def test_ways_are_a_table_with_the_ratio_to_the_first(load):
    assert load("table").format_ways({"cold": [4.0, 2.0, 3.0], "self": [0.25]}) == (
        "|  | median | range | times | cold ÷ this |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| cold | 3.00 s | 2.00 s to 4.00 s | 3 | 1.0 |\n"
        "| self | 250 ms | 250 ms to 250 ms | 1 | 12.0 |\n"
    )


def test_a_jvm_gets_one_more_option(caches):
    container = Container("image", env=(("A", "1"), ("JAVA_TOOL_OPTIONS", "-Xmx1g"), ("B", "2")))
    added = caches.add_option(container, "-Xlog:cds")
    assert added.env == (("A", "1"), ("JAVA_TOOL_OPTIONS", "-Xmx1g -Xlog:cds"), ("B", "2"))
    assert caches.add_option(Container("image"), "-Xlog:cds").env == (("JAVA_TOOL_OPTIONS", "-Xlog:cds"),)


def test_a_training_run_has_twice_the_memory(caches):
    roomy = caches.give_room(Container("image", resources=Resources(memory_limit_bytes=1 << 29, cpu_limit_millis=2000)))
    assert roomy.resources == Resources(memory_limit_bytes=1 << 30, cpu_limit_millis=2000)
    assert caches.give_room(Container("image")).resources == Resources()


def test_classes_from_caches_are_counted(caches):
    log = """\
[0.1s][info][class,load] java.lang.Object source: shared objects file
[0.2s][info][class,load] org.example.Cached source: shared objects file (top)
[0.3s][info][class,load] org.example.Read source: file:/app/java-app.jar
[0.4s][info][class,load] org.example.Read$$Lambda/0x1 source: org.example.Read
[0.4s][info][class,load,other] something else
"""
    assert caches.count_classes(log) == (4, 2)


def test_a_cache_becomes_a_layer_that_the_image_must_use(caches, tmp_path):
    file = tmp_path / "app.aot"
    file.write_bytes(b"cache" * 1000)
    layout = make_layout(tmp_path / "base", b"a layer", annotations={})
    base = BaseImage(parse_source(f"oci:{layout}"), "sha256:0", layout, 1)
    image = caches.add_cache(base, file, caches.CACHES[1], tmp_path / "with")
    below, made = read_image(layout), read_image(image.layout)
    assert image.digest == made.manifest.descriptor.digest
    assert made.manifest.layers[:1] == below.manifest.layers
    assert len(made.manifest.layers) == image.layers == 2
    assert made.config.cmd == below.config.cmd == ("/app",)
    assert made.config.env == (("JDK_JAVA_OPTIONS", "-XX:AOTCache=/app.aot -XX:AOTMode=on"),)
    with open_blob(image.layout, made.manifest.layers[1]) as layer:
        tar = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(layer.read())
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        assert [(member.name, member.size, member.mode) for member in members] == [("app.aot", 5000, 0o644)]


def describe_run(caches, seconds):
    def start(answer_s):
        uses = [{"cpu_s": 0.1}, {"cpu_s": 0.5}]
        requests = {"durations_s": [0.25, 0.75], "uses": uses}
        times = {"create_s": 0.25, "start_s": 0.25, "answer_s": answer_s, "cpu_s": 2 * answer_s}
        return {**times, "memory": {"anonymous_bytes": 1 << 20}, "requests": requests}

    def way(answers_s):
        return {"addedBytes": 1024, "starts": [start(answer_s) for answer_s in answers_s], "failures": ["no"]}

    return {
        "began": "2026-11-29T19:00:00+00:00",
        "machine": {"load": [1.0, 2.0]},
        "caches": {"aot": {"fileBytes": 2048, "trainingSeconds": 12.5, "classes": 10, "fromCache": 9}},
        "pagesBytes": {"self": 4096},
        "ways": {name: way(seconds if name == "cold" else [0.5]) for name in caches.LABELS},
    }


def test_the_starts_of_all_runs_are_in_one_table(caches):
    rows = caches.list_rows([describe_run(caches, [1.5, 3.5]), describe_run(caches, [5.5])])
    assert [row[0] for row in rows] == list(caches.LABELS.values())
    assert {len(row) for row in rows} == {len(caches.COLUMNS)}
    assert rows[0] == (
        *("cold", "4.00 s", "2.00 s to 6.00 s", "3", "1.0", "7.00 s", "1.00 s", "500 ms", "1.0 KiB", "1.0 MiB"),
    )
    assert rows[3][1:5] == ("1.00 s", "1.00 s to 1.00 s", "2", "4.0")


def test_each_run_has_its_facts(caches):
    facts = caches.list_facts([describe_run(caches, [1.5]), describe_run(caches, [2.5])])
    assert facts[0] == "2026-11-29T19:00 UTC, load average 1.0 before, 2.0 after"
    assert facts[1] == "- cold, AOT cache: 2.0 KiB, trained in 12.50 s, 9 of 10 classes from caches"
    assert facts[2] == "- restored by itself: 4.0 KiB dumped"
    assert facts[3] == "- cold: 1 failed, no"
    assert len(facts) == 2 * (3 + len(caches.LABELS))


def test_a_new_output_file_has_no_runs(caches, tmp_path):
    assert caches.read_runs(None) == caches.read_runs(tmp_path / "new.json") == []
    (tmp_path / "old.json").write_text("[{}]")
    assert caches.read_runs(tmp_path / "old.json") == [{}]


def test_ways_take_turns_and_the_first_round_does_not_count(load):
    seen: list[int] = []

    def time_one(way: int) -> float:
        seen.append(way)
        return len(seen)

    took_s = load("cluster").time_in_turn({"cold": 1, "warm": 2}, time_one, 2, Progress(SilentListener()))
    assert seen == [1, 2, 1, 2, 1, 2]
    assert took_s == {"cold": [3, 5], "warm": [4, 6]}
