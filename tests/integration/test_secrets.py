"""A build with secrets in its environment, in a file and in memory alone says where the image holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import evaluator

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.publish import Output
from warmstart.build.result import make_document
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress, SilentListener
from warmstart.core.reference import Source, Transport
from warmstart.image.layout import read_document, read_image
from warmstart.inspect.inspection import inspect_image
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe, Secret

IMAGE = "localhost/tests/secrets:1"
VALUES = {
    "shop-db.password": "Vk9-environment-2f7Q",
    "shop-db.written": "Wm3-file-8c1Rxz",
    "shop-db.kept": "Xp5-memory-4d6Tyu",
    "shop-db.unused": "Yq7-nowhere-9e2Uvw",
}
# A value that is only in memory is made there: the environment has it in reverse. The second character makes Python
# keep it in two bytes per character.
SERVER = """
import os, http.server
open("/tmp/settings", "w").write("password=" + os.environ["WRITTEN"][::-1])
kept = os.environ["KEPT"][::-1] + "\\u20ac"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if kept else 500)
        self.end_headers()
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""

pytestmark = pytest.mark.node


@pytest.fixture
def make(tree, cache, tmp_path):
    """Build an image of the server, and return its layout, the result and the progress."""

    def run(*, labels: dict[str, str] | None = None) -> tuple[Path, dict[str, object]]:
        recipe = load_server(tmp_path / "recipe.yaml")
        recipe = replace(recipe, labels=labels or {})
        progress, target = Progress(SilentListener()), tmp_path / "image"
        built = build_image(recipe, BuildOptions(cache, Output(Transport.OCI, target)), progress)
        return target, dict(make_document(built, progress))

    return run


def load_server(path: Path) -> Recipe:
    assert (evaluator.IMAGES / "python.tar").exists(), "make images"
    container = {"command": ["python3", "-c", SERVER]}
    document = evaluator.make_document(IMAGE, container=container, restore=["runtime", "self"])
    path.write_text(json.dumps(document))
    recipe = load_recipe(path)
    env = (
        ("DB_PASSWORD", VALUES["shop-db.password"]),
        ("WRITTEN", VALUES["shop-db.written"][::-1]),
        ("KEPT", VALUES["shop-db.kept"][::-1]),
    )
    secrets = tuple(Secret(name, value.encode()) for name, value in VALUES.items())
    return replace(recipe, container=replace(recipe.container, env=env), secrets=secrets)


def test_secrets_in_memory_and_files_are_named_with_their_places(make):
    layout, document = make()
    places = {one["name"]: one["places"] for one in document["secrets"]}
    assert list(places) == ["shop-db.kept", "shop-db.password", "shop-db.written"]
    assert "environment" in places["shop-db.password"]
    assert "file /tmp/settings" in places["shop-db.written"]
    assert "memory" in places["shop-db.kept"]
    assert {place for name in places for place in places[name]} <= {
        *("memory", "checkpoint", "environment", "file /tmp/settings")
    }
    (warning,) = document["warnings"]
    assert warning.startswith("the image holds build-only secrets: shop-db.kept (")
    assert warning.count("shop-db.") == 3
    image = read_image(layout)
    texts = [
        json.dumps(document),
        *(read_document(layout, one).decode() for one in (image.manifest.descriptor, image.manifest.config)),
    ]
    assert [value for value in VALUES.values() for text in texts if value in text] == []
    facts = inspect_image(Source(Transport.OCI, path=layout)).image
    assert facts is not None
    assert [(one.name, list(one.places)) for one in facts.secrets or ()] == list(places.items())


def test_a_secret_in_a_label_ends_the_build(make, tmp_path):
    with pytest.raises(ImageError, match=r"would be published with the image: shop-db\.password"):
        make(labels={"owner": VALUES["shop-db.password"]})
    assert not (tmp_path / "image").exists()


MOUNTED = """
import os, http.server
open("/tmp/settings", "w").write("password=" + os.environ["WRITTEN"])
kept = open("/etc/shop-db/kept").read() + "\\u20ac"
http.server.HTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_secrets_of_a_recipe_are_named_and_blanked(tree, cache, tmp_path):
    """One is a variable, one a file on a mount, which the image does not contain, and one was made up."""
    document = evaluator.make_document(
        IMAGE,
        container={
            "command": ["python3", "-c", MOUNTED],
            "workingDir": "/tmp",
            "env": [
                {"name": name, "valueFrom": {"secretKeyRef": {"name": "shop-db", "key": key}}}
                for name, key in (("WRITTEN", "written"), ("RANDOM", "random"))
            ],
            "volumeMounts": [{"name": "binding", "mountPath": "/etc/shop-db", "readOnly": True}],
        },
        volumes=[{"name": "binding", "secret": {"secretName": "shop-db", "items": [{"key": "kept", "path": "kept"}]}}],
        build={
            "secrets": {
                "shop-db": {"written": VALUES["shop-db.written"], "kept": VALUES["shop-db.kept"], "random": None}
            }
        },
        restore=["runtime"],
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    recipe, progress = load_recipe(tmp_path / "recipe.yaml"), Progress(SilentListener())
    built = build_image(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")), progress)
    places = {one.name: one.places for one in built.secrets.record}
    assert list(places) == ["shop-db.kept", "shop-db.random", "shop-db.written"]
    assert "memory" in places["shop-db.kept"]
    assert "environment" not in places["shop-db.kept"]
    assert "environment" in places["shop-db.random"]
    assert "file /tmp/settings" in places["shop-db.written"]
    image = read_image(tmp_path / "image")
    for one in (image.manifest.descriptor, image.manifest.config):
        text = read_document(tmp_path / "image", one)
        assert [secret.name for secret in recipe.secrets if secret.value in text] == []
