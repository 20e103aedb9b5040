"""What a restore loses of an application is told, by each restorer: nothing is lost unseen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support import traits
from support.builds import build, write_recipe

from warmstart.build import verify
from warmstart.build.context import BuildOptions
from warmstart.build.kernel_state import Differences, judge_losses
from warmstart.build.publish import Output
from warmstart.core.errors import PreflightError
from warmstart.core.progress import Progress
from warmstart.core.reference import Transport
from warmstart.inspect.inspection import inspect_target

IMAGE = Path(__file__).parents[2] / "build/images/python.tar"

pytestmark = pytest.mark.node


@pytest.fixture
def recipe(tmp_path) -> Path:
    """Return the recipe of the service in tests/programs/traits.py."""
    assert IMAGE.exists(), "make images"
    container = {"command": ["python3", "-u", "-c"], "args": [traits.PROGRAM.read_text(), "serve", "decisive"]}
    return write_recipe(
        tmp_path / "recipe.yaml", IMAGE, "localhost/tests/traits:1", container, restore=["runtime", "self"]
    )


@pytest.fixture
def losses(monkeypatch) -> dict[str, set[str]]:
    """Return the facts that restores have lost, by restorer."""
    found: dict[str, set[str]] = {}

    def record(by_restore: Sequence[Differences], who: str, progress: Progress, *, force: bool) -> None:
        found[who] = {each.fact for each in by_restore[0]}
        judge_losses(by_restore, who, progress, force=force)

    monkeypatch.setattr(verify, "judge_losses", record)
    return found


def test_each_loss_is_told_and_nothing_else(recipe, losses, tree, cache, tmp_path):
    image = tmp_path / "image"
    _, steps = build(recipe, BuildOptions(cache, Output(Transport.OCI, image), force=True))
    assert losses["the launcher"] == traits.LOST | traits.LOST_BY_SELF
    # Its checkpoint is of an application that restored itself.
    assert losses["the runtime"] == traits.LOST | traits.LOST_BY_RUNTIME | traits.LOST_BY_SELF
    assert sum("the runtime does not restore everything: " in warning for warning in steps.warnings) > 5
    facts = inspect_target(f"oci:{image}").image
    assert facts is not None
    assert "yes" in {each.get("semaphore") for each in facts.state.subjects.values()}


def test_what_an_application_cannot_do_without_is_refused_before_the_dump(recipe, tree, cache, tmp_path):
    with pytest.raises(PreflightError, match="4 things of the application would be lost") as caught:
        build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    codes = {line.rpartition(" ")[2] for line in caught.value.details}
    assert codes == {"[lost-multicast]", "[lost-eventfd]", "[lost-socket-option]"}
