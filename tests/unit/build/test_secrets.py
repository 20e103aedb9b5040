"""The search for a build's secrets: what is warned of, what is recorded, and what ends the build."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from support.planted import make_token

from warmstart.build.result import BaseImage
from warmstart.build.secrets import SecretsFound, check_report, document_findings, search_secrets
from warmstart.core.errors import ImageError, SecretError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport, parse_reference, parse_source
from warmstart.image.compose import CREATED_BY, Run, add_layers, pack_file
from warmstart.image.layout import read_image
from warmstart.image.open import open_image
from warmstart.recipe.model import AllowedSecret, Container, OnSecret, Recipe, Secret, SecretSearch, Service

VALUE = b"correct-horse-battery"
PASSWORD = Secret("shop-db.password", VALUE)
ANNOTATION = "dev.warmstart.secrets"


def recipe_with(*secrets: Secret, **more: object) -> Recipe:
    container = Container(image="registry.example.com/shop:1", env=(("DB_PASSWORD", VALUE.decode()),))
    return Recipe("shop", container, parse_reference("registry.example.com/shop:1-warm"), secrets=secrets, **more)


@pytest.fixture
def progress() -> Progress:
    return Progress(SilentListener())


@pytest.fixture
def base(tmp_path) -> BaseImage:
    from tests.unit.image.conftest import LayoutMaker

    maker, buffer = LayoutMaker(tmp_path / "base"), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("base"))
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, "config": {"Env": ["A=base-value"]}}
    maker.list(maker.image(buffer.getvalue(), config=config))
    return BaseImage(parse_source("registry.example.com/shop:1"), "sha256:base", maker.path, layers=1)


@pytest.fixture
def make(base, tmp_path):
    """Make an image with this memory."""

    def run(memory: bytes = b"", *, labels=None, annotations=None, cmd=()) -> Path:
        target, file = tmp_path / "image", tarfile.TarInfo(".warmstart/memory")
        file.size = len(memory)
        layers = [pack_file(file, [memory], target)]
        created = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z", **(annotations or {})}
        add_layers(base.layout, target, layers, Run(("/app",), tuple(cmd), ""), created, labels or {})
        return target

    return run


def test_a_secret_in_memory_is_warned_of_and_recorded(make, base, progress):
    layout = make(b"x" * 5000 + VALUE)
    found = search_secrets(recipe_with(PASSWORD, Secret("shop-db.absent", b"not-to-be-found")), layout, base, progress)
    assert [str(one) for one in found.record] == ["shop-db.password (memory)"]
    assert progress.warnings == ["the image holds build-only secrets: shop-db.password (memory)"]
    image = read_image(layout)
    assert json.loads(image.manifest.annotations[ANNOTATION]) == [{"name": "shop-db.password", "places": ["memory"]}]
    assert image.manifest.annotations["org.opencontainers.image.created"] == "2026-01-01T00:00:00Z"
    assert [entry for entry in image.config.history if entry.startswith(CREATED_BY)] == [
        f"{CREATED_BY}.warmstart/memory"
    ]
    with open_image(Source(Transport.OCI, path=layout)) as opened:
        for layer in opened.image.manifest.layers[1:]:
            opened.check_layer(layer)


def test_an_image_without_the_values_says_so(make, base, progress):
    layout = make(b"nothing")
    assert search_secrets(recipe_with(PASSWORD), layout, base, progress).record == ()
    assert progress.warnings == []
    assert read_image(layout).manifest.annotations[ANNOTATION] == "[]"


@pytest.mark.parametrize("secrets", [(), (Secret("shop-db.username", VALUE),), (Secret("shop-db.empty", b""),)])
def test_without_secrets_nothing_is_recorded(make, base, progress, secrets):
    """Users, hosts and databases are no secrets."""
    layout = make(VALUE)
    assert search_secrets(recipe_with(*secrets), layout, base, progress) == SecretsFound()
    assert progress.warnings == []
    assert ANNOTATION not in read_image(layout).manifest.annotations


def test_if_they_are_ignored_nothing_is_read(base, progress):
    recipe = recipe_with(secret_search=SecretSearch(OnSecret.IGNORE))
    assert search_secrets(recipe, Path("/nonexistent"), base, progress) == SecretsFound()
    assert progress.durations_s == {}


def test_what_is_not_searched_for_is_said_once(make, base, progress):
    secrets = (Secret("a.pin", b"12345"), Secret("a.code", b"1234\n"), Secret("a.name", b"example.com/shop"), PASSWORD)
    search_secrets(recipe_with(*secrets), make(b"12345 example.com/shop"), base, progress)
    assert progress.warnings == [
        "the image is not searched for a.code, a.pin: values that are shorter than 6 bytes",
        "the image is not searched for a.name: a value that is also part of a name in the recipe",
    ]


def test_names_of_services_are_names(make, base, progress):
    service = Service("postgres", Container(image="registry.example.com/postgres:17"), aliases=("postgres.shop.svc",))
    secrets = (Secret("a.one", b"postgres:17"), Secret("a.two", b"shop.svc"))
    search_secrets(recipe_with(*secrets, services=(service,)), make(), base, progress)
    assert "a.one, a.two" in progress.warnings[0]


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ({"labels": {"owner": f"x {VALUE.decode()}"}}, "shop-db.password: config: config: Labels: owner"),
        ({"cmd": [f"--password={VALUE.decode()}"]}, "shop-db.password: config: config: Cmd[0]"),
        (
            {"annotations": {"dev.warmstart.recipe": json.dumps({"container": {"env": [{"value": VALUE.decode()}]}})}},
            "shop-db.password: manifest: annotations: dev.warmstart.recipe: container: env[0]: value",
        ),
    ],
)
def test_a_secret_that_everybody_would_read_ends_the_build(make, base, progress, where, place):
    with pytest.raises(ImageError, match=r"would be published with the image: shop-db\.password") as caught:
        search_secrets(recipe_with(PASSWORD), make(**where), base, progress)
    assert caught.value.details == (place,)
    assert "build.secrets" in caught.value.hint
    assert VALUE.decode() not in str([caught.value, caught.value.details, caught.value.hint])


def test_strings_of_the_base_image_are_not_searched(make, base, progress):
    assert search_secrets(recipe_with(Secret("a.b", b"base-value")), make(), base, progress).record == ()
    assert progress.warnings == []


def test_a_word_may_stand_in_documents_by_chance(make, base, progress):
    layout = make(annotations={"dev.warmstart.recipe": json.dumps({"path": "/manager/html"})})
    search_secrets(recipe_with(Secret("a.b", b"manager")), layout, base, progress)
    assert progress.warnings == ["the image holds build-only secrets: a.b (manifest)"]


def test_a_report_without_values_passes(base):
    check_report(recipe_with(PASSWORD), base, {"warnings": ["shop-db.password"], "image": "shop"})
    check_report(recipe_with(), base, {"warnings": [VALUE.decode()]})


def test_our_own_warnings_are_no_leak(make, base, progress):
    """The value may be a word of them."""
    secret = Secret("shop-db.password", b"build-only")
    search_secrets(recipe_with(secret), make(b"build-only"), base, progress)
    check_report(recipe_with(secret), base, {"warnings": progress.warnings})


def test_a_report_with_a_value_ends_the_build(base):
    with pytest.raises(ImageError, match=r"would be published with the image: shop-db\.password") as caught:
        check_report(recipe_with(PASSWORD), base, {"warnings": [f"open file /run/{VALUE.decode()}"]})
    assert caught.value.details == ("shop-db.password: report: warnings[0]",)


REAL = Secret("PROD_PASSWORD", b"kx7-from-production")


def test_a_real_value_ends_the_build(make, base, progress):
    search = SecretSearch(real=(REAL,))
    with pytest.raises(SecretError, match="holds 1 secret that must not be published") as caught:
        search_secrets(recipe_with(PASSWORD, secret_search=search), make(VALUE + REAL.value), base, progress)
    assert caught.value.exit_code == 16
    assert caught.value.details == (
        "PROD_PASSWORD: memory, offset 21",
        "  to fix: let the application get it after the restore, or drop it in a hook before the checkpoint",
    )
    assert REAL.value.decode() not in str([caught.value, caught.value.details, caught.value.hint])


@pytest.mark.parametrize(
    ("on_found", "refused"), [(OnSecret.AUTO, False), (OnSecret.WARN, False), (OnSecret.REFUSE, True)]
)
def test_a_token_is_warned_of_unless_all_are_refused(make, base, progress, on_found, refused):
    recipe, token = recipe_with(secret_search=SecretSearch(on_found)), make_token()
    if refused:
        with pytest.raises(SecretError):
            search_secrets(recipe, make(token.encode()), base, progress)
        return
    found = search_secrets(recipe, make(token.encode() * 2 + b"\n" + token.encode()), base, progress)
    (warning,) = progress.warnings
    assert warning.startswith("the image holds a secret: GitHub token ghp_… (40 characters)")
    assert token[4:] not in warning + json.dumps(document_findings(found))


def test_a_real_value_may_be_only_warned_of(make, base, progress):
    search = SecretSearch(OnSecret.WARN, real=(REAL,))
    search_secrets(recipe_with(secret_search=search), make(REAL.value), base, progress)
    assert progress.warnings == ["the image holds a secret: PROD_PASSWORD: memory, offset 0"]


def allowing(**entry: str) -> Recipe:
    allowed = AllowedSecret(reason="a sample", **entry)
    return recipe_with(secret_search=SecretSearch(OnSecret.REFUSE, (REAL,), (allowed,)))


@pytest.mark.parametrize(
    "entry",
    [{"kind": "github-token"}, {"kind": "*", "place": "mem*"}, {"kind": "github-*", "name": "GitHub token"}],
)
def test_an_allowed_secret_is_reported_with_its_reason(make, base, progress, entry):
    found = search_secrets(allowing(**entry), make(make_token().encode()), base, progress)
    assert progress.warnings == []
    (document,) = document_findings(found)
    assert (document["allowed"], document["refused"]) == (["a sample"], False)


@pytest.mark.parametrize("entry", [{"kind": "jwt"}, {"kind": "*", "place": "file /*"}, {"kind": "*", "name": "jwt"}])
def test_what_is_allowed_is_narrow(make, base, progress, entry):
    with pytest.raises(SecretError):
        search_secrets(allowing(**entry), make(make_token().encode()), base, progress)


def test_a_secret_that_is_allowed_at_one_place_only_is_refused(make, base, progress):
    token = make_token()
    layout = make(token.encode(), labels={"note": token})
    with pytest.raises(SecretError, match="holds 1 secret") as caught:
        search_secrets(allowing(kind="github-token", place="memory"), layout, base, progress)
    assert "config: config: Labels: note" in caught.value.details[0]


def test_a_common_value_is_not_searched_for(make, base, progress):
    search_secrets(
        recipe_with(Secret("a.b", b"changeme"), Secret("a.c", b"20261129")), make(b"changeme"), base, progress
    )
    assert progress.warnings == ["the image is not searched for a.b, a.c: values that are too common to tell anything"]
