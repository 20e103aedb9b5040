"""Checks between the values of a recipe, beyond its schema.

Kubernetes' own rules are those of pkg/apis/core/validation/validation.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from warmstart.core.age import parse_duration
from warmstart.core.errors import ImageReferenceError
from warmstart.core.quantity import parse_quantity
from warmstart.core.reference import parse_reference
from warmstart.core.yaml_document import Document, KeyPath, Problem, dotted
from warmstart.recipe.pods import mapping_at
from warmstart.recipe.schema import recipe_schema, validate

Finding = tuple[KeyPath, str]

PROBES = ("readinessProbe", "startupProbe")
_LEAST_AGE = timedelta(hours=1)
_NO_PROBE = (
    "has no probe that says when it is ready to be checkpointed: add one, such as readinessProbe: {httpGet: {path: /, "
    "port: 8080}, periodSeconds: 1, failureThreshold: 120}; for a container without a port, add `settled: {}` to build"
)

#: Path of the values of secrets in a recipe.
SECRETS = ("build", "secrets")


def find_problems(document: Document) -> list[Problem]:
    """Return all problems of a recipe, in its own order."""
    problems, recipe = validate(document)
    problems += document.problems
    problems += [Problem(document.place(path), path, message) for path, message in _signs_of_readiness(document.value)]
    problems += [Problem(document.place(path), path, message) for path, message in _findings(recipe)]
    problems = [_hide_secret(problem) for problem in problems]
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.place.order)


def _signs_of_readiness(recipe: Any) -> Iterator[Finding]:
    """Require a sign of readiness, and one only. A faulty probe counts: it has a message of its own."""
    container = mapping_at(recipe, "container")
    probes = [key for key in PROBES if key in container]
    is_settled = "settled" in mapping_at(recipe, "build")
    if container and not probes and not is_settled:
        yield ("container",), _NO_PROBE
    if probes and is_settled:
        yield ("build", "settled"), f"expected nothing, because container.{probes[0]} is given: delete one"


def _hide_secret(problem: Problem) -> Problem:
    """Return a problem without the value that it names, if that may be a secret."""
    if problem.path[:2] != SECRETS:
        return problem
    return replace(problem, message=problem.message.partition(", got ")[0])


def _findings(recipe: dict[str, Any]) -> Iterator[Finding]:
    for path, container in list_containers(recipe):
        yield from _repeated((*path, "ports"), container.get("ports", []), {"name": None})
        yield from _repeated((*path, "ports"), container.get("ports", []), {"containerPort": None, "protocol": "TCP"})
        yield from _unnamed_ports(recipe if path == ("container",) else {}, container, path)
        yield from _amounts(container.get("resources", {}), path)
        yield from _privileges(container.get("securityContext", {}), path)
        yield from _two_values(container, path)
    build = recipe.get("build", {})
    yield from _repeated(("volumes",), recipe.get("volumes", []), {"name": None})
    for index, service in enumerate(build.get("services", [])):
        yield from _repeated(("build", "services", index, "volumes"), service.get("volumes", []), {"name": None})
    yield from _repeated(("build", "services"), build.get("services", []), {"name": None})
    yield from _repeated(("build", "init"), build.get("init", []), {"container": None})
    yield from _secret_keys(build.get("secrets", {}))
    yield from _age(recipe.get("image", {}).get("maxAge"))
    yield from _limits(recipe.get("warmup", []))
    yield from _self_restoring(recipe)
    yield from _image_name(recipe.get("image", {}).get("name"), recipe.get("container", {}).get("image"))


def list_containers(recipe: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """List all containers of a recipe that has the right types, each with its path."""
    yield ("container",), recipe.get("container", {})
    for index, service in enumerate(recipe.get("build", {}).get("services", [])):
        container = service.get("container")
        if isinstance(container, dict):
            yield ("build", "services", index, "container"), container
    for index, container in enumerate(recipe.get("initContainers", [])):
        yield ("initContainers", index), container


def _repeated(path: KeyPath, items: list[dict[str, Any]], keys: dict[str, str | None]) -> Iterator[Finding]:
    """Items of a list that have the same values, or defaults, under all of these keys."""
    first: dict[tuple[Any, ...], int] = {}
    for index, item in enumerate(items):
        values = tuple(item.get(key, default) for key, default in keys.items())
        if None in values:
            continue
        if values in first:
            shown = "/".join(map(str, values))
            yield (
                (*path, index, next(iter(keys))),
                f"{shown} is given twice, in {path[-1]}[{first[values]}] and here: delete one",
            )
        first.setdefault(values, index)


def _two_values(container: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    for index, variable in enumerate(container.get("env", [])):
        if variable.get("value") and "valueFrom" in variable:
            yield (*path, "env", index, "valueFrom"), "expected nothing, because `value` is given: delete one"


def _secret_keys(secrets: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    known = recipe_schema()["$defs"]["dataKey"]
    for name, values in secrets.items():
        for key in values:
            if not re.fullmatch(known["pattern"], key):
                yield ("build", "secrets", name, key), f"expected {known['title']}"


def _unnamed_ports(recipe: dict[str, Any], container: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    """Ports given by a name that no port of the container has."""
    names = [port["name"] for port in container.get("ports", []) if "name" in port]
    where = dotted(path)
    known = f"{where}.ports has {', '.join(names)}" if names else f"{where}.ports names none"
    blocks: dict[KeyPath, dict[str, Any]] = {
        (*path, probe): container.get(probe, {}) for probe in ("readinessProbe", "startupProbe")
    }
    for steps in ("warmup", "beforeCheckpoint", "afterRestore"):
        found = recipe.get(steps, [])
        blocks |= {(steps, index): step for index, step in enumerate(found)} if isinstance(found, list) else {}
    for block_path, block in blocks.items():
        for action in ("httpGet", "tcpSocket"):
            port = block.get(action, {}).get("port")
            if isinstance(port, str) and port not in names:
                yield (
                    (*block_path, action, "port"),
                    f"expected an integer from 1 to 65535 or the name of a port, got {port!r}; {known}",
                )


def _limits(steps: list[dict[str, Any]]) -> Iterator[Finding]:
    """Limits of steps that are not repeated until something."""
    for index, step in enumerate(steps):
        if "limitSeconds" in step and "until" not in step:
            message = "is for a step with until: steady; timeoutSeconds bounds an attempt"
            yield ("warmup", index, "limitSeconds"), message


def _amounts(resources: dict[str, Any], path: KeyPath) -> Iterator[Finding]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name in requests.keys() & limits.keys() & {"memory", "cpu"}:
        if parse_quantity(requests[name]) > parse_quantity(limits[name]):
            yield (
                (*path, "resources", "requests", name),
                f"expected at most the limit, {limits[name]}, got {requests[name]}",
            )
    for block, amounts in (("limits", limits), ("requests", requests)):
        memory = amounts.get("memory", 0)
        if parse_quantity(memory).denominator != 1:
            yield (
                (*path, "resources", block, "memory"),
                f"expected whole bytes, got {memory}; the suffix m means thousandths, M and Mi mean millions",
            )


def _privileges(context: dict[str, Any], container: KeyPath) -> Iterator[Finding]:
    path = (*container, "securityContext")
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield (*path, "runAsUser"), "expected a user id other than 0, because runAsNonRoot is true"
    if context.get("runAsGroup") is not None and context.get("runAsUser") is None:
        # CRI wants it so (run_as_group in k8s.io/cri-api); the kubelet takes the user of the image.
        yield (*path, "runAsGroup"), "expected runAsUser as well: a runtime accepts a group only together with a user"
    if context.get("privileged") and not context.get("allowPrivilegeEscalation", True):
        yield (*path, "allowPrivilegeEscalation"), "expected true, because privileged is true"


def _age(text: str | None) -> Iterator[Finding]:
    if text is not None and parse_duration(text) < _LEAST_AGE:
        yield ("image", "maxAge"), f"expected at least 1h (the age counts from the start of the build), got {text}"


def _self_restoring(recipe: dict[str, Any]) -> Iterator[Finding]:
    named = recipe.get("restore", [])
    if named and "self" not in named:
        why = "expected nothing, because `restore` has no self: a runtime"
        for key in ("late", "onDifference"):
            if recipe.get(key):
                yield (key,), f"{why} cannot compare the variables of a pod with those of the build"
    why = "`restore` has self" if "self" in named else "`late` or `onDifference: warn` needs self"
    wanted = "self" in named or (not named and needs_self(recipe))
    if wanted and recipe.get("container", {}).get("securityContext", {}).get("privileged"):
        path: KeyPath = ("container", "securityContext", "privileged")
        yield path, f"expected false, because {why}: an image that restores itself runs without privileges"


def needs_self(recipe: Mapping[str, Any]) -> bool:
    """Tell whether a recipe asks for something that only an image does that restores itself."""
    return bool(recipe.get("late") or recipe.get("onDifference") == "warn")


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
