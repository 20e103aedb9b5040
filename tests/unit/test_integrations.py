"""What integrations/ has for others to use: each file is what its service takes, and its scripts do what they say."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.go_tools import TEKTON, ensure_go_tool

from warmstart import __version__
from warmstart.cli import main as cli

TOP = Path(__file__).parents[2]
RESULT = {
    "image": "registry.example.com/app:warm",
    "digest": "sha256:00",
    "coldStartSeconds": 4.5,
    "restores": [{"firstSuccessSeconds": 0.25}, {"firstSuccessSeconds": 0.2}],
}
# Records how it was called, and prints what a build prints.
FAKE = f"""\
#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print(json.dumps({RESULT}))
"""


def load(name: str):
    return YAML(typ="safe").load(TOP / name)


@pytest.fixture
def run(tmp_path: Path):
    """Run a script as a CI service would, with a warmstart that only says how it was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "warmstart").write_text(FAKE)
    (programs / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    calls = tmp_path / "calls"
    base = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "CALLS": str(calls)}

    def run(words: list[str], env: dict[str, str]) -> list[list[str]]:
        subprocess.run(words, env={**base, **env}, cwd=tmp_path, check=True, timeout=60)
        return [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def test_lint_of_what_has_a_schema() -> None:
    lint = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    for schema, file in (
        ("vendor.github-actions", "integrations/github/action.yml"),
        ("vendor.github-workflows", "integrations/github/workflow.yml"),
    ):
        subprocess.run([*lint, schema, TOP / file], check=True, timeout=60)
    gitlab = [*lint, "vendor.gitlab-ci", "--data-transform", "gitlab-ci", TOP / "integrations/gitlab/warmstart.yml"]
    subprocess.run(gitlab, check=True, timeout=60)


# GitHub


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq, which GitHub's runners have")
def test_the_action_builds(run, tmp_path: Path) -> None:
    (step,) = [step for step in load("integrations/github/action.yml")["runs"]["steps"] if step.get("id") == "build"]
    (tmp_path / "auth.json").write_text("{}")
    env = {
        "RECIPE": "deploy/my recipe.yaml",
        "TAG": "abc-warm",
        "SET": "container.image=a b\n\nname=x\n",
        "OUTPUT": "",
        "SIGN": "keyless",
        "AUTHFILE": "~/auth.json",
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }

    (call,) = run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], env)
    assert call[call.index("build") :] == [
        *("build", "deploy/my recipe.yaml", "--json", "--tag", "abc-warm", "--sign", "keyless"),
        *("--authfile", f"{tmp_path}/auth.json", "--set", "container.image=a b", "--set", "name=x"),
    ]
    output = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert (output["image"], output["digest"]) == (RESULT["image"], RESULT["digest"])
    assert json.loads(Path(output["result"]).read_text()) == RESULT
    assert "cold start 4.5 s, restored 0.2 s" in (tmp_path / "summary").read_text()


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq, which GitHub's runners have")
def test_the_summary_of_an_image_that_is_up_to_date(tmp_path: Path) -> None:
    (step,) = [step for step in load("integrations/github/action.yml")["runs"]["steps"] if step.get("id") == "build"]
    (summary,) = re.findall(r"jq -r '(def [^']*)'", step["run"])
    result = json.dumps({"status": "up-to-date", "image": "app:1", "digest": "sha256:00"})
    done = subprocess.run(["jq", "-r", summary], input=result, capture_output=True, text=True, check=True)
    assert done.stdout == "`app:1`: up to date\n"


def test_inputs_reach_scripts_as_variables_only() -> None:
    steps = load("integrations/github/action.yml")["runs"]["steps"]

    assert [step["name"] for step in steps if "${{" in step.get("run", "")] == []


def test_outputs_of_the_action_are_made() -> None:
    action = load("integrations/github/action.yml")
    made = {step["id"]: step.get("run", "") for step in action["runs"]["steps"] if "id" in step}

    for output in action["outputs"].values():
        step, name = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}", output["value"]).groups()
        assert f'echo "{name}=' in made[step]


# GitLab


def test_the_gitlab_job_builds(run, tmp_path: Path) -> None:
    job = load("integrations/gitlab/warmstart.yml")[".warmstart"]
    env = {
        **job["variables"],
        "WARMSTART_RECIPE": "my recipe.yaml",
        "WARMSTART_TAG": "abc",
        "WARMSTART_SET": "container.image=a b\nname=$HOME",
        "WARMSTART_SIGN": "keyless",
        "CI_REGISTRY": "registry.example.com",
        "CI_REGISTRY_USER": "me",
        "CI_REGISTRY_PASSWORD": 'p"w',
    }

    (call,) = run(["sh", "-e", "-c", "\n".join(job["script"])], env)
    auth = str(tmp_path / ".docker/config.json")
    assert call == [
        *("-v", "build", "my recipe.yaml", "--json", "--authfile", auth, "--tag", "abc"),
        *("--sign", "keyless", "--set", "container.image=a b", "--set", "name=$HOME"),
    ]
    assert json.loads(Path(auth).read_text()) == {"auths": {"registry.example.com": {"auth": "bWU6cCJ3"}}}
    report = tmp_path / job["artifacts"]["reports"]["dotenv"]
    assert report.read_text() == "WARM_IMAGE=registry.example.com/app:warm\nWARM_DIGEST=sha256:00\n"


