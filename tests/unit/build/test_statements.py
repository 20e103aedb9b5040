"""Statements about a built image: what is in them, in the formats that others read."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import PROVENANCE, make_layout

from warmstart.build import materials, parts
from warmstart.build.base import BaseImage
from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.key import find_inputs
from warmstart.build.result import BuildResult, EditedDump
from warmstart.build.statements import make_predicates
from warmstart.build.verify import Restore
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.dump.edit.memory import MappedMemory
from warmstart.image.layout import read_image
from warmstart.image.selfrestore.pack import ENTRYPOINT
from warmstart.image.signatures import predicates
from warmstart.node.packages import Package
from warmstart.node.record import make_record, write_record
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Restorer

STATUS = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u7\n"
DOCUMENT = {
    "apiVersion": "warmstart/v1alpha1",
    "name": "app",
    "container": {
        "image": "registry.example.com/app:1",
        "readinessProbe": {"httpGet": {"port": 8080}},
        "env": [{"name": "PASSWORD", "value": "hunter2"}],
    },
    "restore": ["self", "runtime"],
    "image": {"name": "registry.example.com/app:1-warm"},
}
BASE_DIGEST = "sha256:" + "ba" * 32


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A cache with the tools and the launcher."""
    for name, where in (("tools", "tree_path"), ("launcher", "launcher_path")):
        directory = tmp_path / name
        (directory / "source").mkdir(parents=True)
        write_record(directory, make_record(name, [Package("criu", "4.2.1-1", "c0" * 32)], {"crio": "v1.36.3"}))
        (directory / ".manifest").write_text(name)
        monkeypatch.setattr(materials, where, lambda _, found=directory: found)
    launcher = tmp_path / "launcher"
    for name in ("launcher", "criu", "source/criu_4.2.1.orig.tar.xz", "source/a b.patch"):
        (launcher / name).write_text(name)
    monkeypatch.setattr(parts, "launcher_path", lambda _: launcher)
    (tmp_path / "agent.jar").write_text("agent")
    monkeypatch.setattr(parts, "find_agents", lambda *_: {"agent.jar": tmp_path / "agent.jar"})
    return tmp_path


@pytest.fixture
def state(tools):
    """Return the statements about an image, by their types: one that restores itself, or only a runtime does."""

    def run(entrypoint: tuple[str, ...] = ENTRYPOINT) -> dict[str, dict]:
        recipe = parse_recipe(json.dumps(DOCUMENT), "recipe")
        options = BuildOptions(tools / "cache", force=True)
        status = entry("var/lib/dpkg/status", STATUS.encode())
        base = make_layout(tools / "base", tar_of(status), annotations={})
        layout = make_layout(tools / "image", tar_of(entry("app", b"x")), annotations={"dev.warmstart.build-key": "K"})
        image = read_image(layout)
        built = BuildResult(
            name="registry.example.com/app:1-warm",
            destination="docker://registry.example.com/app:1-warm",
            cold_s=3.0,
            restores=(Restore("10.89.0.2", 0.1, 0.2), Restore("10.89.0.3", 0.2, 0.4, Restorer.SELF, launcher_ms=30)),
            dump=EditedDump(100 << 20, 2, MappedMemory("/.warmstart/memory", 90 << 20, ()), Future()),
            image=replace(image, config=replace(image.config, entrypoint=entrypoint)),
            base=BaseImage(parse_source("registry.example.com/app:1"), BASE_DIGEST, base, layers=1),
            provenance=replace(PROVENANCE, recipe=recipe.document),
        )
        inputs, hooks = find_inputs(recipe, options), SimpleNamespace(runtimes=("java",))
        context = BuildContext(recipe, options, Progress(SilentListener()), None, inputs=inputs, hooks=hooks)
        beside = {"postgres:17": replace(built.base, source=parse_source("registry.example.com/postgres:17"))}
        found = make_predicates(context, built, b"{}", beside)
        assert "hunter2" not in json.dumps([one.document for one in found])
        return {one.type: one.document for one in found}

    return run


