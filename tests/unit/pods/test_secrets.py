"""The search for secrets in the image of a saved container: what is refused, allowed, and only warned of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoint_archive import entry, tar_of
from support.checkpoint_image import checkpoint, make_layout
from support.planted import make_token

from warmstart.core.errors import SecretError
from warmstart.core.progress import Progress, SilentListener
from warmstart.image.compose import compose_image, pack_addition
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.pods.save import POD
from warmstart.pods.secrets import search_saved
from warmstart.recipe.model import AllowedSecret, OnSecret, Secret, SecretSearch

PASSWORD = Secret("prod.env: PASSWORD", b"correct-horse-battery", given=True)
TOKEN = make_token()


@pytest.fixture
def progress() -> Progress:
    return Progress(SilentListener())


@pytest.fixture
def search(tmp_path, progress):
    """Search the image of a container that changed a file, and whose pod has a variable."""
    base = make_layout(tmp_path / "base", tar_of(entry("app", TOKEN.encode())), annotations={})

    def run(file: bytes = b"", variable: str = "", how: SecretSearch | None = None):
        layout, pod = tmp_path / "layout", {"spec": {"containers": [{"env": [{"name": "A", "value": variable}]}]}}
        changed = tar_of(entry("tmp/"), entry("tmp/new", file))
        annotations = {CHECKPOINT_NAME: "app", POD: json.dumps(pod)}
        addition = make_layout(
            tmp_path / "addition", tar_of(*checkpoint(**{"rootfs-diff.tar": changed})), annotations=annotations
        )
        compose_image(base, addition, layout, pack_addition(addition, layout))
        return search_saved(layout, base, how or SecretSearch(real=(PASSWORD,)), progress)

    return run


def test_an_image_without_secrets_passes(search, progress):
    assert search(b"nothing") == ()  # the base image has a token, which is everybody's already
    assert progress.warnings == []


@pytest.mark.parametrize(
    ("planted", "place"), [({"file": PASSWORD.value}, "file /tmp/new"), ({"variable": PASSWORD.value.decode()}, POD)]
)
def test_a_value_of_the_user_is_refused(search, planted, place):
    with pytest.raises(SecretError) as caught:
        search(**planted)
    said = " ".join(caught.value.details)
    assert PASSWORD.name in said
    assert place in said
    assert PASSWORD.value.decode() not in said
    assert "--allow-secret" in caught.value.hint


def test_a_token_is_warned_of_unless_all_are_refused(search, progress):
    [found] = search(TOKEN.encode())
    assert (found.finding.kind, found.finding.places, found.is_refused) == ("github-token", ("file /tmp/new",), False)
    [warning] = progress.warnings
    assert warning.startswith("the image holds a secret: GitHub token")


def test_all_secrets_can_be_refused(search):
    with pytest.raises(SecretError, match="1 secret"):
        search(TOKEN.encode(), how=SecretSearch(OnSecret.REFUSE))


def test_an_allowed_secret_is_accepted_with_its_reason(search, progress):
    allowed = AllowedSecret("github-token", "a sample", place="file /tmp/*")
    [found] = search(TOKEN.encode(), how=SecretSearch(OnSecret.REFUSE, allowed=(allowed,)))
    assert found.document["allowed"] == ["a sample"]
    assert progress.warnings == []


def test_short_values_are_said_not_to_be_searched_for(search, progress):
    search(how=SecretSearch(real=(Secret("short", b"abc", given=True),)))
    assert progress.warnings == ["the image is not searched for short: a value that is shorter than 6 bytes"]


def test_if_they_are_ignored_nothing_is_read(progress):
    nowhere = Path("/nonexistent")
    assert search_saved(nowhere, nowhere, SecretSearch(OnSecret.IGNORE), progress) == ()
    assert progress.durations_s == {}
