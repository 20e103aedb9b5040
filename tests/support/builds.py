"""Build images of the server in server.c, and inspect the containers that run them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from warmstart.build.context import BuildOptions
from warmstart.build.pipeline import build_image
from warmstart.build.result import BuildResult
from warmstart.core.progress import Progress, ProgressListener, SilentListener
from warmstart.core.reference import parse_reference
from warmstart.engine.cri import CriContainer
from warmstart.image.manifest import Manifest
from warmstart.image.registry.client import delete_manifest, exists, read_manifest
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.node.cgroup import find_hierarchies
from warmstart.recipe.load import load_recipe

USER, PASSWORD = "builder", "correct horse"
# bcrypt of PASSWORD
PASSWORD_HASH = "$2b$04$t9ytzW2nXpsGg4lTHcf2F.OYMh5/6HQnlzHbKwuz5/kse3bYBulD."
PORT = 8080
READY = {"httpGet": {"path": "/ready", "port": PORT}, "periodSeconds": 1, "failureThreshold": 30}
STATE = {"httpGet": {"path": "/state", "port": PORT}}


@dataclass(frozen=True)
class PrivateRegistry:
    """A registry with plain HTTP that requires a password; `auth_file` contains it."""

    host: str
    auth_file: Path

    def name(self, repository: str) -> str:
        """Return the full name of an image in this registry."""
        return f"{self.host}/{repository}"

    def has(self, name: str) -> bool:
        """Return whether the registry has the image."""
        return exists(parse_reference(name), access=RegistryAccess((self.host,), self.auth_file))

    def list_images(self) -> set[str]:
        """List all tagged images, as REPOSITORY:TAG."""
        found = set()
        for repository in self._get("_catalog")["repositories"]:
            # The catalog lists repositories without manifests, and the tag list fails for them.
            tags = self._get(f"{repository}/tags/list").get("tags") or []
            # Tags of this form are lists of referrers, not images.
            found |= {f"{repository}:{tag}" for tag in tags if not tag.startswith("sha256-")}
        return found

    def remove_whole(self, image: str) -> None:
        """Remove the image REPOSITORY:TAG if the registry has it with all its blobs."""
        if image in self.list_images():
            manifest, name = self.read(self.name(image)), parse_reference(self.name(image))
            blobs = [f"{name.repository}/blobs/{blob.digest}" for blob in manifest.blobs]
            if all(self._request("HEAD", blob).status_code == 200 for blob in blobs):
                delete_manifest(name, manifest.digest, access=RegistryAccess((self.host,), self.auth_file))

    def _get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._request("GET", path).json()
        return answer

    def _request(self, method: str, path: str) -> requests.Response:
        return requests.request(method, f"http://{self.host}/v2/{path}", auth=(USER, PASSWORD), timeout=10)

    def read(self, name: str) -> Manifest:
        """Read the manifest of an image."""
        return read_manifest(parse_reference(name), access=RegistryAccess((self.host,), self.auth_file))


def write_recipe(
    path: Path,
    image: str | Path,
    name: str,
    container: Mapping[str, object] | None = None,
    lazy: str = "none",
    **more: object,
) -> Path:
    """Write a recipe for the image `name` from the server's image; without `restore`, the runtime alone restores it.

    Args:
        path: recipe file.
        image: base image, or the path of its OCI archive.
        name: name of the built image.
        container: additional fields of the container.
        lazy: format for lazy pulling.
        more: additional top-level fields.
    """
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "server",
        "container": {
            "image": f"oci-archive:{image}" if isinstance(image, Path) else image,
            "ports": [{"containerPort": PORT}],
            "readinessProbe": READY,
            **(container or {}),
        },
        "restore": ["runtime"],
        "image": {"name": name, "lazy": lazy},
        **more,
    }
    # JSON is YAML. A field that is None is left out.
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


def build(
    recipe: Path, options: BuildOptions, listener: ProgressListener | None = None
) -> tuple[BuildResult, Progress]:
    """Build the image, like `warmstart build`."""
    steps = Progress(listener or SilentListener())
    return build_image(load_recipe(recipe), options, steps), steps


def get(container: CriContainer, path: str, timeout_s: float = 5) -> tuple[int, str]:
    """Return the status and the body of the server's response."""
    with container.connect(PORT, None, timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def read_state(container: CriContainer) -> dict[str, object]:
    """Return the random id of the server and the number of its requests."""
    state: dict[str, object] = json.loads(get(container, "/state")[1])
    return state


def read_limit(process: Path, v1: str, v2: str) -> str:
    """Read a limit of the cgroup of the process /proc/PID, from the file CONTROLLER.NAME of cgroup v1 or v2."""
    mounts, membership = Path("/proc/self/mountinfo").read_text(), (process / "cgroup").read_text()
    for hierarchy in find_hierarchies(mounts, membership):
        name = v2 if hierarchy.is_v2 else v1
        if (hierarchy.own / name).exists():
            return (hierarchy.own / name).read_text().strip()
    raise FileNotFoundError(f"{v1} or {v2} of {membership}")


def find_process(comm: str, mark: str) -> Path:
    """Return /proc/PID of the process with this name and with `mark` in its environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == f"{comm}\n" and mark.encode() in (process / "environ").read_bytes():
                return process
        except OSError:
            # The process has just ended.
            continue
    raise LookupError(f"no process {comm} with {mark}")
