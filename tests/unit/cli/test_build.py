"""The command `build`: one recipe or several, tables and documents, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from warmstart.build.existing import ExistingImage
from warmstart.cli.build_job import Job
from warmstart.cli.main import cli
from warmstart.core.errors import AppError, InputError, PrivilegeError, RegistryError
from warmstart.core.progress import Progress
from warmstart.core.reference import parse_reference

DIGEST = f"sha256:{'0123456789ab':0<64}"


def write(path: Path, image: str) -> Path:
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": path.stem,
        "container": {"image": "base:1", "readinessProbe": {"httpGet": {"port": 8080}}},
        "image": {"name": image},
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def recipes(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r").mkdir()
    for name in ("good", "late", "bad"):
        write(Path(f"r/{name}.yaml"), f"example.com/{name}:1")
    return Path("r")


def find(job: Job, progress: Progress, **_: object) -> ExistingImage:
    """A build that finds its image, or fails as its name says."""
    with progress.step("compare"):
        if job.recipe.name == "bad":
            raise AppError("it ended", details=["its log"], hint="look")
        if job.recipe.name == "late":
            raise RegistryError("no answer")
    return ExistingImage(job.recipe.image, f"docker://{job.recipe.image}", DIGEST)


@pytest.fixture
def build(monkeypatch) -> Callable[..., Result]:
    monkeypatch.setattr("warmstart.cli.build.run_job", find)
    monkeypatch.setattr("warmstart.cli.build.run_job_apart", find)

    def call(*words: str | Path) -> Result:
        return CliRunner().invoke(cli, ["build", *map(str, words)])

    return call


def test_one_recipe_that_is_up_to_date(build, recipes):
    result = build("r/good.yaml")
    assert (result.exit_code, result.stdout) == (0, f"up to date: example.com/good@{DIGEST}\n")


def test_one_recipe_that_is_up_to_date_as_json(build, recipes):
    assert json.loads(build("r/good.yaml", "--json").stdout) == {
        "status": "up-to-date",
        "image": "example.com/good:1",
        "digest": DIGEST,
        "destination": "docker://example.com/good:1",
    }


def test_several_recipes_end_with_a_table_the_errors_and_the_worst_code(build, recipes):
    result = build("r", "-j", "2")
    assert result.exit_code == AppError.exit_code
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["recipe", "result"],
        ["r/bad.yaml", "failed"],
        ["r/good.yaml", "up"],
        ["r/late.yaml", "failed"],
    ]
    assert result.stdout.splitlines()[2].split()[-2:] == ["example.com/good:1", "0123456789ab"]
    errors = ["error: r/bad.yaml: it ended", "  its log", "hint: look", "error: r/late.yaml: no answer"]
    assert result.stderr.splitlines() == errors


def test_several_recipes_as_json(build, recipes):
    result = build("r/bad.yaml", "r/good.yaml", "--json")
    error = {"kind": "application", "message": "it ended", "details": ["its log"], "hint": "look", "exitCode": 6}
    builds = json.loads(result.stdout)["builds"]
    assert builds[0] == {"recipe": "r/bad.yaml", "status": "failed", "error": error}
    assert (builds[1]["recipe"], builds[1]["status"]) == ("r/good.yaml", "up-to-date")
    assert (result.exit_code, result.stderr) == (AppError.exit_code, "")


def test_a_directory_with_one_recipe_is_a_list_as_well(build, recipes):
    for name in ("bad", "late"):
        (recipes / f"{name}.yaml").unlink()
    result = build(recipes, "--json")
    assert (result.exit_code, len(json.loads(result.stdout)["builds"])) == (0, 1)


def test_after_a_failure_the_rest_is_left_out_if_asked_for(build, recipes):
    result = build("r/bad.yaml", "r/good.yaml", "r/late.yaml", "--fail-fast", "--json")
    statuses = [one["status"] for one in json.loads(result.stdout)["builds"]]
    assert statuses[0] == "failed"
    # The second one may begin before the failure is seen.
    assert statuses[2] in ("stopped", "failed")
    assert result.exit_code == AppError.exit_code


def test_steps_are_shown_with_the_recipe_if_asked_for(monkeypatch, build, recipes):
    result = CliRunner().invoke(cli, ["-v", "build", "r/good.yaml", "r/late.yaml"])
    shown = {" ".join(line.split()[:3]) for line in result.stderr.splitlines() if "compare" in line}
    assert shown == {"✓ r/good.yaml: compare", "✗ r/late.yaml: compare"}


def test_check_says_what_a_build_would_do_and_builds_nothing(build, recipes):
    (recipes / "secret").write_bytes(b"build-only")
    document = json.loads((recipes / "good.yaml").read_text())
    document["container"]["env"] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}
        for name, key in (("USER", "user"), ("PASSWORD", "pw"))
    ]
    document["late"] = ["PASSWORD"]
    (recipes / "good.yaml").write_text(json.dumps(document))
    result = build("r/good.yaml", "r/late.yaml", "--check", "--secret", "db.pw=r/secret")
    assert result.stdout.splitlines() == [
        "r/good.yaml: ok: example.com/good:1, restored by runtime and self; ready within 30 s; late: PASSWORD; "
        "secrets made up: db.user",
        "r/late.yaml: ok: example.com/late:1, restored by runtime and self; ready within 30 s",
    ]
    assert result.exit_code == 0
    assert "warning: container.readinessProbe: the build gives up if the container is not ready after 30 s" in (
        result.stderr
    )
    documents = json.loads(build("r/good.yaml", "--check", "--json", "--secret", "db.pw=r/secret").stdout)["recipes"]
    assert (documents[0]["frozen"], documents[0]["late"]) == (["USER"], ["PASSWORD"])
    assert documents[0]["secrets"] == [{"name": "db.user", "given": False}, {"name": "db.pw", "given": True}]
    assert "build-only" not in json.dumps(documents)


def test_check_reads_all_recipes_and_ends_with_the_code_of_the_mistakes(build, recipes):
    (recipes / "bad.yaml").write_text("apiVersion: warmstart/v1alpha1\n")
    text = (recipes / "late.yaml").read_text()
    (recipes / "late.yaml").write_text(
        text.replace('"image": "base:1"', '"image": "base:1", "securityContext": {"privileged": true}')
    )
    result = build("r", "--check")
    assert result.exit_code == InputError.exit_code
    assert [line.split(": ")[:2] for line in result.stdout.splitlines()] == [
        ["r/bad.yaml", "failed (recipe, code 3)"],
        ["r/good.yaml", "ok"],
        ["r/late.yaml", "failed (privilege, code 14)"],
    ]
    assert "error: r/bad.yaml has 3 mistakes" in result.stderr
    found = json.loads(build("r", "--check", "--json").stdout)["recipes"]
    assert [one["status"] for one in found] == ["failed", "ok", "failed"]
    assert found[2]["error"]["exitCode"] == PrivilegeError.exit_code
    assert build("r/late.yaml", "--check", "--allow", "privileged").exit_code == 0


def test_check_refuses_what_a_build_of_the_services_would(build, recipes):
    document = json.loads((recipes / "good.yaml").read_text())
    probe = {"tcpSocket": {"port": 1}}
    container = {"image": "db:1", "readinessProbe": probe, "securityContext": {"privileged": True}}
    document["build"] = {"services": [{"name": "db", "container": container}]}
    (recipes / "good.yaml").write_text(json.dumps(document))
    assert build("r/good.yaml", "--check").exit_code == PrivilegeError.exit_code
    assert build("r/good.yaml", "--check", "--allow", "privileged").exit_code == 0


@pytest.mark.parametrize(
    ("words", "brief"),
    [
        (["r", "-t", "example.com/same:1"], "would both write docker://example.com/same:1"),
        (["r", "-o", "oci-archive:app.tar"], "would both write oci-archive:app.tar"),
        (["r", "r/good.yaml"], "is named twice"),
        (["r/good.yaml", "r/missing.yaml"], "missing.yaml"),
    ],
)
def test_a_mistake_is_found_before_anything_is_built(build, recipes, words, brief):
    result = build(*words)
    assert brief in str(result.exception)
    assert result.stdout == ""


def test_the_name_of_the_recipe_is_put_into_the_output(monkeypatch, build, recipes):
    seen: list[str] = []

    def note(job: Job, progress: Progress, **_: object) -> ExistingImage:
        seen.append(f"{job.options.output.path} {job.rebuild}")
        return ExistingImage(parse_reference("a"), "", DIGEST)

    monkeypatch.setattr("warmstart.cli.build.run_job_apart", note)
    assert build("r", "-o", "oci-archive:r/{name}.tar", "--rebuild").exit_code == 0
    assert seen == [f"r/{name}.tar True" for name in ("bad", "good", "late")]
