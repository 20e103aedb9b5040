"""The context of a build: recipe, options, progress and session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from warmstart.build.beside import ALONE, Beside
from warmstart.build.hooks import BuildHooks
from warmstart.build.key import BuildInputs
from warmstart.build.publish import REGISTRY, Output
from warmstart.core.privileges import Privilege
from warmstart.core.progress import Progress
from warmstart.image.cache.blobs import BlobCache
from warmstart.image.cache.layers import LayerCache
from warmstart.image.encryption import EncryptionKey
from warmstart.image.layout import find_partials
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.signatures.keyless import Signer
from warmstart.node.keeper import Bind
from warmstart.node.network import Network
from warmstart.node.open import open_node
from warmstart.node.session import Session
from warmstart.recipe.model import Recipe


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build that are not in the recipe.

    Attributes:
        cache: cache directory of the tools.
        output: destination of the image.
        access: registries without TLS, and the credentials file.
        checkpoint_timeout_s: time limit of the checkpoint.
        force: continue in spite of errors from preflight.
        keep: keep the workspace if a step fails.
        runtime_endpoint: socket of the host's CRI-O to build on; the embedded one if None.
        network: network of the containers on the embedded node.
        allowed: privileges that the user grants the recipe.
        signer: the key or identity that signs the image; None for no signature.
        encryption_keys: keys of the recipients that the image's own layers are encrypted for; empty for everybody.
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
    signer: Signer | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()


@dataclass(frozen=True)
class BuildContext:
    """The input of every step.

    Attributes:
        recipe: what to build.
        options: how to build it.
        progress: progress reporter.
        session: the node.
        blobs: cached blobs of base images; None to fetch all.
        layers: cached layers of base images; None to unpack all.
        beside: the company of the container.
        inputs: they become the key of the build, an annotation of the image; without them, it has none.
        hooks: agents in the container that call the application's hooks; None if the recipe has none.
        began: when the build began, in UTC.
    """

    recipe: Recipe
    options: BuildOptions
    progress: Progress
    session: Session
    blobs: BlobCache | None = None
    layers: LayerCache | None = None
    beside: Beside = ALONE
    inputs: BuildInputs | None = None
    hooks: BuildHooks | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def workspace(self) -> Path:
        """Directory for intermediate files."""
        return self.session.workspace

    @property
    def expires(self) -> datetime | None:
        """When the image expires; None if it never does."""
        return None if self.recipe.max_age is None else self.began + self.recipe.max_age


@contextlib.contextmanager
def open_context(
    recipe: Recipe,
    options: BuildOptions,
    progress: Progress,
    *,
    binds: Sequence[Bind] = (),
    with_launcher: bool = False,
) -> Iterator[BuildContext]:
    """Open the embedded node for a build; arguments and errors as for `open_node`."""
    blobs, layers = open_blobs(options.cache), open_layers(options.cache)
    with open_node(
        "build",
        options.cache,
        progress,
        # Containers run here: the node sees the cached layers read-only.
        binds=[*binds, *([Bind(str(layers.directory))] if layers else ())],
        leftovers=find_partials(options.output.path) if options.output.path else (),
        network=options.network,
        with_launcher=with_launcher,
        keep_evidence=options.keep,
    ) as session:
        yield BuildContext(recipe, options, progress, session, blobs, layers)


def open_blobs(cache: Path) -> BlobCache | None:
    """Return the cache of blobs; None if it cannot be written to.

    Raises:
        HostError: users other than root can write to it.
    """
    blobs = BlobCache(cache)
    try:
        blobs.prepare()
    except OSError:
        return None
    return blobs


def open_layers(cache: Path) -> LayerCache | None:
    """Return the cache of unpacked layers; None if it cannot be written to, or engines could not use it.

    Raises:
        HostError: users other than root can write to it.
    """
    layers = LayerCache(cache)
    try:
        return layers if layers.prepare() else None
    except OSError:
        return None
