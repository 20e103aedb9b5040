"""Write a first recipe from the configuration of an image, or from a container of a Kubernetes manifest.

Fields of the container that a recipe cannot have are found by checking the recipe. They are left out, and the message
of the check becomes a comment.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.core.errors import ImageReferenceError, InputError, ManifestError, input_errors_as
from warmstart.core.yaml_document import (
    Document,
    KeyPath,
    Place,
    Problem,
    plain_value,
    shown,
    summarize,
)
from warmstart.core.yaml_writing import write_yaml
from warmstart.recipe.checks import find_problems, with_tag, without_transport
from warmstart.recipe.load import SCHEMA_HINT, STDIN, read_input
from warmstart.recipe.pods import (
    PodContainer,
    choose_container,
    find_containers,
    manifest_error,
    mapping_at,
    read_manifest,
)
from warmstart.recipe.schema import IGNORED, schema_at

Block = dict[str, Any]

_IN_A_FILE = ("oci", "oci-archive", "docker-archive")
# Where an image is to go whose base is in no registry.
_SOME_REGISTRY = "registry.example.com"
_TO_BE_NAMED = "TODO: name the registry that the image is pushed to, and that the nodes pull it from."

# What a pod has beside its containers that makes a restored container behave otherwise than the one that was built.
_POD_NOTES = {
    "initContainers": "they do not run before a build; the base image must contain their results",
    "hostNetwork": "the build has a network of its own, and the restored container must have one too",
    "hostPID": "the build has process ids of its own, and the restored container must have them too",
    "hostIPC": "the build has System V IPC of its own, and the restored container must have it too",
    "shareProcessNamespace": "the build has process ids of its own, and the restored container must have them too",
}
_ACCOUNT_NOTE = (
    "automountServiceAccountToken: set it to false in the pod, since the build has no such mount and the restored "
    "container would not see it"
)

_STEPS = """
# Steps that warm up the application before the checkpoint:
# warmup:
#   - httpGet: {path: /, port: 8080}
#     repeat: 100

# Last steps, for example to free memory that would only make the image larger:
# beforeCheckpoint:
#   - exec: {command: [jcmd, $(APP_PID), GC.run]}

"""


@dataclass(frozen=True)
class ImageConfig:
    """The configuration of an image for its container (OCI image-spec, config.md).

    `exposed_ports` are of the form `8080/tcp` or `8080`, `env` of the form `NAME=value`.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""


def init_from_image(image: str, config: ImageConfig) -> str:
    """The text of a commented recipe for an image.

    Raises:
        ImageReferenceError: `image` is not an image reference.
    """
    command = shlex.join((*config.entrypoint, *config.cmd))
    about = [f"The image runs: {shown(command, 400)}" if command else "The image has no command of its own: give one."]
    if config.user:
        about.append(f"It runs as the user {shown(config.user)}; securityContext.runAsUser replaces it.")
    if config.env:
        names = (variable.partition("=")[0] for variable in config.env)
        about.append(f"It sets {shown(', '.join(names), 400)}; env adds to these and replaces them.")
    container = {"image": image, "ports": [_port(text) for text in config.exposed_ports]}
    return _write(_Draft(_short_name(image), container, subject=shown(image), kind=ImageReferenceError, about=about))


def _short_name(image: str) -> str:
    """Return the image's name without registry and tag, or the name of its file."""
    path = Path(image.partition(":")[2].partition(":")[0])
    name = _own_name(image) or path.name.removesuffix(".gz").removesuffix(".tar")
    return with_tag(name.partition("@")[0]).rpartition(":")[0].rpartition("/")[2]


def _own_name(image: str) -> str:
    """The image's own name, without a transport; empty for the only image of a file."""
    if image.partition(":")[0] in _IN_A_FILE:
        return "".join(image.split(":", 2)[2:])
    return without_transport(image)


def init_from_manifest(path: Path, *, container: str | None = None) -> str:
    """Return a commented recipe for a container of a Kubernetes manifest.

    Args:
        path: the YAML file, or `-`; it may hold several documents, and objects of any kind that has a pod template.
        container: the container's name, as for `choose_container`; needed if there are several.

    Raises:
        ManifestError: the file cannot be read, has no such container, or several with that name.
    """
    name = "<stdin>" if path == STDIN else str(path)
    with input_errors_as(ManifestError):
        data = read_input(path)
    documents = read_manifest(data, name)
    found = [(one, document) for document in documents for one in find_containers(document.value)]
    chosen = choose_container([one for one, _ in found], container, name)
    problems = next(document.problems for one, document in found if one is chosen)
    if problems:
        raise manifest_error(name, problems)
    draft = _Draft(
        chosen.owner,
        chosen.block | {"securityContext": _security_context(chosen)},
        subject=f"{shown(chosen.kind)}/{shown(chosen.owner)} in {name}",
        kind=ManifestError,
        notes=list(_pod_notes(chosen)),
        liveness=chosen.block.get("livenessProbe"),
    )
    return _write(draft)


