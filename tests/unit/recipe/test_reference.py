"""The reference is made from the schema, and is what is committed."""

from pathlib import Path

from warmstart.recipe.load import load_recipe
from warmstart.recipe.reference import EXAMPLE, reference_text

COMMITTED = Path(__file__).parents[3] / "docs" / "recipe.md"


def test_the_committed_reference_is_up_to_date() -> None:
    assert COMMITTED.read_text() == reference_text(), "run: python -m warmstart.recipe.reference docs/recipe.md"


def test_the_example_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(EXAMPLE)
    assert load_recipe(path).name == "java-app"


def test_every_row_has_four_cells() -> None:
    rows = [line for line in reference_text().splitlines() if line.startswith("|")]
    assert len(rows) > 60
    assert {row.count("|") for row in rows} == {5}
