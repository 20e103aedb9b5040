"""The manifests of `manifests/`: one for each cause that keeps a pod from being built, and the usual combinations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.manifests import MANIFESTS, read_expected

from warmstart.core.errors import ManifestError, RecipeError
from warmstart.core.yaml_document import read_document
from warmstart.recipe.init.inputs import read_inputs
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.init.text import Proposal
from warmstart.recipe.load import load_recipe

# Every pod has this note, unless it has no token.
ACCOUNT = "automountServiceAccountToken: "


@dataclass(frozen=True)
class Case:
    """A manifest and the expected answers."""

    manifest: str
    init: dict[str, Any]
    check: str = ""
    container: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return MANIFESTS / self.manifest


def read_cases() -> list[Case]:
    known = ("manifest", "init", "check", "container")
    return [
        Case(
            **{key: item[key] for key in known if key in item},
            more={key: item[key] for key in item if key not in known},
        )
        for item in read_expected()
    ]


CASES = read_cases()
BUILT = [case for case in CASES if "error" not in case.init]


def name_of(case: Case) -> str:
    return case.manifest + (f":{case.container}" if case.container else "")


def propose(case: Case, tmp_path: Path) -> Proposal:
    return propose_recipe(read_inputs(case.path), InitOptions(case.container, tmp_path))


def begin(expected: list[str], texts: list[str], case: Case) -> bool:
    """Tell whether there are as many texts as expected, each with its beginning."""
    wanted = [text.replace("INPUT", str(case.path)).replace("DIRECTORY", str(case.path.parent)) for text in expected]
    assert len(texts) == len(wanted), texts
    return all(text.startswith(start) for start, text in zip(wanted, texts, strict=True))


def summarize(build: dict[str, Any]) -> dict[str, Any]:
    """Return the names in `build:`."""
    found = {
        "objects": [Path(entry).name for entry in build.get("objects", [])],
        "secrets": {name: list(keys) for name, keys in build.get("secrets", {}).items()},
        "services": [service["name"] for service in build.get("services", [])],
        "init": [item["container"] for item in build.get("init", [])],
    }
    return {key: value for key, value in found.items() if value}


def test_there_are_enough_and_each_is_expected_to_do_something() -> None:
    names = {path.name for path in MANIFESTS.iterdir()} - {"expected.yaml"}
    assert names == {case.manifest for case in CASES}
    assert len(names) > 100


@pytest.mark.parametrize("case", BUILT, ids=name_of)
def test_a_recipe_is_proposed(case: Case, tmp_path: Path) -> None:
    proposal = propose(case, tmp_path)
    assert begin(case.init.get("toDo", []), list(proposal.to_do), case), proposal.to_do
    notes = [note for note in proposal.notes if not note.startswith(ACCOUNT)]
    assert begin(case.init.get("notes", []), notes, case), notes
    assert summarize(read_document(proposal.text, "recipe").value.get("build", {})) == case.init.get("build", {})


@pytest.mark.parametrize("case", BUILT, ids=name_of)
def test_each_text_is_there_once_and_no_secret(case: Case, tmp_path: Path) -> None:
    proposal = propose(case, tmp_path)
    assert [text for text, count in Counter([*proposal.to_do, *proposal.notes]).items() if count > 1] == []
    assert "production-" not in proposal.text


@pytest.mark.parametrize("case", [case for case in CASES if "error" in case.init], ids=name_of)
def test_no_recipe_is_proposed(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        propose(case, tmp_path)
    assert begin([case.init["error"]], [caught.value.brief], case)


@pytest.mark.parametrize("case", BUILT, ids=name_of)
def test_the_recipe_is_checked(case: Case, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(propose(case, tmp_path).text)
    if case.check == "ok":
        assert load_recipe(recipe).name
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert case.check in caught.value.details[0]
    # Whoever made the recipe knew that it cannot be built.
    assert propose(case, tmp_path).to_do
