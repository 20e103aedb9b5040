"""A build in a process of its own: progress, results and errors come back as from this process."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import edit_annotations, make_layout

from warmstart.build.context import BuildOptions
from warmstart.build.existing import ExistingImage
from warmstart.build.key import find_inputs
from warmstart.build.publish import Output
from warmstart.cli import build_job
from warmstart.cli.build_job import Job, run_job_apart
from warmstart.core import process
from warmstart.core.errors import HostError, ImageError, PrivilegeError, WarmstartError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Reference, Transport
from warmstart.image.annotations import BUILD_KEY, PREFIX
from warmstart.image.layout import read_image, write_layout
from warmstart.recipe.load import load_recipe

NAME = Reference("localhost", "app", "1-warm")


class Recorder(SilentListener):
    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def begin(self, step: str) -> None:
        self.seen.append(("begin", step))

    def note(self, text: str) -> None:
        if text:
            self.seen.append(("note", text))

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        self.seen.append(("end", step, ok))

    def warn(self, text: str) -> None:
        self.seen.append(("warn", text))


@pytest.fixture
def job(tmp_path) -> Job:
    make_layout(tmp_path / "base", tar_of(entry("app", b"x")), annotations={})
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "app",
        "container": {"image": "oci:base", "readinessProbe": {"httpGet": {"port": 8080}}},
        "image": {"name": str(NAME)},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    output = Output(Transport.OCI, tmp_path / "out")
    return Job(load_recipe(tmp_path / "recipe.yaml"), BuildOptions(tmp_path / "cache", output))


@pytest.mark.linux
def test_the_result_comes_back(job, tmp_path):
    layout = tmp_path / "made"
    make_layout(layout, tar_of(entry("app", b"y")), annotations={})
    key = find_inputs(job.recipe, job.options).key(read_image(tmp_path / "base").manifest.digest)
    edit_annotations(layout, lambda annotations: annotations.update({PREFIX + BUILD_KEY: key}))
    write_layout(layout, read_image(layout), tmp_path / "out", name=str(NAME))
    recorder = Recorder()
    progress = Progress(recorder)
    digest = read_image(layout).manifest.digest
    assert run_job_apart(job, progress, debug=False) == ExistingImage(NAME, f"oci:{tmp_path}/out", digest)
    assert recorder.seen == [("begin", "compare"), ("end", "compare", True)]
    assert list(progress.durations_s) == ["compare"]


def test_an_error_comes_back_with_its_kind_and_hint(job, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["warmstart", "build", "a.yaml", "b.yaml"])
    asks = replace(job.recipe.container.security_context, privileged=True)
    recipe = replace(job.recipe, container=replace(job.recipe.container, security_context=asks))
    recorder = Recorder()
    with pytest.raises(WarmstartError) as error:
        run_job_apart(replace(job, recipe=recipe), Progress(recorder), debug=False)
    assert (error.value.exit_code, error.value.kind) == (PrivilegeError.exit_code, PrivilegeError.kind)
    assert error.value.hint == "if you trust it with them: warmstart build a.yaml b.yaml --allow privileged"
    assert recorder.seen == [("begin", "compare"), ("end", "compare", False)]


def test_errors_of_all_kinds_can_be_sent(job):
    output = Output(Transport.OCI_ARCHIVE, job.options.cache.parent)
    with pytest.raises(WarmstartError, match="it is a directory") as error:
        run_job_apart(
            replace(job, options=replace(job.options, output=output)), Progress(SilentListener()), debug=False
        )
    assert error.value.exit_code == ImageError.exit_code


def test_modules_in_the_current_directory_are_not_used(job, tmp_path, monkeypatch):
    (tmp_path / "click.py").write_text(f"open({str(tmp_path / 'used')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    test_errors_of_all_kinds_can_be_sent(job)
    assert not (tmp_path / "used").exists()


@pytest.mark.parametrize(
    ("status", "brief"),
    [(-signal.SIGKILL, "the process of the build was killed by signal 9"), (3, "ended with exit status 3")],
)
def test_a_process_that_ends_without_a_result_is_an_error(job, monkeypatch, status, brief):
    monkeypatch.setattr(process, "converse", lambda *_, **__: status)
    with pytest.raises(HostError, match=brief):
        run_job_apart(job, Progress(SilentListener()), debug=False)


def test_notes_and_warnings_are_repeated(job, monkeypatch):
    def converse(_command, _request, *, on_line, on_tick):
        for words in (["begin", "pull"], ["note", "half"], ["warn", "careful"], ["end", True]):
            on_line(json.dumps(words).encode())
            on_tick()
        on_line(json.dumps(["failed", 5, "engine", "no", ["why"], "do"]).encode())
        return 5

    monkeypatch.setattr(process, "converse", converse)
    recorder = Recorder()
    progress = Progress(recorder)
    with pytest.raises(WarmstartError, match="no") as error:
        run_job_apart(job, progress, debug=False)
    assert (error.value.details, error.value.hint, error.value.exit_code) == (("why",), "do", 5)
    assert set(recorder.seen) == {("begin", "pull"), ("note", "half"), ("warn", "careful"), ("end", "pull", True)}
    assert progress.warnings == ["careful"]


def test_without_its_parent_it_does_nothing(job):
    command = [sys.executable, "-P", "-c", f"from {build_job.__name__} import main; main()"]
    request = pickle.dumps((os.getpid() + 1, ["warmstart"], False, job))
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (signal.SIGTERM, b"")
    assert not Path(job.options.output.path).exists()
