"""Verify an image that was built earlier, with the recipe that it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from warmstart.build.context import BuildContext, BuildOptions
from warmstart.build.services import open_companions
from warmstart.build.verify import SUBNET, Restore, Subject, check_content, verify_image
from warmstart.core.errors import ImageError
from warmstart.core.progress import Progress
from warmstart.core.reference import Source
from warmstart.dump.state.document import parse_state
from warmstart.dump.state.model import KernelState
from warmstart.engine.local import find_access, find_binds, start_engine
from warmstart.image.annotations import PREFIX, STATE, read_provenance
from warmstart.image.layout import read_image
from warmstart.image.manifest import check_platform
from warmstart.image.registry.credentials import RegistryAccess
from warmstart.image.selfrestore.manifest_lines import WARN
from warmstart.image.skopeo import copy_image
from warmstart.node.network import Network
from warmstart.node.open import open_node
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Recipe

#: Decides on a pulled image, before any of it runs: given its layout, its source, and the recipe that it claims,
#: returns the recipe to run it by. Raises PrivilegeError for an image that asks for more than its user allows.
Decide = Callable[[Path, Source, Recipe], Recipe]


def verify_source(
    source: Source,
    cache: Path,
    access: RegistryAccess,
    progress: Progress,
    network: Network = Network.NONE,
    *,
    decide: Decide,
) -> tuple[Restore, ...]:
    """Restore an image that was built earlier, on an empty store, as `verify_image` does, with the recipe's services.

    Args:
        source: the image.
        cache: the cache directory.
        access: registries without TLS, and the credentials file.
        progress: progress reporter.
        network: what the restored containers reach.
        decide: decides whether it may run, and by which recipe.

    Raises:
        ImageError: the image does not exist, or was not built by warmstart.
        PrivilegeError: the image asks for privileges that the user does not grant.
        ServiceError: a service of its recipe was not ready.
        VerifyError: the image does not restore.
    """
    if source.path is not None:
        # The node's programs do not run in the current directory.
        source = replace(source, path=source.path.absolute())
    with open_node("verify", cache, progress, network=network, binds=find_binds(source)) as session:
        layout = session.workspace / "layout"
        skopeo_access = find_access(session, source, access)
        with progress.step("pull"):
            copy_image(session, str(source), f"oci:{layout}", access=skopeo_access, on_line=progress.note)
        image = read_image(layout)
        check_platform(image.config.platform, str(source))
        provenance = read_provenance(image.manifest.annotations)
        if provenance is None:
            raise ImageError(f"{source} was not built by warmstart: it has no build record")
        recipe = decide(layout, source, parse_recipe(provenance.recipe, f"the recipe in {source}"))
        name = str(source.reference or recipe.image)
        context = BuildContext(recipe, BuildOptions(cache, access=access, network=network), progress, session)
        with open_companions(context) as companions, companions.run() as beside, progress.step("verify"):
            check_content(layout, name)
            # The values of the build's secrets are not in the image.
            container = replace(recipe.container, env=(*recipe.container.env, WARN))
            record = image.manifest.annotations.get(PREFIX + STATE)
            state = parse_state(record) if record else KernelState()
            subject = Subject(layout, name, container, provenance.identity, recipe.restore, state, beside)
            with start_engine(session, "verify", subnet=SUBNET) as engine:
                engine.import_image(layout, name, progress.note)
                return verify_image(subject, engine, progress)
