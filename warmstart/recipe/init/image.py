"""A first recipe from the configuration of an image."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from warmstart.core.errors import ImageReferenceError
from warmstart.core.yaml_document import plain_value, shown
from warmstart.recipe.init.draft import Draft
from warmstart.recipe.init.names import is_image, short_name
from warmstart.recipe.init.probes import exposed_hints
from warmstart.recipe.init.text import Proposal, propose
from warmstart.recipe.load import SCHEMA_HINT
from warmstart.recipe.pods import Block


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
    """The text of a commented recipe for an image; errors as for `propose_from_image`."""
    return propose_from_image(image, config).text


def propose_from_image(image: str, config: ImageConfig) -> Proposal:
    """Make a first recipe for an image.

    Raises:
        ImageReferenceError: `image` is not an image reference.
    """
    if not is_image(image):
        raise ImageReferenceError(f"{shown(image)} is not the name of an image", hint=SCHEMA_HINT)
    command = shlex.join((*config.entrypoint, *config.cmd))
    about = [f"The image runs: {shown(command, 400)}" if command else "The image has no command of its own: give one."]
    if config.user:
        about.append(f"It runs as the user {shown(config.user)}; securityContext.runAsUser replaces it.")
    if config.env:
        names = (variable.partition("=")[0] for variable in config.env)
        about.append(f"It sets {shown(', '.join(names), 400)}; env adds to these and replaces them.")
    draft = Draft(
        short_name(image),
        shown(image),
        ImageReferenceError,
        {"image": image, "ports": [_port(text) for text in config.exposed_ports]},
        exposed_hints(config.exposed_ports),
        about=about,
    )
    return propose(draft)


def _port(text: str) -> Block:
    number, _, protocol = text.partition("/")
    return {"containerPort": plain_value(number), "protocol": (protocol or "tcp").upper()}