# Tekton: there is no schema of a Task at hand, so its parts are held against each other.


def test_the_task_is_whole() -> None:
    task = load("integrations/tekton/task.yaml")
    spec = task["spec"]
    declared = {kind: {one["name"] for one in spec[kind]} for kind in ("params", "workspaces", "results")}
    (step,) = spec["steps"]

    assert (task["apiVersion"], task["kind"]) == ("tekton.dev/v1", "Task")
    assert spec.keys() <= {"description", "params", "workspaces", "results", "steps", "volumes", "stepTemplate"}
    used = re.findall(r"\$\((params|workspaces|results)\.([\w-]+)", json.dumps(step))
    assert {kind: {name for found, name in used if found == kind} for kind in declared} == {
        **declared,
        # Those with a path of their own are found there.
        "workspaces": {"source"},
    }
    assert {mount["name"] for mount in step["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert "$(" not in re.sub(r"\$\((params|workspaces|results)\.", "", step["script"])


def test_the_task_builds(run, tmp_path: Path) -> None:
    (step,) = load("integrations/tekton/task.yaml")["spec"]["steps"]
    script = step["script"].replace("/tmp/result.json", str(tmp_path / "result.json"))
    env = {"RECIPE": "r.yaml", "TAG": "", "IMAGE_URL": str(tmp_path / "url"), "IMAGE_DIGEST": str(tmp_path / "digest")}

    (call,) = run(["bash", "-c", script, "script", "container.image=a b", "name=x"], env)
    assert call == ["-v", "build", "r.yaml", "--json", "--rebuild", "--set", "container.image=a b", "--set", "name=x"]
    assert (tmp_path / "url").read_text() == RESULT["image"]
    assert (tmp_path / "digest").read_text() == RESULT["digest"]


@pytest.mark.node
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="what compiles it needs root")
@pytest.mark.parametrize(("change", "code"), [(("", ""), 0), (("(params.recipe)", "(params.unknown)"), 1)])
def test_tekton_takes_the_task(change: tuple[str, str], code: int) -> None:
    program = ensure_go_tool(Path(os.environ.get("WARMSTART_CACHE") or cli.default_cache()), TEKTON, print)
    task = json.dumps(load("integrations/tekton/task.yaml")).replace(*change)

    done = subprocess.run([program], input=task, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr


# Krew


def test_the_plugin_is_what_krew_takes() -> None:
    manifest = load("integrations/krew/warmstart.yaml")
    spec = manifest["spec"]

    assert (manifest["apiVersion"], manifest["kind"]) == ("krew.googlecontainertools.github.com/v1alpha2", "Plugin")
    assert manifest["metadata"] == {"name": "warmstart"}
    assert spec["version"] == f"v{__version__}"
    assert 0 < len(spec["shortDescription"]) <= 50
    assert spec.keys() == {"version", "homepage", "shortDescription", "description", "caveats", "platforms"}
    (platform,) = spec["platforms"]
    assert platform.keys() == {"selector", "uri", "sha256", "bin"}
    assert spec["version"] in platform["uri"]
    archive = runpy.run_path(str(TOP / "integrations/krew/archive.py"))
    assert platform["bin"] in archive["MEMBERS"]
    assert platform["sha256"] == hashlib.sha256(archive["make_archive"]()).hexdigest()


def test_the_plugin_runs_the_command(run) -> None:
    plugin = TOP / "integrations/krew/kubectl-warmstart"

    assert run([str(plugin), "deploy", "a b"], {}) == [["deploy", "a b"]]
    alone = subprocess.run([plugin], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=10)
    assert (alone.returncode, alone.stdout) == (4, "")
    assert "pipx install 'warmstart[kubernetes]'" in alone.stderr


def test_kubectl_finds_the_plugin_of_the_package(monkeypatch, capsys) -> None:
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-warmstart"] == scripts["warmstart"]

    monkeypatch.setattr(sys, "argv", ["/usr/bin/kubectl-warmstart", "deploy", "--help"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().out.startswith("Usage: kubectl warmstart deploy ")


# Names of the version


def test_all_name_the_same_version() -> None:
    files = [
        "integrations/github/action.yml",
        "integrations/github/workflow.yml",
        "integrations/gitlab/warmstart.yml",
        "integrations/tekton/task.yaml",
    ]
    for file in (
        *files,
        "integrations/helm/plugin.yaml",
        "integrations/image/Containerfile",
        "integrations/krew/warmstart.yaml",
    ):
        named = set(re.findall(r"(?:@v|: v|ref: v|warmstart:|version: )(\d+\.\d+\.\d+)", (TOP / file).read_text()))
        assert named == {__version__}, file
