"""An image that warmstart built earlier: pulled, and judged before any of it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import ImageError, RecipeError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source
from warmstart.dump.state.document import parse_state
from warmstart.dump.state.model import KernelState
from warmstart.engine.local import find_access
from warmstart.image.annotations import PREFIX, STATE, Provenance, read_provenance
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.skopeo import copy_image
from warmstart.node.session import Session
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Container, Recipe, Restorer, Secret, is_late
from warmstart.recipe.warnings import list_unused_options

#: Decides on a pulled image, before any of it runs: given its layout, its source, and the recipe that it claims,
#: returns the recipe to run it by. Raises PrivilegeError for an image that asks for more than its user allows.
Decide = Callable[[Path, Source, Recipe], Recipe]


@dataclass(frozen=True)
class WarmImage:
    """A pulled image.

    Attributes:
        source: where it was.
        layout: an OCI layout in the workspace.
        provenance: how it was built.
        recipe: the recipe to run it by.
        restorers: who restores it, by its own recipe.
        state: the kernel state before its checkpoint; empty if the image has none.
    """

    source: Source
    layout: Path
    provenance: Provenance
    recipe: Recipe
    restorers: tuple[Restorer, ...]
    state: KernelState

    @property
    def name(self) -> str:
        """The name to import it by: a checkpoint names its own image."""
        return str(self.source.reference or self.recipe.image)


def make_absolute(source: Source) -> Source:
    """Return the source with an absolute path, because the node's programs do not run in the current directory."""
    return source if source.path is None else replace(source, path=source.path.absolute())


def pull_warm_image(
    session: Session,
    source: Source,
    access: RegistryAccess,
    progress: Progress,
    *,
    decide: Decide,
    secrets: Sequence[str] = (),
) -> WarmImage:
    """Pull an image, and decide by which recipe it may run.

    Args:
        session: the node, which sees the files of `source`.
        source: the image; a path must be absolute.
        access: registries without TLS, and the credentials file.
        progress: progress reporter.
        decide: decides whether it may run, and by which recipe.
        secrets: files with the build's values of Secrets, as NAME.KEY=FILE.

    Raises:
        ImageError: the image does not exist, or was not built by warmstart.
        PrivilegeError: the image asks for privileges that the user does not grant.
        RecipeError: the value of a secret is missing, or its file cannot be read.
    """
    layout = session.workspace / "layout"
    skopeo_access = find_access(session, source, access)
    with progress.step("pull"):
        copy_image(session, str(source), f"oci:{layout}", access=skopeo_access, on_line=progress.note)
    image = read_image(layout)
    check_platform(image.config.platform, str(source))
    provenance = read_provenance(image.manifest.annotations)
    if provenance is None:
        raise ImageError(f"{source} was not built by warmstart: it has no build record")
    claimed = parse_recipe(provenance.recipe, f"the recipe in {source}", secrets=secrets)
    recipe = decide(layout, source, claimed)
    for warning in list_unused_options(recipe):
        progress.warn(warning)
    require_secrets(recipe, str(source))
    record = image.manifest.annotations.get(PREFIX + STATE)
    state = parse_state(record) if record else KernelState()
    return WarmImage(source, layout, provenance, recipe, claimed.restore, state)


def require_secrets(recipe: Recipe, name: str) -> None:
    """Require the build's values of secrets that a restored application keeps, and new services would not accept.

    Args:
        recipe: the recipe to run the image by.
        name: the image in messages.

    Raises:
        RecipeError: one was made up at random, so that it is not the build's.
    """
    details: dict[str, str] = {}
    for secret in _find_shared(recipe):
        if uses := _find_frozen_uses(recipe, secret):
            users = ", ".join(_find_users(recipe, secret))
            details[secret.name] = f"{secret.name}: kept in {', '.join(uses)}, and {users} would get a new value"
    if details:
        options = " ".join(f"--secret {one}=FILE" for one in details)
        raise RecipeError(
            f"{name} needs the build's value of {', '.join(details)}",
            details=[*details.values(), "Nobody knows a value that a build made up: give the build one with --secret."],
            hint=f"add {options}, or --recipe FILE with the values in build.secrets",
        )


def list_made_up(recipe: Recipe) -> list[str]:
    """Return the names of secrets that the container and its company share, and that have new values."""
    return [secret.name for secret in _find_shared(recipe) if _has(recipe.container, secret.value)]


def _find_shared(recipe: Recipe) -> Iterator[Secret]:
    """Yield the secrets that were made up, and that a service or an init container has."""
    for secret in recipe.secrets:
        if not secret.given and any(_find_users(recipe, secret)):
            yield secret


def _find_users(recipe: Recipe, secret: Secret) -> list[str]:
    return [one.name for one in recipe.companions if _has(one.container, secret.value)]


def _find_frozen_uses(recipe: Recipe, secret: Secret) -> list[str]:
    """Return where a restored application keeps a secret: frozen variables, and the parts of its command line."""
    container, text = recipe.container, secret.value.decode()
    words = {"command": container.command, "args": container.args}
    uses = [name for name, value in container.env if text in value and not is_late(name, recipe.late)]
    return uses + [key for key, found in words.items() if any(text in word for word in found)]


def _has(container: Container, value: bytes) -> bool:
    """Tell whether a container has a value in a variable, on its command line or in a file of a volume."""
    texts = [*(text for _, text in container.env), *container.command, *container.args]
    files = [file.data for mount in container.volume_mounts for file in mount.volume.files]
    return any(value in data for data in (*(text.encode(errors="surrogateescape") for text in texts), *files))
