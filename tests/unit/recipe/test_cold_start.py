"""What a recipe says about cold starts."""

from __future__ import annotations

import pytest

from warmstart.core.errors import RecipeError
from warmstart.recipe.load import parse_recipe

TEXT = """\
apiVersion: warmstart/v1alpha1
name: app
container:
  image: localhost/base:1
  readinessProbe: {tcpSocket: {port: 80}}
image: {name: "localhost/app:1"}
"""


def test_files_to_remove_are_read():
    # Without the launcher they have no effect: the image of a build that goes on with the runtime alone records them.
    recipe = parse_recipe(f"{TEXT}coldStart: {{remove: [/var/lib/app/a lock, /srv/.pid]}}\n", "recipe")
    assert recipe.cold_removed == ("/var/lib/app/a lock", "/srv/.pid")
    assert parse_recipe(TEXT, "recipe").cold_removed == ()


@pytest.mark.parametrize("path", ["/", "relative", "/a/../b", "/a/./b", "/a/", "//a", "/.warmstart", "/.warmstart/env"])
def test_other_paths_are_refused(path):
    with pytest.raises(RecipeError) as refused:
        parse_recipe(f"{TEXT}coldStart: {{remove: ['{path}']}}\n", "recipe")
    assert "outside of /.warmstart" in "\n".join([refused.value.brief, *refused.value.details])
