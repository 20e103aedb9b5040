"""Warnings about a recipe that is right, but may not do what its user expects."""

from __future__ import annotations

from collections.abc import Iterator

from warmstart.core.yaml_document import Document, KeyPath, dotted, shown
from warmstart.recipe.checks import list_containers
from warmstart.recipe.model import Container, Recipe, Restorer, VolumeKind
from warmstart.recipe.patience import PATIENCE_S
from warmstart.recipe.secret_names import find_suspects, secret_reason
from warmstart.recipe.sources import Sources
from warmstart.recipe.variables import list_references

_OPTION = "--secret "
_PROBABLY = "is probably a secret ({}), and everyone who can pull the image can read it"


def list_warnings(document: Document, recipe: Recipe, sources: Sources) -> Iterator[str]:
    """Yield the warnings about a recipe and its document, each with its place, and about options."""
    for path, message in _findings(document, recipe, sources):
        yield f"{document.place(path).label}: {dotted(path)}: {message}" if path else message


def list_unused_options(recipe: Recipe) -> list[str]:
    """Return the warnings of a recipe about values on the command line that nothing uses."""
    return [warning for warning in recipe.warnings if warning.startswith(_OPTION)]


def list_impatient_probes(container: Container) -> Iterator[str]:
    """Yield a warning if a container's probes give up early: it may start slowly on a machine with other work."""
    probes = {"startupProbe": container.startup_probe, "readinessProbe": container.readiness_probe}
    found = {
        key: probe.initial_delay_s + probe.period_s * probe.failure_threshold for key, probe in probes.items() if probe
    }
    limit_s = sum(found.values())
    if found and limit_s < PATIENCE_S:
        message = f"the build gives up if the container is not ready after {limit_s} s"
        yield f"container.{list(found)[-1]}: {message}: set periodSeconds: 1 and failureThreshold: {PATIENCE_S}"


def _findings(document: Document, recipe: Recipe, sources: Sources) -> Iterator[tuple[KeyPath, str]]:
    block = document.value["container"]
    yield from _suspects(document)
    for name, key, reason in sources.suspects():
        yield ("build", "objects"), f"{shown(key)} of the ConfigMap {name} {_PROBABLY.format(reason)}: use a Secret"
    yield from _lasting(recipe.container)
    yield from _undefined(block, recipe.container)
    if recipe.max_age is not None and Restorer.SELF not in recipe.restore:
        yield ("image", "maxAge"), "a runtime restores the image whatever its age: `restore` has no self"
    for path, name in sources.unused():
        if path:
            yield path, "nothing in the recipe uses it"
        else:
            yield (), f"{_OPTION}{shown(name)}: nothing in the recipe uses it"


def _suspects(document: Document) -> Iterator[tuple[KeyPath, str]]:
    """Literal values of all containers that are probably secrets: the image has the recipe with all of them."""
    for path, container in list_containers(document.value):
        for suspect in find_suspects(container.get("env"), (*path, "env")):
            yield (
                suspect.path,
                f"the value of {shown(suspect.name)} {_PROBABLY.format(suspect.reason)}: use valueFrom.secretKeyRef",
            )
        for key in ("command", "args"):
            for index, word in enumerate(container.get(key, [])):
                if reason := secret_reason("", word):
                    yield (*path, key, index), f"the value {_PROBABLY.format(reason)}: use $(NAME) of a variable"


def _lasting(container: Container) -> Iterator[tuple[KeyPath, str]]:
    for name in dict.fromkeys(
        mount.volume.name for mount in container.volume_mounts if mount.volume.kind is VolumeKind.LASTING
    ):
        message = f"the build has an empty directory in place of the lasting volume {name}"
        yield ("volumes",), f"{message}, and no file on it may be open at the checkpoint"


def _undefined(block: dict[str, object], container: Container) -> Iterator[tuple[KeyPath, str]]:
    """References to variables that there are not: they stay as they are written, as in a pod."""
    known = dict(container.env)
    texts: list[tuple[KeyPath, object]] = []
    env = block.get("env")
    for index, variable in enumerate(env if isinstance(env, list) else []):
        texts.append((("container", "env", index, "value"), variable.get("value")))
    for key in ("command", "args"):
        words = block.get(key)
        texts += [
            (("container", key, index), word) for index, word in enumerate(words if isinstance(words, list) else [])
        ]
    for path, text in texts:
        for name in list_references(text) if isinstance(text, str) else ():
            if name not in known:
                yield path, f"there is no variable {shown(name)}, so that $({shown(name)}) stays as it is"
