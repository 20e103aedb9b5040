"""An application that evaluates the expressions it is asked, in an image with Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support.builds import PORT, get

from warmstart.engine.cri import CriContainer
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Recipe, SecurityContext

# Python's own module keeps no connection open.
SERVER = """
import glob, http.server, os, socket, sys, urllib.parse

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.unquote(self.path.partition('?')[2])
        try:
            status, text = 200, str(eval(query)) if query else 'ready'
        except Exception as error:
            status, text = 500, repr(error)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass

%s
http.server.HTTPServer(('0.0.0.0', 8080), Handler).serve_forever()
"""
#: As little as a pod under the restricted standard has, on a read-only root.
RESTRICTED = SecurityContext(
    run_as_user=1000,
    run_as_group=1000,
    capabilities_drop=("ALL",),
    read_only_root_filesystem=True,
    allow_privilege_escalation=False,
)
#: The images that `make images` builds.
IMAGES = Path(__file__).parents[2] / "build/images"
# The container of a service.
REDIS = {
    "image": f"oci-archive:{IMAGES / 'redis.tar'}",
    "readinessProbe": {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 1, "failureThreshold": 60},
}


def make_recipe(name: str, **more: Any) -> Recipe:
    """Return a recipe of the application; arguments as for `make_document`."""
    return parse_recipe(json.dumps(make_document(name, **more)), "test")


def make_document(
    name: str, *, begin: str = "", image: Path = IMAGES / "python.tar", **more: object
) -> dict[str, object]:
    """Return the content of a recipe of the application.

    Args:
        name: name of the image to build.
        begin: statements to run at its start.
        image: OCI archive of the base image.
        more: more top-level fields; `container` is merged.
    """
    own: dict[str, object] = {
        "image": f"oci-archive:{image}",
        "command": ["python3", "-u", "-c", SERVER % begin],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 30},
        **dict(more.pop("container", {})),
    }
    return {"apiVersion": "warmstart/v1alpha1", "name": "app", "container": own, "image": {"name": name}, **more}


def with_container(recipe: Recipe, **fields: object) -> Recipe:
    """Return the recipe with other fields of its container."""
    return replace(recipe, container=replace(recipe.container, **fields))


def path_of(expression: str) -> str:
    """Return the path of a request that evaluates an expression."""
    return f"/?{quote(expression)}"


def ask(container: CriContainer, expression: str) -> str:
    """Evaluate an expression in the application."""
    status, body = get(container, path_of(expression), timeout_s=60)
    assert status == 200, body
    return body
