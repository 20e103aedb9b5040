"""One rule tells recipes, archives and images apart, and every command that takes one of them follows it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.checkpoint_archive import tar_of
from support.checkpoint_image import checkpoint, make_warm_image

from warmstart.cli import main as cli
from warmstart.core.errors import ArchiveError, ImageReferenceError, InputError
from warmstart.image.layout import read_image, write_archive
from warmstart.inspect.target import Kind, read_image_target, read_target


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with one file of each kind."""
    monkeypatch.chdir(tmp_path)
    Path("app.yaml").write_text("name: app\n")
    Path("own.yaml").write_text("apiVersion: warmstart/v1alpha1\nname: app\n")
    Path("recipe").write_text(json.dumps({"name": "app"}))
    Path("checkpoint.tar").write_bytes(tar_of(*checkpoint()))
    Path("checkpoint").write_bytes(tar_of(*checkpoint()))
    warm = make_warm_image(tmp_path)
    write_archive(warm, read_image(warm), tmp_path / "image.tar", name="localhost/app:warm")
    warm.rename("layout")
    os.link("image.tar", "image")
    Path("broken.tar").write_text("name: app\n")
    Path("src").mkdir()
    os.mkfifo("pipe")


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("-", Kind.STDIN, "-"),
        ("app.yaml", Kind.RECIPE, "app.yaml"),
        ("./app.yaml", Kind.RECIPE, "app.yaml"),
        ("recipe", Kind.RECIPE, "recipe"),
        ("pipe", Kind.RECIPE, "pipe"),
        ("checkpoint.tar", Kind.CHECKPOINT, "checkpoint.tar"),
        ("checkpoint", Kind.CHECKPOINT, "checkpoint"),
        ("image.tar", Kind.IMAGE, "oci-archive:image.tar"),
        ("image", Kind.IMAGE, "oci-archive:image"),
        ("layout", Kind.IMAGE, "oci:layout"),
        ("./src", Kind.IMAGE, "oci:src"),
        ("src", Kind.IMAGE, "docker://docker.io/library/src:latest"),
        ("app", Kind.IMAGE, "docker://docker.io/library/app:latest"),
        ("app:1.tar", Kind.IMAGE, "docker://docker.io/library/app:1.tar"),
        ("localhost:5000/app.json", Kind.IMAGE, "docker://localhost:5000/app.json:latest"),
        ("localhost/app", Kind.IMAGE, "containers-storage:localhost/app:latest"),
        ("oci-archive:none.tar", Kind.IMAGE, "oci-archive:none.tar"),
        ("oci:./none", Kind.IMAGE, "oci:none"),
        (f"registry.example.com/{'a/' * 100}a", Kind.IMAGE, f"docker://registry.example.com/{'a/' * 100}a:latest"),
    ],
)
def test_the_kind_of_a_target(text: str, kind: Kind, found: str) -> None:
    target = read_target(text)

    assert (target.text, target.kind) == (text, kind)
    assert str(target.source if target.path is None else target.path) == found
    assert target.recipe == (target.path if kind in (Kind.RECIPE, Kind.STDIN) else None)


@pytest.mark.parametrize(
    "text", ["no.yaml", "no.yml", "no.json", "no.tar", "./no", "../no", "/no/such", "./no:1", f"/{'n' * 300}"]
)
def test_a_missing_file_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r": no such file$"):
        read_target(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ImageReferenceError),
        ("UPPER CASE", ImageReferenceError),
        ("n" * 2000, ImageReferenceError),
        ("a\0b", ImageReferenceError),
        ("broken.tar", ArchiveError),
    ],
)
def test_a_target_that_is_nothing_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_target(text)


NEITHER = "an image or a checkpoint archive"


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("inspect", "no.tar", "no.tar: no such file"),
        ("inspect", "-", f"-: expected {NEITHER}, found standard input"),
        ("inspect", "app.yaml", f"app.yaml: expected {NEITHER}, found a recipe file"),
        ("inspect", "recipe", f"recipe: expected {NEITHER}, found a file that is not a tar"),
        ("deploy", "no.yaml", "no.yaml: no such file"),
        ("deploy --tag x", "image.tar", "values can be given for a recipe only, and image.tar is an image"),
        ("doctor --cluster --image", "no.yaml", "no.yaml: no such file"),
        ("bench", "no.yaml", "no.yaml: no such file"),
        ("bench", "checkpoint.tar", "checkpoint.tar: expected a recipe or an image, found a checkpoint archive"),
        *(
            (command, text, message)
            for command in ("verify", "restore")
            for text, message in [
                ("no.tar", "no.tar: no such file"),
                ("-", "-: expected an image, found standard input"),
                ("app.yaml", "app.yaml: expected an image, found a recipe file"),
                ("checkpoint.tar", "checkpoint.tar: expected an image, found a checkpoint archive"),
            ]
        ),
        ("init", "no.tar", "no.tar: no such file"),
        ("init", "own.yaml", "own.yaml is a recipe already"),
        ("init", "checkpoint.tar", "checkpoint.tar: expected an image, found a checkpoint archive"),
    ],
)
def test_every_command_follows_the_rule(command: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        cli.cli.main([*command.split(), text], standalone_mode=False)

    assert refusal.value.brief == message


@pytest.mark.parametrize(
    ("command", "text", "found"),
    [
        ("bench", "-", "recipe -"),
        ("bench", "app.yaml", "recipe app.yaml"),
        ("bench", "image.tar", "oci-archive:image.tar"),
        ("bench", "./layout", "oci:layout"),
        ("verify", "image.tar", "oci-archive:image.tar"),
        ("verify", "localhost/app:1", "containers-storage:localhost/app:1"),
    ],
)
def test_a_command_gets_what_the_rule_found(command: str, text: str, found: str, monkeypatch) -> None:
    given = []

    def stop(target: object, *_: object, **__: object) -> None:
        given.append(str(target))
        raise InputError("far enough")

    for name in ("cli.bench.bench_recipe", "cli.bench.bench_source", "cli.build.verify_source"):
        monkeypatch.setattr(f"warmstart.{name}", stop)
    monkeypatch.setattr("warmstart.cli.bench.load_recipe", lambda path, **_: f"recipe {path}")

    with pytest.raises(InputError, match="far enough"):
        cli.cli.main([command, text], standalone_mode=False)

    assert given == [found]


def test_the_node_of_a_benchmark_sees_a_relative_path(tmp_path: Path, monkeypatch) -> None:
    given = []

    def stop(source: object, *_: object) -> None:
        given.append(str(source))
        raise InputError("far enough")

    monkeypatch.setattr("warmstart.bench.run.open_session", stop)

    with pytest.raises(InputError, match="far enough"):
        cli.cli.main(["bench", "image.tar"], standalone_mode=False)

    assert given == [f"oci-archive:{tmp_path}/image.tar"]


@pytest.mark.parametrize("text", ["image.tar", "oci-archive:image.tar", "layout", "oci:layout"])
def test_an_image_in_a_file_needs_no_transport(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = read_image_target(text)
    cli.cli.main(["inspect", "--json", text], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["image"]["digest"] == read_image(Path("layout")).manifest.digest

    cli.cli.main(["init", text], standalone_mode=False)

    assert f"image: {source}\n" in capsys.readouterr().out