@dataclass
class _Draft:
    """A recipe in the making: its container, and its comments.

    `liveness` is a probe to fall back on, and `kind` the error if no recipe can be made.
    """

    name: str
    container: Block
    subject: str
    kind: type[InputError]
    about: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    liveness: Any = None
    probe_note: str = ""


def _security_context(chosen: PodContainer) -> Any:
    """The container's own security context, completed with the pod's as Kubernetes does."""
    own = chosen.block.get("securityContext") or {}
    pod = dict(mapping_at(chosen.pod, "securityContext"))
    if not isinstance(own, dict):
        return own
    groups = pod.get("supplementalGroups") or []
    if isinstance(group := pod.pop("fsGroup", None), int) and isinstance(groups, list) and group not in groups:
        pod["supplementalGroups"] = [*groups, group]
    return {**pod, **own}


def _pod_notes(chosen: PodContainer) -> Iterator[str]:
    others = [
        shown(str(mapping_at(block).get("name", ""))) for block in chosen.pod["containers"] if block is not chosen.block
    ]
    if others:
        yield f"other containers ({', '.join(others)}): they do not run during a build"
    for key, note in _POD_NOTES.items():
        if chosen.pod.get(key):
            yield f"{key}: {note}"
    if chosen.pod.get("automountServiceAccountToken") is not False:
        yield _ACCOUNT_NOTE


def _port(text: str) -> Block:
    number, _, protocol = text.partition("/")
    return {"containerPort": plain_value(number), "protocol": (protocol or "tcp").upper()}


def _write(draft: _Draft) -> str:
    """Return the text of the recipe, without fields of its container that are not accepted."""
    recipe: Block = {
        "apiVersion": (schema_at(("apiVersion",)) or {})["const"],
        "name": re.sub(r"[^a-z0-9]+", "-", draft.name.lower()).strip("-")[:63].rstrip("-") or "app",
        "container": _tidied(draft.container, ("container",)),
        "image": {},
    }
    recipe["image"]["name"] = _warm_name(str(draft.container.get("image")), recipe["name"])
    while True:
        _ensure_probe(recipe["container"], draft)
        problems = [*find_problems(Document(recipe, {(): Place("", 0)})), *_references(recipe["container"])]
        if not problems:
            return _text(recipe, draft)
        recipe = _pruned(recipe, _left_out(recipe, problems, draft), ())
        draft.notes += [str(problem) for problem in problems]


def _references(container: Block) -> Iterator[Problem]:
    """References to objects that the recipe does not have, as problems."""
    whys = {
        "valueFrom": "There is no cluster to ask for the value during a build, and a restored container keeps "
        "the value of the build.",
        "envFrom": "There is no ConfigMap or Secret to read during a build.",
        "volumeMounts": "The build has no volumes, and a pod must have the mounts of the build to be restored.",
    }
    env = container.get("env")
    found: list[KeyPath] = [("container", key) for key in ("envFrom", "volumeMounts") if key in container]
    for index, variable in enumerate(env if isinstance(env, list) else []):
        if isinstance(variable, dict) and "valueFrom" in variable:
            found.append(("container", "env", index, "valueFrom"))
    for path in found:
        why = whys[str(path[-1])]
        yield Problem(Place("", 0), path, f"not accepted: {why[0].lower()}{why[1:]}")


