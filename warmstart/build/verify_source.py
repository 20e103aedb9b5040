"""Verify an image that was built earlier, with the recipe that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.services import open_companions
from warmstart.build.verify import SUBNET, Restore, Subject, check_content, find_hook_limit_s, verify_image
from warmstart.build.warm_image import Decide, list_made_up, make_absolute, pull_warm_image
from warmstart.core.errors import VerifyError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source
from warmstart.engine.local import find_binds, start_engine
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.selfrestore.manifest_lines import WARN
from warmstart.node.network import Network
from warmstart.node.open import open_node
from warmstart.recipe.model import Recipe


def verify_source(
    source: Source,
    cache: Path,
    access: RegistryAccess,
    progress: Progress,
    network: Network = Network.NONE,
    *,
    decide: Decide,
    secrets: Sequence[str] = (),
) -> tuple[Restore, ...]:
    """Restore an image that was built earlier, on an empty store, as `verify_image` does, with the recipe's services.

    Args:
        source: the image.
        cache: the cache directory.
        access: registries without TLS, and the credentials file.
        progress: progress reporter.
        network: what the restored containers reach.
        decide: decides whether it may run, and by which recipe.
        secrets: files with the build's values of Secrets, as NAME.KEY=FILE.

    Raises:
        ImageError: the image does not exist, or was not built by warmstart.
        PrivilegeError: the image asks for privileges that the user does not grant.
        RecipeError: the value of a secret is missing, or its file cannot be read.
        ServiceError: a service of its recipe was not ready.
        VerifyError: the image does not restore.
    """
    source = make_absolute(source)
    with open_node("verify", cache, progress, network=network, binds=find_binds(source)) as session:
        image = pull_warm_image(session, source, access, progress, decide=decide, secrets=secrets)
        recipe, layout = image.recipe, image.layout
        context = BuildContext(recipe, BuildOptions(cache, access=access, network=network), progress, session)
        with open_companions(context) as companions, companions.run() as beside, progress.step("verify"):
            check_content(layout, image.name)
            # Some values of the build, such as those that it made up, are not in the image.
            container = replace(recipe.container, env=(*recipe.container.env, WARN))
            subject = Subject(
                layout,
                image.name,
                container,
                image.provenance.identity,
                recipe.restore,
                image.state,
                beside,
                hook_limit_s=find_hook_limit_s(recipe, recipe.restore),
            )
            with start_engine(session, "verify", subnet=SUBNET) as engine:
                engine.import_image(layout, image.name, progress.note)
                try:
                    return verify_image(subject, engine, progress)
                except VerifyError as error:
                    raise VerifyError(error.brief, details=error.details, hint=_find_hint(recipe)) from error


def _find_hint(recipe: Recipe) -> str:
    """Return what may help an image that does not restore."""
    hint = "see docs/troubleshooting.md"
    if given := [one.name for one in recipe.secrets if one.given]:
        hint = f"check that the build had the given values of {', '.join(given)}; {hint}"
    if made_up := list_made_up(recipe):
        options = " ".join(f"--secret {name}=FILE" for name in made_up)
        hint = f"if the application keeps secrets of its build in memory, give their values with {options}; {hint}"
    return hint
