"""The command line: what goes where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import checkpoint
from support.fake_api import FakeApi, Reply, run_api
from support.planted import make_token

from warmstart import __version__
from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.build.verify import Restore
from warmstart.cli import main as cli
from warmstart.cli.terminal import TerminalListener
from warmstart.core import errors
from warmstart.core.errors import EngineError, HostError, ImageError, WarmstartError
from warmstart.core.reference import Transport
from warmstart.image.manifest import Config, Platform
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.doctor import Check
from warmstart.node.network import Network
from warmstart.node.packages import Package
from warmstart.node.record import Record
from warmstart.recipe.load import load_recipe
from warmstart.recipe.schema import schema_text

RECIPE = """\
apiVersion: warmstart/v1alpha1
name: app
container:
  image: localhost/app:1
  readinessProbe: {httpGet: {port: 8080}}
image: {name: registry.example.com/app:1-warm}
"""
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WarmstartError)]


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def warmstart(monkeypatch, capsys, tmp_path) -> Iterator[Callable[..., Result]]:
    """Run the command line in this process."""
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("CONTAINER_RUNTIME_ENDPOINT", raising=False)
    # The command line sets these for its own process; here, they are as before at the end.
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    usual = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["warmstart", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def failing(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


# Help


def list_commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from list_commands(inner, (*path, name))


@pytest.mark.parametrize("path", [*list_commands(cli.cli)], ids=" ".join)
def test_each_command_says_what_it_is_for(warmstart, path):
    for option in ("--help", "-h"):
        result = warmstart(*path, option)
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith(f"Usage: {' '.join(['warmstart', *path])} ")
    command: click.Command = cli.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_the_version(warmstart):
    assert warmstart("--version") == Result(0, f"warmstart, version {__version__}\n", "")


# Wrong command lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Commands:"),
        (["nonsense"], "No such command 'nonsense'"),
        (["build"], "Missing argument 'RECIPE...'"),
        (["build", "r.yaml", "--nonsense"], "No such option"),
        (["build", "r.yaml", "--checkpoint-timeout", "soon"], "Invalid value for '--checkpoint-timeout'"),
        (["build", "r.yaml", "--checkpoint-timeout", "0"], "Invalid value for '--checkpoint-timeout'"),
        (["completion", "tcsh"], "Invalid value for 'SHELL'"),
        (["init"], "give an IMAGE, manifests, or KIND/NAME"),
        (["init", "image", "--from", "file"], "give an IMAGE, manifests, or KIND/NAME"),
        (["init", "image", "other"], "give an IMAGE, manifests, or KIND/NAME"),
        (["node"], "Commands:"),
        (["node", "run"], "Missing argument 'COMMAND...'"),
        (["node", "run", "--bind", "/nonexistent", "true"], "Invalid value for '--bind'"),
    ],
)
def test_a_wrong_command_line_is_shown_with_its_usage(warmstart, arguments, said):
    result = warmstart(*arguments)
    assert (result.status, result.out) == (2, "")
    assert said in result.err
    assert "Usage: warmstart" in result.err
    assert "Traceback" not in result.err


def test_warnings_outside_of_steps_are_shown_and_part_of_the_json(warmstart, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of(*checkpoint(), entry("new-in-2027", b"")))
    result = warmstart("inspect", "--json", archive)
    (warning,) = json.loads(result.out)["warnings"]
    assert "the first is 'new-in-2027'" in warning
    assert result.err == f"warning: {warning}\n"
    assert "new-in-2027" in warmstart("inspect", archive).err


# Errors


def test_kinds_of_errors_have_exit_codes_of_their_own():
    # The classes of input errors are one kind to a script.
    codes = [code for _, code in {(kind.kind, kind.exit_code) for kind in KINDS}]
    assert len(set(codes)) == len(codes) == len({kind.kind for kind in KINDS})
    # 2 is a wrong command line, 126 and above are the shell's.
    assert [code for code in codes if not 0 < code < 126 or code == 2] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_exit_code_is_that_of_the_kind(warmstart, monkeypatch, kind):
    monkeypatch.setattr(
        "warmstart.cli.static.schema_text", failing(kind("what is wrong", details=["why"], hint="what to do"))
    )
    expected = "error: what is wrong\n  why\nhint: what to do\n"
    assert warmstart("schema") == Result(kind.exit_code, "", expected)


@pytest.mark.parametrize(
    ("error", "status", "brief"),
    [
        (OSError(21, "Is a directory", "/var/tmp/x"), 4, "error: Is a directory: /var/tmp/x\n"),
        (OSError(28, "No space left on device", "/var/tmp/x"), 4, "error: cannot write /var/tmp/x: no space left"),
        (OSError(5, "Input/output error"), 4, "error: Input/output error\n"),
        (MemoryError(), 4, "error: not enough memory\n"),
        (ZeroDivisionError("by zero"), 1, "error: this is a bug in warmstart: ZeroDivisionError: by zero\n"),
        (KeyError("name"), 1, "error: this is a bug in warmstart: KeyError: 'name'\n"),
        (OSError("only text"), 1, "error: this is a bug in warmstart: OSError: only text\n"),
        (RecursionError("too deep"), 1, "error: this is a bug in warmstart: RecursionError: too deep\n"),
        (TypeError("a\nb\x1b[2J"), 1, "error: this is a bug in warmstart: TypeError: a\\nb\\x1b[2J\n"),
    ],
)
def test_what_nobody_expected_is_one_clear_error(warmstart, monkeypatch, error, status, brief):
    monkeypatch.setattr("warmstart.cli.static.schema_text", failing(error))
    result = warmstart("schema")
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith(brief)
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [EngineError("what is wrong"), ZeroDivisionError("by zero"), OSError(5, "broken")])
def test_a_traceback_is_shown_where_it_is_asked_for(warmstart, monkeypatch, error):
    monkeypatch.setattr("warmstart.cli.static.schema_text", failing(error))
    quiet, loud = warmstart("schema"), warmstart("--debug", "schema")
    assert loud.status == quiet.status
    assert "Traceback" in loud.err
    assert "in fail" in loud.err
    assert loud.err.endswith(quiet.err)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_an_interruption_is_no_error(warmstart, monkeypatch, error):
    monkeypatch.setattr("warmstart.cli.static.schema_text", failing(error))
    result = warmstart("schema")
    assert (result.status, result.out, result.err.strip()) == (130, "", "interrupted")


def test_a_recipe_that_is_missing_is_the_recipes_fault(warmstart, tmp_path):
    result = warmstart("build", tmp_path / "none.yaml")
    assert result.status == 3
    assert "none.yaml" in result.err


# The process itself


HANG = """
import sys, time
from warmstart.cli import main as cli
from warmstart.cli.terminal import TerminalListener
from warmstart.core.workspace import open_workspace
def hang():
    with open_workspace("test") as directory:
        (directory / "file").touch()
        print("started", flush=True)
        time.sleep(1000)
