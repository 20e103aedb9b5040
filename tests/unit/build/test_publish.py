"""Publishing: what is asked for, and in which order a registry sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import make_layout
from support.signing_keys import make_key

from warmstart.build import publish
from warmstart.build.publish import (
    REGISTRY,
    REPORT_TYPE,
    Output,
    Signing,
    check_output,
    describe_output,
    parse_output,
    publish_image,
)
from warmstart.core.errors import ImageError, InputError, RegistryError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Transport, parse_reference
from warmstart.image.layout import read_image
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.signatures.statement import Predicate

TARGET = parse_reference("registry.example.com/team/app:1-warm")


class Recorder(SilentListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def layout(tmp_path) -> Path:
    make_layout(tmp_path / "layout", tar_of(entry("app", b"x")), annotations={})
    return tmp_path / "layout"


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("oci:dir", Transport.OCI, "dir"),
        ("oci-archive:/tmp/b.tar", Transport.OCI_ARCHIVE, "/tmp/b.tar"),
        ("oci:with:colon", Transport.OCI, "with:colon"),
    ],
)
def test_an_output_is_a_kind_and_a_path(text, kind, path):
    output = parse_output(text)
    assert output == Output(kind, Path(path))
    assert describe_output(output, TARGET) == text


def test_without_one_it_is_the_registry():
    assert describe_output(REGISTRY, TARGET) == "docker://registry.example.com/team/app:1-warm"


@pytest.mark.parametrize("text", ["", "oci", "oci:", "dir", "docker://registry/app", "docker-archive:x.tar", ":x"])
def test_what_is_no_output_says_what_would_be(text):
    with pytest.raises(InputError, match=r"expected oci:DIRECTORY or oci-archive:FILE$"):
        parse_output(text)


def test_a_place_that_is_not_there_is_said_so_before_there_is_something_to_put(tmp_path):
    with pytest.raises(InputError, match=rf"the directory {tmp_path}/none does not exist$"):
        parse_output(f"oci-archive:{tmp_path}/none/b.tar")


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_an_output_holds_the_image_under_its_name(layout, tmp_path, kind):
    output = parse_output(f"{kind}:{tmp_path}/out")
    image = read_image(layout)
    publish_image(layout, image, TARGET, output, Progress(SilentListener()), report=b"{}")
    assert output.path is not None
    if kind == "oci":
        assert read_image(output.path, name=str(TARGET)).manifest.digest == image.manifest.digest
    else:
        assert output.path.is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def registry_calls(monkeypatch) -> list[tuple[object, ...]]:
    """What a registry is asked for, in order; it takes everything."""
    calls: list[tuple[object, ...]] = []

    def push_layout(layout: Path, reference: object, *, on_progress, **options: object) -> str:
        calls.append(("push", str(reference), options))
        on_progress(1, 3, "layer")
        on_progress(0, 0, "nothing")
        return "sha256:0"

    def attach_report(reference: object, digest: str, report: bytes, **options: object) -> None:
        calls.append(("attach", str(reference), digest, report, options["artifact_type"]))

    def tag_manifest(reference: object, digest: str, **_: object) -> None:
        calls.append(("tag", str(reference), digest))

    for call in (push_layout, attach_report, tag_manifest):
        monkeypatch.setattr(publish, call.__name__, call)
    return calls


def test_a_registry_gets_the_tag_last(layout, registry_calls):
    recorder = Recorder()
    base = parse_reference("registry.example.com/base:1")
    options = {"mount_from": base, "access": RegistryAccess(auth_file=Path("auth.json"))}
    publish_image(layout, read_image(layout), TARGET, REGISTRY, Progress(recorder), report=b"{}", **options)
    push, attach, tag = registry_calls
    # By its digest: nobody who asks for the tag sees it yet.
    assert push == ("push", "registry.example.com/team/app", options)
    assert attach == ("attach", str(TARGET), "sha256:0", b"{}", REPORT_TYPE)
    assert tag == ("tag", str(TARGET), "sha256:0")
    assert recorder.notes == ["layer, 33 %", "nothing, 0 %"]


def test_an_image_whose_report_is_refused_gets_no_tag(layout, registry_calls, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise RegistryError("refused")

    monkeypatch.setattr(publish, "attach_report", refuse)
    with pytest.raises(RegistryError):
        publish_image(layout, read_image(layout), TARGET, REGISTRY, Progress(SilentListener()), report=b"{}")
    assert [call[0] for call in registry_calls] == ["push"]


def test_an_image_is_signed_before_it_gets_its_tag(layout, registry_calls, monkeypatch, tmp_path):
    sign = Signing(make_key(tmp_path), (Predicate("https://example.com/v1", {}),))

    def attach(target: object, digest: str, *given: object, **_: object) -> None:
        registry_calls.append(("sign", str(target), digest, *given))

    monkeypatch.setattr(publish, "attach_signatures", attach)
    progress = Progress(SilentListener())
    publish_image(layout, read_image(layout), TARGET, REGISTRY, progress, report=b"{}", sign=sign)
    assert [call[0] for call in registry_calls] == ["push", "attach", "sign", "tag"]
    assert registry_calls[2] == ("sign", str(TARGET), "sha256:0", sign.signer, sign.predicates)


@pytest.mark.parametrize("kind", [Transport.OCI, Transport.OCI_ARCHIVE])
def test_a_layout_or_an_archive_is_not_signed_and_that_is_said_before(tmp_path, kind):
    with pytest.raises(InputError, match=f"--sign attaches signatures in a registry, and the output is {kind}"):
        check_output(TARGET, Output(kind, tmp_path / "new"), signer=make_key(tmp_path))


def test_each_kind_of_output_is_tried_before(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(publish, "check_push_access", lambda *given, **options: asked.append((given, options)))
    access = RegistryAccess(auth_file=tmp_path)
    check_output(TARGET, REGISTRY, access=access)
    assert asked == [((TARGET,), {"access": access})]
    check_output(TARGET, Output(Transport.OCI, tmp_path / "new"))
    with pytest.raises(ImageError, match="it is a directory"):
        check_output(TARGET, Output(Transport.OCI_ARCHIVE, tmp_path))
    assert len(asked) == 1
