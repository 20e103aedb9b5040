"""What every step of a build is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from warmstart.build.key import BuildInputs
from warmstart.build.publish import REGISTRY, Output
from warmstart.core.privileges import Privilege
from warmstart.core.progress import Progress
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.node.network import Network
from warmstart.node.session import Session
from warmstart.recipe.model import Recipe


@dataclass(frozen=True)
class BuildOptions:
    """How to build, beside what the recipe says.

    Attributes:
        cache: the directory of the tree of tools.
        output: where the image goes.
        access: registries without TLS, and the file of credentials.
        checkpoint_timeout_s: how long the checkpoint may take.
        force: go on where preflight finds errors.
        keep: leave the workspace when something fails.
        runtime_endpoint: the socket of the host's CRI-O to build on; the embedded one when None.
        network: what containers on the embedded node reach.
        allowed: privileges that the user grants the recipe.
    """

    cache: Path
    output: Output = REGISTRY
    access: RegistryAccess = DEFAULT_ACCESS
    checkpoint_timeout_s: float = 120.0
    force: bool = False
    keep: bool = False
    runtime_endpoint: str | None = None
    network: Network = Network.NONE
    allowed: tuple[Privilege, ...] = ()


@dataclass(frozen=True)
class BuildContext:
    """What every step is given: what is to be built, how, whom to tell, and where.

    `inputs` become the key of the build, an annotation of the image; without them, it has none.
    """

    recipe: Recipe
    options: BuildOptions
    progress: Progress
    session: Session
    inputs: BuildInputs | None = None

    @property
    def workspace(self) -> Path:
        """The directory for what the build makes on its way."""
        return self.session.workspace
