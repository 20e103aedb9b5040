"""What `deploy --from` makes of the manifests of tests/unit/recipe/manifests, with the recipes that `init` proposes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.manifests import MANIFESTS, read_expected

from warmstart.core.errors import ManifestError
from warmstart.inspect.build_info import describe_recipe
from warmstart.kube.patch import Patched, patch_manifest
from warmstart.kube.settings import BuildInfo
from warmstart.recipe.init.inputs import read_inputs
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.load import load_recipe

USUAL = ["automountServiceAccountToken", "image", "readinessProbe.initialDelaySeconds"]


@dataclass(frozen=True)
class Case:
    """A manifest, its container, and the expected answers."""

    manifest: str
    container: str | None
    changes: list[str]
    refused: list[str]
    warnings: list[str]


def read_cases() -> list[Case]:
    usual = {"changes": USUAL, "refused": [], "warnings": []}
    return [
        Case(item["manifest"], item.get("container"), **{**usual, **item.get("deploy", {})})
        for item in read_expected()
        if item.get("check") == "ok" and (MANIFESTS / item["manifest"]).is_file()
    ]


@pytest.fixture
def deploy(tmp_path: Path):
    @cache
    def describe(manifest: str, container: str | None) -> BuildInfo:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(propose_recipe(read_inputs(MANIFESTS / manifest), InitOptions(container, tmp_path)).text)
        loaded = load_recipe(recipe)
        return describe_recipe(loaded, str(loaded.image))

    def run(case: Case, restorers: tuple[str, ...], *accepted: str) -> tuple[BuildInfo, Patched]:
        build = replace(describe(case.manifest, case.container), restorers=restorers)
        data = (MANIFESTS / case.manifest).read_bytes()
        return build, patch_manifest(data, case.manifest, case.container, build, accepted)

    return run


def list_names(patch: Any, path: str = "") -> list[str]:
    """Return the paths in the pod's part of a patch."""
    names = []
    for key, value in patch.items():
        if key in ("apiVersion", "kind", "metadata", "name"):
            continue
        if key in ("spec", "template", "jobTemplate") and not path:
            names += list_names(value)
        elif key == "containers":
            names += list_names(value[0])
        elif isinstance(value, dict) and not path:
            names += list_names(value, f"{key}.")
        else:
            names.append(path + key)
    return names


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.manifest)
def test_a_manifest_of_people(case: Case, deploy) -> None:
    if case.refused:
        with pytest.raises(ManifestError) as caught:
            deploy(case, ("runtime",))
        assert [detail.split(": ")[1] for detail in caught.value.details] == case.refused
    _, patched = deploy(case, ("runtime",), *case.refused)

    assert sorted(list_names(patched.patch)) == sorted(case.changes)
    names = [warning.partition(":")[0] for warning in patched.warnings]
    assert names == (["env"] if case.refused else []) + case.warnings
    # Everything else is as it was.
    before = (MANIFESTS / case.manifest).read_bytes().decode()
    kept = [line for line in before.splitlines(True) if line in patched.text.splitlines(True)]
    assert len(before.splitlines()) - len(kept) <= len(case.changes)
    assert ("\r\n" in patched.text) == ("\r\n" in before)
    # A second time nothing must differ.
    build, _ = deploy(case, ("runtime",), "*")
    again = patch_manifest(patched.text.encode(), case.manifest, case.container, build, ("*",))
    assert (again.text, again.diff) == (patched.text, "")
    # An image that restores itself refuses nothing.
    deploy(case, ("self",))
