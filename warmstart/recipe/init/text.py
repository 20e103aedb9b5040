"""The text of a first recipe: YAML with comments."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass

from warmstart.core.yaml_writing import write_yaml
from warmstart.recipe.init.draft import CheckedDraft, Draft, check_draft
from warmstart.recipe.init.names import NAME_TO_DO, SOME_REGISTRY, is_placeholder

_STEPS = """
# Steps that warm up the application before the checkpoint:
# warmup:
#   - httpGet: {path: /, port: 8080}
#     repeat: 100

# Last steps, for example to free memory that would only make the image larger:
# beforeCheckpoint:
#   - httpGet: {path: /collect, port: 8080}
# For a JVM, if its image has jattach or jcmd:
# prepare: java

"""
_STANDS = "TODO: this recipe cannot be built, or its application will not start, as it stands:"
_FROZEN = (
    "These variables have other values in your pods. They are frozen: a restored container has those of the build, and "
    "an image that restores itself starts cold instead. Name those that your application reads again after a restore:"
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_POD_PARTS = ("container", "volumes", "securityContext", "initContainers")


@dataclass(frozen=True)
class Proposal:
    """A first recipe.

    Attributes:
        text: the recipe, with comments.
        to_do: reasons why it cannot be built, or its application will not start, as it stands.
        notes: parts that are left out, and other remarks.
        stanzas: the services that it proposes in a comment, as items of `build.services`; unfinished if they say TODO.
    """

    text: str
    to_do: tuple[str, ...]
    notes: tuple[str, ...]
    stanzas: tuple[str, ...] = ()


def propose(draft: Draft) -> Proposal:
    """Write the recipe of a draft.

    Raises:
        InputError: no recipe can be made; of the draft's kind.
    """
    checked = check_draft(draft)
    to_do = (*_open_ends(draft, checked), *draft.to_do)
    notes = tuple(dict.fromkeys((*checked.notes, *draft.notes)))
    return Proposal(_write(draft, checked, to_do, notes), to_do, notes, tuple(draft.stanzas))


def _open_ends(draft: Draft, checked: CheckedDraft) -> list[str]:
    found = []
    image = draft.container.get("image")
    if checked.unnamed:
        given = f"the manifest has {image!r}" if image else "the manifest has none"
        found.append(f"name the base image in container.image; {given}")
    elif isinstance(image, str) and is_placeholder(image):
        found.append(f"container.image, {image}, looks like a placeholder: name the real image")
    if checked.probes.example:
        found.append("there is no probe, and no port is known to guess one from: give a readinessProbe")
    return found


def _write(draft: Draft, checked: CheckedDraft, to_do: tuple[str, ...], notes: tuple[str, ...]) -> str:
    recipe = checked.recipe
    pod = {key: recipe[key] for key in _POD_PARTS if key in recipe}
    build = recipe.get("build")
    made_up = SOME_REGISTRY in recipe["image"]["name"] and SOME_REGISTRY not in str(draft.container.get("image"))
    sections = [
        comment(f"A recipe for warmstart, made from {draft.subject}."),
        comment("`warmstart schema` prints the keys of a recipe."),
        *(["#\n", comment(_STANDS), *(comment(text, bullet="- ") for text in to_do)] if to_do else []),
        write_yaml({key: recipe[key] for key in ("apiVersion", "name")}),
        "\n",
        *(comment(line) for line in (*draft.about, *checked.probes.notes)),
        "".join(f"#   {line}\n" for line in checked.probes.example),
        _write_pod(pod, unnamed=checked.unnamed),
        *(["\n# Stand-ins of the build for the cluster:\n", write_yaml({"build": build})] if build else []),
        *(["\n# Services to add:\n# build:\n#   services:\n", *map(commented, draft.stanzas)] if draft.stanzas else []),
        *(["\n", comment(_FROZEN), f"# late: [{', '.join(map(_in_flow, draft.late))}]\n"] if draft.late else []),
        *(["\n# Left out, or worth knowing when the image is deployed:\n"] if notes else []),
        *(comment(note, bullet="- ") for note in notes),
        _STEPS,
        *([comment(NAME_TO_DO)] if made_up else []),
        write_yaml({"image": recipe["image"]}),
    ]
    return "".join(sections)


def _write_pod(pod: dict[str, object], *, unnamed: bool) -> str:
    text = write_yaml(pod)
    if not unnamed:
        return text
    first, _, rest = text.partition("\n")
    _, _, others = rest.partition("\n")
    empty = not others.startswith("  ")
    return f"{first}{' {}' if empty else ''}\n  # image: TODO\n{others}"


def _in_flow(name: str) -> str:
    """Return a name for a list in brackets. A manifest may have any text in its place."""
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def comment(text: str, bullet: str = "") -> str:
    """Return a text as the lines of a comment."""
    indent = " " * len(bullet)
    lines = textwrap.wrap(
        text, 100, initial_indent=bullet, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"# {line}\n" for line in lines)


def commented(text: str) -> str:
    """Return lines of YAML as a comment."""
    return "".join(f"# {line}\n" for line in text.splitlines())