@pytest.fixture
def statements(state):
    return state()


def test_provenance_names_everything_that_went_into_the_build(statements):
    build, run = (statements[predicates.PROVENANCE][key] for key in ("buildDefinition", "runDetails"))
    recipe = parse_recipe(json.dumps(DOCUMENT), "recipe").document
    assert build["externalParameters"]["recipe"]["digest"]["sha256"] == hashlib.sha256(recipe.encode()).hexdigest()
    assert build["externalParameters"]["force"] is True
    materials = {one["name"]: one for one in build["resolvedDependencies"]}
    assert materials["base image"] == {
        "name": "base image",
        "uri": "docker://registry.example.com/app:1",
        "digest": {"sha256": "ba" * 32},
    }
    assert materials["postgres:17"]["uri"] == "docker://registry.example.com/postgres:17"
    assert materials["tools"]["digest"]["sha256"] == hashlib.sha256(b"tools").hexdigest()
    assert materials["tools"]["annotations"] == {"crio": "v1.36.3"}
    assert materials["launcher"]["digest"]["sha256"] == hashlib.sha256(b"launcher").hexdigest()
    assert materials["criu"]["uri"].startswith("pkg:deb/debian/criu@4.2.1-1?arch=")
    assert len(materials["warmstart"]["digest"]["sha256"]) == 64
    assert run["builder"]["id"] == "https://warmstart.dev/builder/local"
    assert run["metadata"]["invocationId"] == "K"
    assert run["byproducts"][0]["digest"]["sha256"] == hashlib.sha256(b"{}").hexdigest()


def test_the_builder_is_the_one_that_the_user_names(monkeypatch, request):
    monkeypatch.setenv("WARMSTART_BUILDER_ID", "https://ci.example.com/7")
    statements = request.getfixturevalue("statements")
    assert statements[predicates.PROVENANCE]["runDetails"]["builder"]["id"] == "https://ci.example.com/7"
    assert statements[predicates.VERIFICATION]["verifier"]["id"] == "https://ci.example.com/7"


def test_the_verification_says_who_restored_and_where(statements):
    document = statements[predicates.VERIFICATION]
    assert [(one["restorer"], one["address"]) for one in document["restores"]] == [
        ("runtime", "10.89.0.2"),
        ("self", "10.89.0.3"),
    ]
    assert document["identity"] == PROVENANCE.identity
    assert document["forced"] is True


def test_the_bill_of_materials_is_cyclonedx_with_all_parts(statements):
    bill = statements[predicates.SBOM]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    found = {one["name"]: one for one in bill["components"]}
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u7?arch=amd64"
    assert found["registry.example.com/app"]["version"] == BASE_DIGEST
    assert found["criu"]["version"] == "4.2.1"
    assert found["criu"]["licenses"] == [{"license": {"id": "GPL-2.0-only"}}]
    sources = {one["url"]: one["hashes"][0]["content"] for one in found["criu"]["externalReferences"]}
    expected = hashlib.sha256(b"source/criu_4.2.1.orig.tar.xz").hexdigest()
    assert sources["file:///.warmstart/source/criu_4.2.1.orig.tar.xz"] == expected
    assert "file:///.warmstart/source/a%20b.patch" in sources
    agent = found["/.warmstart/hooks/agent.jar"]["hashes"][0]["content"]
    assert agent == hashlib.sha256(b"agent").hexdigest()
    assert found["warmstart-launcher"]["hashes"][0]["content"] == hashlib.sha256(b"launcher").hexdigest()


def test_an_image_that_only_a_runtime_restores_has_no_launcher(state):
    statements = state(("/app",))
    names = {one["name"] for one in statements[predicates.SBOM]["components"]}
    assert not names & {"criu", "warmstart-launcher"}
    build = statements[predicates.PROVENANCE]["buildDefinition"]
    assert "launcher" not in {one["name"] for one in build["resolvedDependencies"]}
