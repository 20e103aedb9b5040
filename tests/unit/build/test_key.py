"""The key of a build: equal if the result would be equal, and different if it could differ."""

from __future__ import annotations

import base64
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from warmstart.build import key as build_key
from warmstart.build.context import BuildOptions
from warmstart.build.key import BuildInputs, find_inputs
from warmstart.core.privileges import Kind, Privilege
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.network import Network
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Restorer

BASE = f"sha256:{1:064}"
DOCUMENT = {
    "apiVersion": "warmstart/v1alpha1",
    "name": "app",
    "container": {"image": "registry.example.com/app:1", "readinessProbe": {"httpGet": {"port": 8080}}},
    "image": {"name": "registry.example.com/app:1-warm", "labels": {"a": "1", "b": "2"}},
}
OPTIONS = BuildOptions(Path("/nonexistent/cache"))
CHANGED: dict[str, object] = {
    "secrets": "00",
    "recipe": "{}",
    "version": "0.0",
    "code": "00",
    "tools": "another",
    "launcher": "another",
    "cpu": ("avx",),
    "runtime": ("unix:///run/crio/crio.sock", "cri-o 1.36.3"),
    "network": "outside",
    "allowed": ("privileged",),
    "force": True,
    "hooks": "0123456789ab",
    "encryption": "0123456789ab",
    "images": (BASE,),
}


def find_key(path: Path, options: BuildOptions = OPTIONS, *, text: str = json.dumps(DOCUMENT), **changes: str) -> str:
    path.write_text(text)
    overrides = [f"{name.replace('_', '.')}={value}" for name, value in changes.items()]
    return find_inputs(load_recipe(path, overrides=overrides), options).key(BASE)


@pytest.fixture
def recipe(tmp_path) -> Path:
    return tmp_path / "recipe.yaml"


def test_a_key_is_a_digest_and_the_same_each_time(recipe, tmp_path):
    key = find_key(recipe)
    assert key.startswith("sha256:")
    assert key == find_key(recipe) == find_key(tmp_path / "elsewhere.yaml")


def test_order_and_layout_of_a_recipe_do_not_matter(recipe):
    turned = dict(reversed(DOCUMENT.items())) | {"image": dict(reversed(DOCUMENT["image"].items()))}
    assert find_key(recipe) == find_key(recipe, text="# a comment\n" + json.dumps(turned, indent=3))


def test_a_value_of_the_command_line_counts_as_one_of_the_file(recipe):
    renamed = DOCUMENT | {"name": "other"}
    assert find_key(recipe) != find_key(recipe, name="other") == find_key(recipe, text=json.dumps(renamed))


@pytest.mark.parametrize("name", [field.name for field in fields(BuildInputs)])
def test_each_input_changes_the_key(recipe, name):
    recipe.write_text(json.dumps(DOCUMENT))
    inputs = find_inputs(load_recipe(recipe), OPTIONS)
    assert replace(inputs, **{name: CHANGED[name]}).key(BASE) != inputs.key(BASE)


def test_the_base_image_changes_the_key(recipe):
    recipe.write_text(json.dumps(DOCUMENT))
    inputs = find_inputs(load_recipe(recipe), OPTIONS)
    assert inputs.key(BASE) != inputs.key(f"sha256:{2:064}")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": Network.OUTSIDE},
        {"allowed": (Privilege(Kind.PRIVILEGED),)},
        {"force": True},
        {"runtime_endpoint": "unix:///run/crio/crio.sock"},
    ],
)
def test_options_that_decide_the_result_change_the_key(recipe, changes):
    assert find_key(recipe) != find_key(recipe, replace(OPTIONS, **changes))


def test_other_options_do_not(recipe):
    others = replace(OPTIONS, access=RegistryAccess(("a",)), keep=True, checkpoint_timeout_s=5.0)
    assert find_key(recipe) == find_key(recipe, others)


def test_the_order_of_privileges_does_not_matter(recipe):
    one, two = Privilege(Kind.PRIVILEGED), Privilege(Kind.CAPABILITY, "SYS_ADMIN")
    assert find_key(recipe, replace(OPTIONS, allowed=(one, two))) == find_key(
        recipe, replace(OPTIONS, allowed=(two, one))
    )


def test_updated_tools_change_the_key(recipe, tmp_path):
    options = replace(OPTIONS, cache=tmp_path / "cache")
    recipe.write_text(json.dumps(DOCUMENT))
    before = find_inputs(load_recipe(recipe), options)
    (tmp_path / "cache/trees" / f"{before.tools}-20261128T200000Z").mkdir(parents=True)
    after = find_inputs(load_recipe(recipe), options)
    assert after.tools == f"{before.tools}-20261128T200000Z"


def with_secret(**values: str | None) -> str:
    container = DOCUMENT["container"] | {"envFrom": [{"secretRef": {"name": "db"}}]}
    return json.dumps(DOCUMENT | {"container": container, "build": {"secrets": {"db": values}}})


def test_a_value_of_a_secret_changes_the_key(recipe):
    first, second = (find_key(recipe, text=with_secret(password=value)) for value in ("build-only", "another"))
    assert first != second
    assert first == find_key(recipe, text=with_secret(password="build-only"))


def test_a_value_that_is_made_up_does_not(recipe):
    assert find_key(recipe, text=with_secret(password=None)) == find_key(recipe, text=with_secret(password=None))


def test_the_inputs_hold_no_value_of_a_secret(recipe):
    recipe.write_text(with_secret(password="build-only"))
    inputs = find_inputs(load_recipe(recipe), OPTIONS)
    assert inputs.secrets
    assert "build-only" not in repr(inputs)
    assert base64.b64encode(b"build-only").decode() not in repr(inputs)


def test_the_launcher_counts_only_if_it_is_in_the_image(recipe):
    recipe.write_text(json.dumps(DOCUMENT))
    plain = replace(load_recipe(recipe), restore=(Restorer.RUNTIME,))
    assert find_inputs(plain, OPTIONS).launcher == ""
    assert find_inputs(replace(plain, restore=(Restorer.SELF,)), OPTIONS).launcher.startswith("launcher-")


def test_a_changed_module_changes_the_digest_of_the_code(tmp_path, monkeypatch):
    package = tmp_path / "warmstart"
    for name in ("build/one.py", "launcher/src/main.c", "build/__pycache__/one.pyc", "py.typed"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("first")
    monkeypatch.setattr(build_key.warmstart, "__file__", str(package / "__init__.py"))

    def digest() -> str:
        return build_key.digest_code.__wrapped__()

    first = digest()
    for name in ("launcher/src/main.c", "build/__pycache__/one.pyc"):
        (package / name).write_text("second")
    assert digest() == first
    (package / "build/one.py").write_text("second")
    assert digest() != first
