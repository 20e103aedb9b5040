"""Checks between the values of a recipe, beyond its schema.

Kubernetes' own rules are those of pkg/apis/core/validation/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from warmstart.core.errors import ImageReferenceError
from warmstart.core.quantity import parse_quantity
from warmstart.core.reference import parse_reference
from warmstart.core.yaml_document import Document, KeyPath, Problem
from warmstart.recipe.schema import validate

Finding = tuple[KeyPath, str]


def find_problems(document: Document) -> list[Problem]:
    """Return all problems of a recipe, in its own order."""
    problems, recipe = validate(document)
    problems += document.problems
    problems += [Problem(document.place(path), path, message) for path, message in _findings(recipe)]
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.place.order)


def _findings(recipe: dict[str, Any]) -> Iterator[Finding]:
    container = recipe.get("container", {})
    yield from _repeated("env", container, {"name": None})
    yield from _repeated("ports", container, {"name": None})
    yield from _repeated("ports", container, {"containerPort": None, "protocol": "TCP"})
    yield from _unnamed_ports(recipe, container)
    yield from _amounts(container.get("resources", {}))
    yield from _privileges(container.get("securityContext", {}))
    yield from _self_restoring(recipe)
    yield from _image_name(recipe.get("image", {}).get("name"), container.get("image"))


def _repeated(block: str, container: dict[str, Any], keys: dict[str, str | None]) -> Iterator[Finding]:
    """Items of a list that have the same values, or defaults, under all of these keys."""
    first: dict[tuple[Any, ...], int] = {}
    for index, item in enumerate(container.get(block, [])):
        values = tuple(item.get(key, default) for key, default in keys.items())
        if None in values:
            continue
        if values in first:
            shown = "/".join(map(str, values))
            yield (
                ("container", block, index, next(iter(keys))),
                f"{shown} is given twice, in {block}[{first[values]}] and here: delete one",
            )
        first.setdefault(values, index)


def _unnamed_ports(recipe: dict[str, Any], container: dict[str, Any]) -> Iterator[Finding]:
    """Ports given by a name that no port of the container has."""
    names = [port["name"] for port in container.get("ports", []) if "name" in port]
    known = f"container.ports has {', '.join(names)}" if names else "container.ports names none"
    blocks: dict[KeyPath, dict[str, Any]] = {
        ("container", probe): container.get(probe, {}) for probe in ("readinessProbe", "startupProbe")
    }
    for steps in ("warmup", "beforeCheckpoint"):
        blocks |= {(steps, index): step for index, step in enumerate(recipe.get(steps, []))}
    for path, block in blocks.items():
        for action in ("httpGet", "tcpSocket"):
            port = block.get(action, {}).get("port")
            if isinstance(port, str) and port not in names:
                yield (
                    (*path, action, "port"),
                    f"expected an integer from 1 to 65535 or the name of a port, got {port!r}; {known}",
                )


def _amounts(resources: dict[str, Any]) -> Iterator[Finding]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name in requests.keys() & limits.keys() & {"memory", "cpu"}:
        if parse_quantity(requests[name]) > parse_quantity(limits[name]):
            yield (
                ("container", "resources", "requests", name),
                f"expected at most the limit, {limits[name]}, got {requests[name]}",
            )
    for block, amounts in (("limits", limits), ("requests", requests)):
        memory = amounts.get("memory", 0)
        if parse_quantity(memory).denominator != 1:
            yield (
                ("container", "resources", block, "memory"),
                f"expected whole bytes, got {memory}; the suffix m means thousandths, M and Mi mean millions",
            )


def _privileges(context: dict[str, Any]) -> Iterator[Finding]:
    path: KeyPath = ("container", "securityContext")
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield (*path, "runAsUser"), "expected a user id other than 0, because runAsNonRoot is true"
    if context.get("runAsGroup") is not None and context.get("runAsUser") is None:
        # CRI wants it so (run_as_group in k8s.io/cri-api); the kubelet takes the user of the image.
        yield (*path, "runAsGroup"), "expected runAsUser as well: a runtime accepts a group only together with a user"
    if context.get("privileged") and not context.get("allowPrivilegeEscalation", True):
        yield (*path, "allowPrivilegeEscalation"), "expected true, because privileged is true"


def _self_restoring(recipe: dict[str, Any]) -> Iterator[Finding]:
    by_itself = "self" in recipe.get("restore", [])
    if recipe.get("afterRestore", {}).get("signal") and not by_itself:
        yield ("afterRestore", "signal"), "expected nothing, because `restore` has no self: a runtime sends no signal"
    if by_itself and recipe.get("container", {}).get("securityContext", {}).get("privileged"):
        path: KeyPath = ("container", "securityContext", "privileged")
        yield path, "expected false, because `restore` has self: an image that restores itself runs without privileges"


def _image_name(made: str | None, base: str | None) -> Iterator[Finding]:
    try:
        parse_reference(made or "any")
    except ImageReferenceError as error:
        yield ("image", "name"), f"expected the name of an image: {error.brief}"
    if made and base and with_tag(made) == with_tag(without_transport(base)):
        yield ("image", "name"), "expected a name other than that of container.image, which it would replace"


def with_tag(name: str) -> str:
    """Return the image name with its tag; `latest` if it has none."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def without_transport(name: str) -> str:
    """The image name without the transport that may come before it; files of images are left as they are."""
    return re.sub(r"^(docker://|containers-storage:|docker-daemon:)", "", name)
