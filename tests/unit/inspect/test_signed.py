"""Commands that read an image in a registry refuse it if no trusted key or identity signed it."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import uuid4

import pytest
from support.checkpoint_image import ANNOTATIONS, PROVENANCE, edit_annotations, make_warm_image
from support.registry_access import http
from support.signing_keys import make_key

from warmstart.core.errors import PrivilegeError, SignatureError
from warmstart.core.privileges import Kind, Privilege
from warmstart.core.reference import Reference, Source, Transport
from warmstart.image.annotations import write_provenance
from warmstart.image.layout import read_image
from warmstart.image.registry.client import push_layout
from warmstart.image.signatures.attach import attach_signatures
from warmstart.image.signatures.check import Trust
from warmstart.inspect.build_info import read_build
from warmstart.inspect.inspection import inspect_image, inspect_target
from warmstart.inspect.trust import trust
from warmstart.recipe.load import parse_recipe


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path)


@pytest.fixture
def name(registry) -> Reference:
    return Reference(registry, f"team/{uuid4().hex}", "1-warm")


@pytest.fixture
def recipe(name) -> str:
    return json.dumps(
        {
            "apiVersion": "warmstart/v1alpha1",
            "name": "app",
            "container": {"image": "registry.example.com/app:1.0", "readinessProbe": {"httpGet": {"port": 8080}}},
            "image": {"name": str(name)},
        }
    )


@pytest.fixture
def layout(recipe, tmp_path):
    annotations = {**ANNOTATIONS, **write_provenance(replace(PROVENANCE, recipe=recipe))}
    return make_warm_image(tmp_path, annotations)


@pytest.fixture
def readers(name, recipe, layout, key, tmp_path):
    """Everything that reads the image before a command uses it, by the command's name."""
    signed = Trust((key.public,))
    (tmp_path / "recipe.yaml").write_text(recipe)
    source = Source(Transport.REGISTRY, name)

    def verify():
        # The layout that was pulled.
        return trust((), signed=signed, access=http())(layout, source, parse_recipe(recipe, "recipe"))

    return {
        "inspect": lambda: inspect_target(str(name), access=http(), signed=signed),
        "restore": lambda: inspect_image(source, access=http(), signed=signed),
        "deploy": lambda: read_build(str(name), access=http(), signed=signed),
        "deploy a recipe": lambda: read_build(str(tmp_path / "recipe.yaml"), access=http(), signed=signed),
        "verify": verify,
    }


def test_a_signed_image_is_read_and_a_changed_one_refused(name, layout, key, readers):
    digest = push_layout(layout, name, access=http())
    attach_signatures(name, digest, key, [], access=http())
    for read in readers.values():
        read()
    edit_annotations(layout, lambda annotations: annotations.update({"dev.warmstart.kernel": "0"}))
    push_layout(layout, name, access=http())
    for command, read in readers.items():
        with pytest.raises(SignatureError, match="no trusted key or identity signed"):
            print(command, read())


def test_another_image_of_the_same_key_is_refused(name, recipe, layout, key):
    """Whoever controls the registry serves it, with its signatures, under the name of this one."""
    other, signed = replace(name, tag="other"), Trust((key.public,))
    attach_signatures(other, push_layout(layout, other, access=http()), key, [], access=http())
    decide, parsed = trust((), signed=signed, access=http()), parse_recipe(recipe, "recipe")
    with pytest.raises(PrivilegeError) as caught:
        decide(layout, Source(Transport.REGISTRY, other), parsed)
    assert caught.value.refused == (f"image={name}",)
    assert list(map(str, read_build(str(other), access=http(), signed=signed).name)) == [f"image={name}"]
    allowed = [Privilege(Kind.IMAGE, str(name))]
    trust(allowed, signed=signed, access=http())(layout, Source(Transport.REGISTRY, other), parsed)
    by_digest = replace(name, tag=None, digest=read_image(layout).manifest.digest)
    assert decide(layout, Source(Transport.REGISTRY, by_digest), parsed).image == name
    # Without a key, a copy under another name may be looked at.
    trust(())(layout, Source(Transport.REGISTRY, other), parsed)


def test_what_is_in_no_registry_is_refused(layout, key):
    with pytest.raises(SignatureError, match="is in no registry"):
        inspect_target(str(layout), signed=Trust((key.public,)))
