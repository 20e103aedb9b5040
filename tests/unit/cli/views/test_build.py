"""What a build says at its end, for people and as a document."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from warmstart.build.base import BaseImage
from warmstart.build.result import BuildResult, EditedDump, Report, make_document, parse_report
from warmstart.build.secrets import SecretsFound
from warmstart.build.verify import Restore
from warmstart.cli.views.build import list_rows
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.dump.edit.memory import MappedMemory
from warmstart.image.annotations import Provenance
from warmstart.image.layout import Image
from warmstart.image.manifest import Config, Descriptor, Manifest, Platform
from warmstart.image.secrets.record import FoundSecret
from warmstart.recipe.model import Restorer


def descriptor(digit: int, size_bytes: int) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", f"sha256:{digit:064}", size_bytes)


@pytest.fixture
def built() -> BuildResult:
    layers = (descriptor(1, 5 << 20), descriptor(2, 2 << 20), descriptor(3, 1 << 20))
    manifest = Manifest(descriptor(9, 1000), descriptor(8, 500), layers)
    memory = MappedMemory("/.warmstart/memory", 90 << 20, ())
    return BuildResult(
        name="registry.example.com/app:1-warm",
        destination="docker://registry.example.com/app:1-warm",
        cold_s=3.0,
        restores=(Restore("10.89.0.2", 0.1, 0.2), Restore("10.89.0.3", 0.2, 0.4)),
        dump=EditedDump(100 << 20, 2, memory, Future()),
        image=Image(manifest, Config(Platform("linux", "amd64"))),
        base=BaseImage(parse_source("registry.example.com/app:1"), "sha256:base", Path("base"), layers=1),
        provenance=Provenance("0.1", "4.2.1", "cri-o 1.36.3", "6.18", "amd64", "identity", "a recipe", "{}"),
    )


@pytest.fixture
def steps() -> Progress:
    steps = Progress(SilentListener())
    steps.durations_s.update({"tools": 100.0, "pull": 5.0, "preflight": 0.2, "ready": 9.0, "checkpoint": 1.5})
    steps.warnings.append("careful")
    return steps


def test_people_are_told_what_was_gained_and_what_it_costs(built, steps):
    assert dict(list_rows(built, steps)) == {
        "image": "registry.example.com/app:1-warm",
        "digest": f"sha256:{9:064}",
        "published": "docker://registry.example.com/app:1-warm",
        "cold start": "3.00 s to the first success of the probe",
        "restored start": "300 ms (median of 2)",
        "ratio": "10.0 × faster",
        "memory": "100.0 MiB, of which 90.0 MiB are mapped",
        "size": "8.0 MiB compressed, in 3 layers",
        # Without what the base image has anyway.
        "added": "3.0 MiB to the base image",
        # Without what the application and the network take.
        "own cost": "1.70 s: preflight 200 ms, checkpoint 1.50 s",
    }


def test_a_document_names_the_secrets_in_the_image(built, steps):
    found = (FoundSecret("shop-db.password", ("memory", "checkpoint")),)
    document = json.loads(json.dumps(make_document(replace(built, secrets=SecretsFound(found)), steps)))
    assert document["secrets"] == [{"name": "shop-db.password", "places": ["memory", "checkpoint"]}]


def test_a_document_holds_all_of_it(built, steps):
    document = json.loads(json.dumps(make_document(built, steps)))
    assert document["digest"] == f"sha256:{9:064}"
    assert document["coldStartSeconds"] == 3.0
    assert document["restores"] == [
        {"address": "10.89.0.2", "runtimeSeconds": 0.1, "firstSuccessSeconds": 0.2, "restorer": "runtime"},
        {"address": "10.89.0.3", "runtimeSeconds": 0.2, "firstSuccessSeconds": 0.4, "restorer": "runtime"},
    ]
    assert document["addedBytes"] == 3 << 20
    assert document["secrets"] == []
    assert [layer["sizeBytes"] for layer in document["layers"]] == [5 << 20, 2 << 20, 1 << 20]
    assert document["edits"]["mappedBytes"] == 90 << 20
    assert document["stepSeconds"] == steps.durations_s
    assert document["warnings"] == ["careful"]
    assert document["provenance"]["criu"] == "4.2.1"


def test_people_are_told_who_restored(built, steps):
    by_itself = (Restore("10.89.1.2", 0.1, 0.3, Restorer.SELF, 40), Restore("10.89.1.3", 0.1, 0.5, Restorer.SELF, 50))
    rows = dict(list_rows(replace(built, restores=built.restores + by_itself), steps))
    assert rows["restored start"] == "300 ms (median of 2)"
    assert rows["restored by itself"] == "400 ms (median of 2; of it the launcher 45 ms)"
    rows = dict(list_rows(replace(built, restores=by_itself), steps))
    assert "restored start" not in rows
    document = make_document(replace(built, restores=by_itself), steps)
    assert [each["launcherMilliseconds"] for each in document["restores"]] == [40, 50]


def test_a_document_does_not_repeat_the_recipe_which_may_hold_secrets(built, steps):
    assert "a recipe" not in json.dumps(make_document(built, steps))


def test_what_a_document_says_of_the_verification_is_read_again(built, steps):
    report = parse_report(json.dumps(make_document(built, steps)).encode())
    assert report == Report(report.verified, "cri-o 1.36.3", "4.2.1", "6.18", 3.0, (0.2, 0.4))
    assert datetime.now(UTC) - datetime.fromisoformat(report.verified) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (b"\xff", "is not UTF-8"),
        (b"[]", "not a build report of warmstart"),
        (b"{}", "not a build report of warmstart: KeyError"),
        ({"provenance": "mine"}, "not a build report of warmstart"),
        ({"restores": 5}, "not a build report of warmstart"),
        ({"restores": [{"firstSuccessSeconds": "soon"}]}, "'soon' is not a number of seconds"),
        (b'{"coldStartSeconds": 1e999, "provenance": {"runtime": 1, "criu": 1, "kernel": 1}}', "inf is not a number"),
    ],
)
def test_another_document_is_refused(built, steps, changed, problem):
    document = (
        changed if isinstance(changed, bytes) else json.dumps({**make_document(built, steps), **changed}).encode()
    )
    with pytest.raises(ImageError, match=problem):
        parse_report(document)
