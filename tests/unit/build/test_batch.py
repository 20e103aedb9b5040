"""Several builds in one call: their order, their ends, and where they write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.build.batch import Outcome, Status, Task, choose_outputs, find_exit_code, run_builds
from warmstart.build.publish import REGISTRY, Output
from warmstart.core.errors import AppError, EngineError, InputError, RegistryError, WarmstartError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport, parse_reference
from warmstart.recipe.model import Container, Recipe

LIMIT_S = 60


class Recorder(SilentListener):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def begin(self, step: str) -> None:
        self.steps.append(step)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def succeed(progress: Progress) -> str:
    with progress.step("pull"):
        progress.warn("careful")
    return "image"


def fail(progress: Progress) -> str:
    with progress.step("pull"):
        raise AppError("it ended")


def end(outcomes: list[Outcome[str]]) -> list[tuple[str, str]]:
    return [(outcome.label, outcome.status) for outcome in outcomes]


def wait_forever(begun: threading.Event) -> Callable[[Progress], str]:
    def build(progress: Progress) -> str:
        begun.set()
        never = threading.Event()
        while not never.wait(0.01):
            progress.note("still at it")
        return "never"

    return build


def test_one_failure_does_not_stop_the_others():
    ended: list[Outcome[str]] = []
    outcomes = run_builds([Task("a", fail), Task("b", succeed)], on_end=ended.append)
    assert end(outcomes) == end(ended) == [("a", Status.FAILED), ("b", Status.DONE)]
    assert outcomes[0].error.brief == "it ended"
    assert outcomes[1].result == "image"
    assert outcomes[1].progress.warnings == ["careful"]
    assert list(outcomes[1].progress.durations_s) == ["pull"]


def test_each_build_has_a_listener_of_its_own():
    listeners = {"a": Recorder(), "b": Recorder()}
    run_builds([Task("a", fail), Task("b", succeed)], listen=listeners.__getitem__)
    assert [one.steps for one in listeners.values()] == [["pull"], ["pull"]]
    assert [one.warnings for one in listeners.values()] == [[], ["careful"]]


def test_as_many_as_allowed_run_at_the_same_time():
    both = threading.Barrier(2)

    def meet(progress: Progress) -> str:
        both.wait(LIMIT_S)
        return "met"

    outcomes = run_builds([Task(name, meet) for name in "abcd"], at_once=2)
    assert end(outcomes) == [(name, Status.DONE) for name in "abcd"]


def test_one_at_a_time_they_run_in_order():
    begun: list[str] = []

    def build(name: str) -> Callable[[Progress], str]:
        return lambda _: begun.append(name) or name

    run_builds([Task(name, build(name)) for name in "cab"])
    assert begun == ["c", "a", "b"]


def test_fail_fast_stops_those_that_run_and_begins_no_other():
    begun = threading.Event()

    def fail_later(progress: Progress) -> str:
        assert begun.wait(LIMIT_S)
        return fail(progress)

    tasks = [Task("slow", wait_forever(begun)), Task("bad", fail_later), Task("next", succeed)]
    outcomes = run_builds(tasks, at_once=2, fail_fast=True)
    assert end(outcomes)[:2] == [("slow", Status.SKIPPED), ("bad", Status.FAILED)]
    # It may have begun before the failure was seen.
    assert outcomes[2].status in (Status.SKIPPED, Status.DONE)


def test_an_interruption_stops_all():
    begun, ended = threading.Event(), []

    def interrupt(_: str) -> SilentListener:
        if begun.is_set():
            raise KeyboardInterrupt
        return SilentListener()

    def build(progress: Progress) -> str:
        return wait_forever(begun)(progress)

    tasks = [Task("a", build), Task("b", lambda _: begun.wait(LIMIT_S) and interrupt("b"))]
    with pytest.raises(KeyboardInterrupt):
        run_builds(tasks, at_once=2, on_end=ended.append)
    assert sorted(end(ended)) == [("a", Status.SKIPPED), ("b", Status.SKIPPED)]


def test_a_bug_is_not_a_failed_build():
    with pytest.raises(ZeroDivisionError):
        run_builds([Task("a", lambda _: 1 // 0), Task("b", succeed)])


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([RegistryError("x")], 12),
        ([RegistryError("x"), AppError("x"), EngineError("x")], 5),
        ([AppError("x"), WarmstartError("x")], 1),
    ],
)
def test_the_lowest_exit_code_is_the_worst(errors, code):
    assert find_exit_code(errors) == code


# Outputs


def recipe(name: str, image: str = "") -> Recipe:
    image = image or f"registry.example.com/{name}:1"
    return Recipe(name, Container("base"), parse_reference(image), source=Path(f"{name}.yaml"))


def test_without_an_output_all_go_to_the_registry():
    assert choose_outputs(None, [recipe("a"), recipe("b")]) == [REGISTRY, REGISTRY]


def test_the_name_of_the_recipe_is_put_in(tmp_path):
    assert choose_outputs(f"oci-archive:{tmp_path}/{{name}}.tar", [recipe("a"), recipe("b")]) == [
        Output(Transport.OCI_ARCHIVE, tmp_path / "a.tar"),
        Output(Transport.OCI_ARCHIVE, tmp_path / "b.tar"),
    ]


def test_a_layout_can_hold_several_images(tmp_path):
    output = Output(Transport.OCI, tmp_path / "out")
    assert choose_outputs(f"oci:{tmp_path}/out", [recipe("a"), recipe("b")]) == [output, output]


@pytest.mark.parametrize(
    ("output", "recipes", "hint"),
    [
        ("oci-archive:{0}/app.tar", [recipe("a"), recipe("b")], "{name}.tar"),
        ("oci-archive:{0}/{{name}}.tar", [recipe("a"), recipe("a", "other")], "different names"),
        ("oci:{0}/out", [recipe("a"), recipe("b", "registry.example.com/a:1")], "different names"),
        (None, [recipe("a"), recipe("b", "registry.example.com/a:1")], "different names"),
    ],
)
def test_no_image_replaces_another_one(tmp_path, output, recipes, hint):
    with pytest.raises(InputError, match=r"\w\.yaml and \w\.yaml would both write ") as error:
        choose_outputs(output and output.format(tmp_path), recipes)
    assert hint in error.value.hint
