"""Server-side apply of manifests of any kind that the API server knows.

https://kubernetes.io/docs/reference/using-api/server-side-apply/. The server lists its kinds as an
APIResourceList (k8s.io/apimachinery, pkg/apis/meta/v1/types.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from warmstart.core.errors import ClusterError, ManifestError
from warmstart.kube.answer import Answer
from warmstart.kube.client import Cluster
from warmstart.kube.refusal import RefusedError
from warmstart.recipe.pods import mapping_at

FIELD_MANAGER = "warmstart"
# Errors for the template of a Job, and for a Pod (ValidateImmutableField in apimachinery, ValidatePodUpdate).
_IMMUTABLE = re.compile("field is immutable|may not change fields")


def apply_manifests(cluster: Cluster, manifests: list[Any], *, force: bool = False) -> Iterator[str]:
    """Apply manifests in order, and each item of a List.

    Args:
        cluster: the target.
        manifests: the documents; empty ones are skipped.
        force: whether to take over fields of another manager.

    Yields:
        The object, such as `deployment.apps/java-app`, right after it is applied.

    Raises:
        ManifestError: a document is not an object of Kubernetes.
        ClusterError: the server does not know its kind, refused, or could not be reached.
    """
    for manifest in manifests:
        if isinstance(manifest, dict) and isinstance(manifest.get("items"), list):
            yield from apply_manifests(cluster, manifest["items"], force=force)
        elif manifest is not None:
            yield _apply(cluster, manifest, force=force)


def _apply(cluster: Cluster, manifest: Any, *, force: bool) -> str:
    version, kind, name = _identify(manifest)
    resource = _find_resource(cluster, version, kind)
    path = _group_path(version)
    namespace = str(mapping_at(manifest, "metadata").get("namespace") or cluster.namespace)
    if resource.at("namespaced").flag():
        path += f"/namespaces/{quote(namespace, safe='')}"
    path += f"/{resource.at('name').name()}/{quote(name, safe='')}"
    query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
    try:
        # A patch of this type is YAML, and so may be JSON.
        cluster.request("PATCH", path, manifest, query=query, content_type="application/apply-patch+yaml")
    except RefusedError as refusal:
        if refusal.status == 409:
            refusal.hint = "with --force-conflicts, warmstart takes these fields over"
        if refusal.status == 422 and _IMMUTABLE.search(str(refusal)):
            refusal.hint = f"a {kind} cannot be changed so once it is there: delete it, and apply again"
        raise
    group = version.rpartition("/")[0]
    return f"{kind.lower()}{'.' if group else ''}{group}/{name}"


def _identify(manifest: Any) -> tuple[str, str, str]:
    """Return version, kind and name of an object."""
    named = mapping_at(manifest, "metadata").get("name")
    found = (manifest.get("apiVersion"), manifest.get("kind"), named) if isinstance(manifest, dict) else ()
    if not found or not all(found):
        raise ManifestError("cannot apply a document without apiVersion, kind or metadata.name")
    version, kind, name = map(str, found)
    return version, kind, name


def _group_path(version: str) -> str:
    """Return the path of a group and version; the core group has no name."""
    return f"/apis/{quote(version)}" if "/" in version else f"/api/{quote(version)}"


def _find_resource(cluster: Cluster, version: str, kind: str) -> Answer:
    try:
        known = cluster.request("GET", _group_path(version)).at("resources").items()
    except RefusedError as refusal:
        if refusal.status != 404:
            raise
        known = []
    for resource in known:
        if resource.at("kind").text() == kind and "/" not in resource.at("name").name():
            return resource
    raise ClusterError(f"the API server knows no {kind} of {version}")