def _tidied(value: Any, path: KeyPath) -> Any:
    """Return the value in the order of the schema, without parts that are empty, ignored, or constant."""
    if isinstance(value, list):
        return [_tidied(item, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    order = [*(schema_at(path) or {}).get("properties", {})]
    rank = {key: order.index(key) if key in order else len(order) for key in value}
    tidied = {key: _tidied(value[key], (*path, key)) for key in sorted(value, key=rank.__getitem__)}
    return {key: item for key, item in tidied.items() if not _says_nothing(item, (*path, key))}


def _says_nothing(value: Any, path: KeyPath) -> bool:
    schema = schema_at(path) or {}
    only_choice = "const" in schema and bool(value == schema["const"])
    return value in (None, {}, []) or schema.get("$ref") == IGNORED or only_choice


def _ensure_probe(container: Block, draft: _Draft) -> None:
    if "readinessProbe" in container or "startupProbe" in container:
        return
    if draft.liveness:
        container["readinessProbe"] = _tidied(draft.liveness, ("container", "readinessProbe"))
        draft.liveness = None
        draft.probe_note = "It has no readiness probe; its liveness probe is used instead."
        return
    ports = [port["containerPort"] for port in container.get("ports", []) if _is_tcp(port)]
    container["readinessProbe"] = {
        "tcpSocket": {"port": ports[0] if ports else 8080},
        "periodSeconds": 1,
        "failureThreshold": 120,
    }
    draft.probe_note = (
        "TODO: an open port does not prove that the application is ready; use httpGet, grpc or exec instead of "
        "tcpSocket." + ("" if ports else " The port is unknown; 8080 is a guess.")
    )


def _is_tcp(port: Any) -> bool:
    number = port.get("containerPort") if isinstance(port, dict) else None
    return isinstance(number, int) and 0 < number < 65536 and port.get("protocol", "TCP") == "TCP"


def _warm_name(image: str, fallback: str) -> str:
    """Return a name for the new image: that of the base image, if it has one, with a tag of its own.

    An image that is only on this machine gets a placeholder for the registry.
    """
    name = _own_name(image).partition("@")[0]
    repository, _, tag = with_tag(name).rpartition(":")
    warm = f"{repository}:{tag[:123]}-warm" if name.endswith(f":{tag}") else f"{repository}:warm"
    if not re.search((schema_at(("image", "name")) or {})["pattern"], warm):
        return f"{_SOME_REGISTRY}/{fallback}:warm"
    return re.sub(r"^localhost/", f"{_SOME_REGISTRY}/", warm)


def _left_out(recipe: Block, problems: list[Problem], draft: _Draft) -> set[KeyPath]:
    """Return the paths to take out of a recipe because of its problems.

    Raises:
        InputError: nothing would be left of the recipe; of the draft's kind.
    """
    culprits = {problem: _culprit(recipe, problem.path) for problem in problems}
    fatal = [problem for problem, path in culprits.items() if len(path) < 2 or path == ("container", "image")]
    if fatal:
        brief, details = summarize(draft.subject, fatal)
        raise draft.kind(brief, details=details, hint=SCHEMA_HINT)
    return set(culprits.values())


def _culprit(value: Any, path: KeyPath) -> KeyPath:
    """Return the part of a value to take out because of a problem at a path.

    An item of a list goes as a whole: a variable without its value would be another variable. If a field is missing,
    its parent goes.
    """
    found: KeyPath = ()
    for key in path:
        if isinstance(value, dict) and key not in value:
            break
        value = value[key]
        found = (*found, key)
        if isinstance(key, int):
            break
    return found


def _pruned(value: Any, culprits: set[KeyPath], path: KeyPath) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if (*path, key) not in culprits}
        return {key: _pruned(item, culprits, (*path, key)) for key, item in kept.items()}
    if isinstance(value, list):
        kept_items = [(index, item) for index, item in enumerate(value) if (*path, index) not in culprits]
        return [_pruned(item, culprits, (*path, index)) for index, item in kept_items]
    return value


def _text(recipe: Block, draft: _Draft) -> str:
    left_out = [_comment(note, bullet="- ") for note in draft.notes]
    is_made_up = _SOME_REGISTRY in recipe["image"]["name"] and _SOME_REGISTRY not in recipe["container"]["image"]
    sections = [
        _comment(f"A recipe for warmstart, made from {draft.subject}."),
        _comment("`warmstart schema` prints the keys of a recipe."),
        write_yaml({key: recipe[key] for key in ("apiVersion", "name")}),
        "\n",
        *(_comment(line) for line in (*draft.about, draft.probe_note)),
        write_yaml({"container": recipe["container"]}),
        *(["\n# Left out, or worth knowing when the image is deployed:\n"] if left_out else []),
        *left_out,
        _STEPS,
        *([_comment(_TO_BE_NAMED)] if is_made_up else []),
        write_yaml({"image": recipe["image"]}),
    ]
    return "".join(sections)


def _comment(text: str, bullet: str = "") -> str:
    indent = " " * len(bullet)
    lines = textwrap.wrap(
        text, 100, initial_indent=bullet, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"# {line}\n" for line in lines)