import warmstart.cli.static
warmstart.cli.static.schema_text = hang
sys.argv = ["warmstart", "schema"]
cli.main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(tmp_path, number, status):
    environment = {**os.environ, "WARMSTART_TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HANG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stdout.readline() == b"started\n"
        assert len(list(tmp_path.iterdir())) == 1
        running.send_signal(number)
        _, err = running.communicate()
    assert running.returncode == status
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def run_program(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m warmstart"
    return subprocess.run(
        ["sh", "-c", command.replace("warmstart", program)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_a_reader_that_goes_away_is_no_error():
    done = run_program("warmstart schema | head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_reader_that_was_never_there_is_no_error():
    theirs, ours = os.pipe()
    os.close(theirs)
    command = [sys.executable, "-m", "warmstart", "schema"]
    done = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, text=True, check=False)
    os.close(ours)
    assert done.returncode != 0
    assert done.stderr == ""


def test_a_locale_that_lacks_a_character_is_no_error(tmp_path):
    done = run_program(f"warmstart --cache-dir {tmp_path} doctor", PYTHONIOENCODING="ascii", PATH=os.environ["PATH"])
    assert done.returncode == HostError.exit_code
    assert r"\u2717  tools" in done.stdout
    assert "a build would not work here" in done.stderr


def test_a_full_disk_under_the_result_is_the_hosts_fault():
    done = run_program("warmstart schema > /dev/full")
    assert done.returncode == HostError.exit_code
    assert done.stderr.startswith("error: no space left on one of this machine's disks")
    assert "Traceback" not in done.stderr


# Results


def test_the_schema(warmstart):
    result = warmstart("schema")
    assert (result.status, result.out, result.err) == (0, schema_text() + "\n", "")
    assert json.loads(result.out)["title"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(warmstart, shell):
    result = warmstart("completion", shell)
    assert (result.status, result.err) == (0, "")
    assert f"_WARMSTART_COMPLETE={shell}_complete" in result.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=result.out, text=True, check=True)


def test_words_are_completed(warmstart, monkeypatch):
    monkeypatch.setenv("_WARMSTART_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "warmstart sch")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert warmstart() == Result(0, "plain,schema\n", "")


def test_a_recipe_from_a_manifest_is_written_as_it_is(warmstart, tmp_path):
    manifest = tmp_path / "pod.yaml"
    long = "x" * 300
    manifest.write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: app}}
spec:
  containers:
  - name: app
    image: registry.example.com/app:1
    args: ["[bold]{long}[/bold]", ":key:", "a\\tb"]
    ports: [{{containerPort: 8080}}]
    readinessProbe: {{httpGet: {{port: 8080}}}}
""")
    result = warmstart("init", "--from", manifest)
    assert (result.status, result.err) == (0, "")
    (tmp_path / "recipe.yaml").write_text(result.out)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert list(recipe.container.args) == [f"[bold]{long}[/bold]", ":key:", "a\tb"]


def test_a_recipe_is_written_beside_its_manifests(warmstart, tmp_path):
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "app.yaml").write_text("""\
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      containers:
      - {name: app, image: a, ports: [{containerPort: 80}], envFrom: [{configMapRef: {name: conf}}]}
""")
    (tmp_path / "k8s" / "conf.yaml").write_text("kind: ConfigMap\nmetadata: {name: conf}\ndata: {A: b}\n")
    recipe = tmp_path / "recipe.yaml"
    files = [tmp_path / "k8s" / "app.yaml", tmp_path / "k8s" / "conf.yaml"]
    for target in ([tmp_path / "k8s"], ["--from", tmp_path / "k8s"], files):
        recipe.unlink(missing_ok=True)
        result = warmstart("init", *target, "-o", recipe)
        assert (result.status, result.out, result.err) == (0, "", "")
        assert load_recipe(recipe).container.env == (("A", "b"),)
    again = warmstart("init", tmp_path / "k8s", "-o", recipe)
    assert again.status == 2
    assert "exists already" in again.err


def test_reasons_why_a_recipe_cannot_be_built_are_on_standard_error(warmstart, tmp_path):
    pod = "{spec: {containers: [{name: app, image: '${IMAGE}'}]}}"
    (tmp_path / "app.yaml").write_text(f"kind: Job\nspec: {{template: {pod}}}\n")
    result = warmstart("init", tmp_path / "app.yaml")
    assert (result.status, result.out[:10]) == (0, "# A recipe")
    assert "to do: name the base image in container.image" in result.err
    assert "to do: there is no probe" in result.err


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("-", "manifest"),
        ("app.yaml", "manifest"),
        ("k8s", "manifest"),
        ("k8s/app.txt", "manifest"),
        ("missing.yml", "manifest"),
        ("deployment/app", "cluster"),
        ("sts/app", "cluster"),
        ("deployments.apps/app", "cluster"),
        ("app", "image"),
        ("team/app", "image"),
        ("docker.io/deployment/app", "image"),
        ("deployment/app:1", "image"),
        ("empty", "image"),
        ("layout", "image"),
        ("oci-archive:app.yaml", "image"),
    ],
)
def test_the_input_of_init_is_told_by_its_name(warmstart, monkeypatch, tmp_path, target, kind):
    for directory in ("k8s", "empty", "layout"):
        (tmp_path / directory).mkdir()
    for file in ("app.yaml", "k8s/app.txt", "k8s/app.yaml", "layout/oci-layout", "layout/a.json"):
        (tmp_path / file).write_text("kind: Pod\nspec: {containers: [{image: a}]}\n")
    monkeypatch.chdir(tmp_path)

    def say(found):
        def fail(*_, **__):
            raise EngineError(found)

        return fail

    monkeypatch.setattr("warmstart.cli.init.open_image", say("image"))
    monkeypatch.setattr("warmstart.cli.init.connect_cluster", say("cluster"))
    monkeypatch.setattr("warmstart.cli.init.read_inputs", say("manifest"))
    assert f"error: {kind}" in warmstart("init", target).err


def test_a_recipe_from_a_cluster(warmstart, monkeypatch):
    container = {"name": "app", "image": "a.test/app:1", "ports": [{"containerPort": 80}]}
    path = "/apis/apps/v1/namespaces/shop/deployments/app"
    workload = {"metadata": {"name": "app"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    asked = []
    with run_api(FakeApi({f"GET {path}": Reply(workload)})) as cluster:
        monkeypatch.setattr(
            "warmstart.cli.init.connect_cluster", lambda *options: asked.append(options) or nullcontext(cluster)
        )
        result = warmstart("init", "deploy/app", "-n", "shop", "--context", "prod")
    assert (result.status, result.err, asked) == (0, "", [("prod", "shop")])
    assert "made from Deployment/app in the namespace shop." in result.out
    assert "  image: a.test/app:1\n" in result.out


@pytest.mark.parametrize(("option", "http"), [([], ()), (["--plain-http", "localhost:5000"], ("localhost:5000",))])
def test_a_recipe_from_an_image(warmstart, monkeypatch, option, http):
    asked = []

    @contextmanager
    def open_image(source: object, **options: object) -> Iterator[object]:
        asked.append((str(source), options))
        config = Config(Platform("linux", "amd64"), entrypoint=("/app",), exposed_ports=("8080/tcp",))
        yield SimpleNamespace(image=SimpleNamespace(config=config))

    monkeypatch.setattr("warmstart.cli.init.open_image", open_image)
    result = warmstart("init", "localhost:5000/app:1", *option)
    assert result.status == 0, result.err
    assert "containerPort: 8080" in result.out
    assert asked == [("docker://localhost:5000/app:1", {"access": RegistryAccess(http)})]


def test_options_of_a_build(warmstart, monkeypatch, recipe, tmp_path):
    asked: list[tuple[str, BuildOptions]] = []

    def build_image(recipe: object, options: BuildOptions, steps: object) -> object:
        asked.append((str(recipe.image), options))
        raise EngineError("far enough")

    monkeypatch.setattr("warmstart.cli.build_job.build_image", build_image)
    plain = ["--plain-http", "a:1", "--plain-http", "b"]
    more = ["--authfile", "auth.json", "--checkpoint-timeout", "5", "--force", "--keep", "-t", "2-warm"]
    more += ["--network", "outside"]
    assert warmstart("build", recipe).status == EngineError.exit_code
    assert warmstart("build", recipe, *plain, *more, "-o", "oci-archive:x.tar").status == EngineError.exit_code
    default = BuildOptions(cache=tmp_path / "cache")
    assert asked == [
        ("registry.example.com/app:1-warm", default),
        (
            "registry.example.com/app:2-warm",
            replace(
                default,
                access=RegistryAccess(("a:1", "b"), Path("auth.json")),
                checkpoint_timeout_s=5.0,
                force=True,
                keep=True,
                network=Network.OUTSIDE,
                output=Output(Transport.OCI_ARCHIVE, Path("x.tar")),
            ),
        ),
    ]


def test_a_cache_below_the_current_directory_is_known_by_its_whole_path(warmstart, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("warmstart.cli.node.remove_trees", asked.append)
    monkeypatch.chdir(tmp_path)
    assert warmstart("--cache-dir", "mine", "node", "remove") == Result(0, "", "")
    assert asked == [tmp_path / "mine"]


def test_the_cache_is_where_the_desktop_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cli.default_cache() == tmp_path / ".cache/warmstart"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cli.default_cache() == tmp_path / ".cache/warmstart"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cli.default_cache() == tmp_path / "xdg/warmstart"


RESTORES = (Restore("10.89.0.2", 0.5, 0.75), Restore("10.89.0.3", 1.5, 2.5))


def test_a_verification_as_a_table(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.build.verify_source", lambda *_, **__: RESTORES)
    result = warmstart("verify", "app:1")
    lines = ["10.89.0.2 restored, ready after 750 ms", "10.89.0.3 restored, ready after 2.50 s"]
    assert (result.status, [" ".join(line.split()) for line in result.out.splitlines()], result.err) == (0, lines, "")


def test_a_verification_as_json(warmstart, monkeypatch):
    def verify(
        source: object, cache: object, access: RegistryAccess, steps: object, network: object, **_: object
    ) -> object:
        assert (access, network) == (RegistryAccess(("localhost:5000",)), Network.NONE)
        steps.warn("careful")
        return RESTORES

    monkeypatch.setattr("warmstart.cli.build.verify_source", verify)
    result = warmstart("verify", "app:1", "--json", "--plain-http", "localhost:5000")
    assert result.err == "warning: careful\n"
    expected = {"address": "10.89.0.3", "runtime_s": 1.5, "first_success_s": 2.5}
    assert json.loads(result.out)[1] == {**expected, "restorer": "runtime", "launcher_ms": None, "hooks_ms": None}


def test_secrets_of_an_image_reach_its_verification_and_its_measurement(warmstart, monkeypatch):
    given: list[object] = []

    def run(*_: object, secrets: object, **__: object) -> object:
        given.append(secrets)
        raise ImageError("enough")

    monkeypatch.setattr("warmstart.cli.build.verify_source", run)
    monkeypatch.setattr("warmstart.cli.bench.bench_source", run)
    for command in ("verify", "bench"):
        assert warmstart(command, "app:1", "--secret", "db.password=file").status == ImageError.exit_code
    assert given == [("db.password=file",)] * 2


def test_steps_are_shown_where_it_is_asked_for(warmstart, monkeypatch):
    def verify(_source: object, _cache: object, _access: object, steps: object, *_: object, **__: object) -> object:
        with steps.step("pull"):
            return RESTORES

    monkeypatch.setattr("warmstart.cli.build.verify_source", verify)
    assert warmstart("verify", "app:1").err == ""
    for option in ("-v", "--debug"):
        assert warmstart(option, "verify", "app:1").err.startswith("✓ pull")


CHECKS = [Check("root", True, "yes"), Check("kernel", None, "6.1"), Check("tools", False, "not made", "make them")]


def test_a_doctor_finds_something(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.doctor.examine_host", lambda _: CHECKS)
    result = warmstart("doctor")
    assert result.status == HostError.exit_code
    assert "✗  tools" in result.out
    assert "make them" in result.out
    assert result.err == "error: a build would not work here: tools\nhint: first, make them\n"


def test_a_doctor_that_finds_nothing_says_so_in_a_sentence(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.doctor.examine_host", lambda _: CHECKS[:2])
    assert warmstart("doctor").out.splitlines()[-1] == "A build would work on this machine."


def test_an_error_is_json_if_the_result_would_be(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.doctor.examine_host", lambda _: CHECKS)
    result = warmstart("doctor", "--json")
    assert json.loads(result.err) == {
        "error": {
            "kind": "host",
            "message": "a build would not work here: tools",
            "details": [],
            "hint": "first, make them",
            "exitCode": 4,
        }
    }
    usage = json.loads(warmstart("doctor", "--json", "--cluster").err)["error"]
    assert (usage["kind"], usage["exitCode"]) == ("usage", 2)


def test_a_doctor_finds_nothing(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.doctor.examine_host", lambda _: CHECKS[:2])
    result = warmstart("doctor", "--json")
    assert (result.status, result.err) == (0, "")
    assert [check["name"] for check in json.loads(result.out)] == ["root", "kernel"]


def test_a_doctor_is_asked_about_a_runtime_that_is_not_there(warmstart, monkeypatch, tmp_path):
    monkeypatch.setattr("warmstart.cli.doctor.examine_host", lambda _: CHECKS[:2])
    result = warmstart("doctor", "--json", "--runtime-endpoint", f"unix://{tmp_path}/none.sock")
    assert result.status == HostError.exit_code
    assert [check["ok"] for check in json.loads(result.out)] == [True, None, False]


RECORD = Record(datetime.now(UTC), "tools", (Package("crun", "0.1-1", "00"),), {"runc": "v1.5.3"})


def test_the_tools_say_what_they_are_made_of(warmstart, monkeypatch, tmp_path):
    monkeypatch.setattr("warmstart.cli.node.read_records", lambda cache: [(cache / "trees/0123", RECORD)])
    result = warmstart("node", "status")
    assert (result.status, result.err) == (0, "")
    assert "0123 today runc v1.5.3, crun 0.1-1" in [" ".join(line.split()) for line in result.out.splitlines()]
    assert "crun" in result.out.rpartition("Packages that differ from the tested versions")[2]
    (document,) = json.loads(warmstart("node", "status", "--json").out)
    assert document["programs"] == {"runc": "v1.5.3"}
    assert document["packages"] == [{"name": "crun", "version": "0.1-1", "sha256": "00"}]
    (difference,) = (line for line in document["untested"] if line.startswith("crun "))
    assert difference.endswith(" -> 0.1-1")


def test_the_tools_may_not_be_made_yet(warmstart):
    result = warmstart("node", "status")
    assert (result.status, result.out) == (HostError.exit_code, "")
    assert "warmstart node setup" in result.err


def test_the_tools_are_updated(warmstart, monkeypatch):
    monkeypatch.setattr("warmstart.cli.node.update_tree", lambda cache, note: cache / "trees/0123-20261128T000000Z")
    result = warmstart("node", "update")
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith("/trees/0123-20261128T000000Z\n")


def test_only_the_tested_tools_will_do(warmstart, monkeypatch):
    asked = []
    monkeypatch.setattr("warmstart.cli.node.ensure_tree", lambda *_: Path("/tree"))
    monkeypatch.setattr("warmstart.cli.node.require_tested", asked.append)
    assert warmstart("node", "setup") == Result(0, "/tree\n", "")
    assert asked == []
    assert warmstart("node", "setup", "--locked") == Result(0, "/tree\n", "")
    assert len(asked) == 1


def test_programs_of_nodes_belong_to_a_cluster(warmstart):
    assert "--node-programs needs --cluster" in warmstart("doctor", "--node-programs").err


@pytest.mark.linux
def test_a_command_in_the_node_ends_us_with_its_status(warmstart, monkeypatch, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    monkeypatch.setattr("warmstart.node.open.ensure_tree", lambda *_: Path("/"))
    monkeypatch.setenv("WARMSTART_TMPDIR", "/var/tmp")
    monkeypatch.chdir(tmp_path)
    script = "pwd > here; exit 42"
    assert warmstart("node", "run", "sh", "-c", script) == Result(42, "", "")
    assert (tmp_path / "here").read_text() == f"{tmp_path}\n"


@pytest.mark.linux
def test_a_command_in_the_node_may_not_hide_it(warmstart, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    monkeypatch.setattr("warmstart.node.open.ensure_tree", lambda *_: Path("/"))
    monkeypatch.chdir("/")
    result = warmstart("node", "run", "true")
    assert result.status == HostError.exit_code
    assert result.err.startswith("error: cannot bind /: it would hide the tools\n")


def test_what_was_typed_does_not_steer_the_terminal(warmstart):
    result = warmstart("build", "recipe.yaml", "--no-\x1b]0;title\x07\u202e")
    assert result.status == 2
    assert r"--no-\x1b]0;title\x07\u202e" in result.err
    assert "\x1b" not in result.err


def test_the_summary_of_each_command_fits_and_is_its_own(warmstart, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = warmstart("--help").out
    context = click.Context(cli.cli)
    for name, lazy in cli.COMMANDS.items():
        command = lazy.load()
        assert command.name == name
        assert (command.help or "").partition("\n")[0] == lazy.summary
        assert any(line.split() == [name, *lazy.summary.split()] for line in shown.splitlines()), name
    assert cli.cli.list_commands(context) == sorted(cli.COMMANDS)


def test_help_imports_no_command():
    code = "import sys; sys.argv[1:] = ['--help']; from warmstart.cli.main import cli; cli.main(standalone_mode=False)"
    heavy = ("grpc", "kubernetes", "oras", "jsonschema", "requests", "zstandard", "warmstart.build", "warmstart.image")
    check = (
        f"import atexit; atexit.register(lambda: print('loaded:', [name for name in {heavy} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", f"import sys; {check}; {code}"], stdout=subprocess.PIPE, text=True)
    assert done.stdout.endswith("loaded: []\n")


def test_lines_in_a_log_are_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    console, path = cli.open_console(stderr=True), "/long" * 60
    with console.capture() as written:
        TerminalListener(console, verbose=True).end(path, 1.0, ok=True)
    assert f"{path} " in written.get()


def test_secrets_are_listed_without_their_values(warmstart, tmp_path):
    token, archive, values = make_token(), tmp_path / "checkpoint.tar", tmp_path / "prod.env"
    archive.write_bytes(tar_of(*checkpoint(**{"dump.log": f"{token} kx7-of-production".encode()})))
    values.write_text("PROD=kx7-of-production\n")
    result = warmstart("inspect", "--secrets", archive)
    assert result.status == 0
    assert "github-token" in result.out
    assert token[4:] not in result.out + result.err
    result = warmstart("inspect", "--secrets", "--values", values, "--json", archive)
    assert result.status == 16
    found = json.loads(result.out)
    assert [(one["kind"], one["name"]) for one in found["findings"]] == [
        ("known-value", "PROD"),
        ("github-token", "GitHub token"),
    ]
    assert "kx7" not in result.out + result.err
    assert warmstart("inspect", "--values", values, archive).status == 2
