"""Images on the embedded node: a built image is verified unchanged, and an image that claims more is not run."""

from __future__ import annotations

import json

import pytest
from support.builds import STATE, build, write_recipe
from support.checkpoint_image import edit_annotations

from warmstart.build.context import BuildOptions
from warmstart.build.publish import parse_output
from warmstart.build.verify_source import verify_source
from warmstart.core.errors import PrivilegeError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import parse_source
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.inspect.inspection import inspect_target
from warmstart.inspect.trust import trust
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Restorer

pytestmark = pytest.mark.node

CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 1000}


def test_only_the_users_word_gives_an_image_more(base_archive, cache, tmp_path):
    name, layout = "localhost:1/tests/trusted:1", tmp_path / "layout"
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base_archive,
        name,
        {"securityContext": CONFINED},
        warmup=[STATE],
        restore=[str(restorer) for restorer in Restorer],
    )
    build(recipe, BuildOptions(cache, parse_output(f"oci:{layout}")))

    # What the processes really have is what the recipe says.
    checkpoint = inspect_target(str(layout)).checkpoint
    threads = [thread for threads in checkpoint.credentials.values() for thread in threads]
    assert {thread.uid for thread in threads} == {1000}
    assert {names for thread in threads for _, names in thread.capabilities} == {()}
    assert all(thread.no_new_privs and thread.filters for thread in threads)

    def verify(**options):
        source, steps = parse_source(f"oci:{layout}"), Progress(SilentListener())
        return verify_source(source, cache, RegistryAccess(), steps, decide=trust((), **options))

    assert len(verify()) == 4
    edit_annotations(layout, claim_all)
    with pytest.raises(PrivilegeError) as caught:
        verify()
    assert caught.value.refused == ("capability=SYS_ADMIN", "privileged")
    # By the recipe that it was built from it is run as before, whatever it claims.
    assert len(verify(own=load_recipe(recipe))) == 4


def claim_all(annotations: dict[str, str]) -> None:
    recipe = json.loads(annotations["dev.warmstart.recipe"])
    recipe["container"]["securityContext"] = {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}
    recipe["restore"] = ["runtime"]
    annotations["dev.warmstart.recipe"] = json.dumps(recipe)
