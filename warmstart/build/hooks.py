"""The hooks of a build: the agents in its container's image, the checkpoint that they are asked for, their layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmstart.build.hook_channel import HookChannel, HookProcess
from warmstart.core.progress import Progress
from warmstart.image.annotations import created_now
from warmstart.image.cache.blobs import BlobCache
from warmstart.image.compose import Layer, Run, add_layers, link_layers
from warmstart.image.hooks import (
    CHECKPOINT,
    RESTORED,
    add_variables,
    find_limit_s,
    find_runtimes,
    pack_agents,
    pack_fifos,
    pack_java_mark,
)
from warmstart.image.layout import read_image
from warmstart.image.manifest import Config
from warmstart.node.hooks import find_agents
from warmstart.recipe.model import Container, Hooks, Recipe, Restorer, Runtime


@dataclass(frozen=True)
class BuildHooks:
    """The agents of a build.

    Attributes:
        runtimes: the runtimes that have one.
        required: those that must have a process.
        late: as in the recipe.
        keep_servers: whether web servers may go on listening; the launcher holds clients back, a runtime does not.
        layout: the image of the build's container; the layers are in it.
        agents: the layer of the published image.
        waiting: the layer of a container that is to be checkpointed by the runtime, restored by itself.
        config: config of the base image.
    """

    runtimes: tuple[Runtime, ...]
    required: tuple[Runtime, ...]
    late: tuple[str, ...]
    keep_servers: bool
    layout: Path
    agents: Layer
    waiting: Layer
    config: Config

    def prepare(self, container: Container) -> Container:
        """Return the container with the variables that load the agents."""
        return add_variables(container, self.config, self.runtimes, self.late, keep_servers=self.keep_servers)

    def request_checkpoint(
        self,
        channel: HookChannel,
        container: Container,
        list_pids: Callable[[], Collection[int]],
        check: Callable[[], object],
    ) -> tuple[HookProcess, ...]:
        """Have the processes do their hooks, and return those that did.

        Args:
            channel: attached to the container.
            container: the recipe's container.
            list_pids: lists the running processes of the container, by their numbers there.
            check: raises an error if the container has ended.

        Raises:
            AppError: a hook failed or did not end, or a required runtime has no process.
        """
        channel.require(self.required, list_pids())
        return channel.request(list_pids, check, find_limit_s(container, self.config))

    def describe(self, processes: Sequence[HookProcess], container: Container) -> list[str]:
        """Return the line of the launcher's manifest about processes that answer after a restore, if there are any."""
        limit_ms = round(find_limit_s(container, self.config) * 1000)
        return [f"hooks {limit_ms} {' '.join(str(one.pid) for one in processes)}"] if processes else []

    def link_agents(self, layout: Path, processes: Sequence[HookProcess]) -> list[Layer]:
        """Put the layers for the published image into a layout: none if nobody uses the agents."""
        layers = [self.agents] if self.runtimes or processes else []
        link_layers(layers, self.layout, layout)
        if any(one.asked and one.runtime.startswith(Runtime.JAVA) for one in processes):
            layers.append(pack_java_mark(layout))
        return layers

    def add_waiting(self, base: Path, layout: Path, into: Path, layers: Sequence[Layer], run: Run) -> Path:
        """Make an image in which agents go on waiting for the restore, and return its layout.

        Args:
            base: layout of the base image.
            layout: a layout with `layers`.
            into: the new layout.
            layers: its other layers.
            run: how it is started.
        """
        link_layers(layers, layout, into)
        link_layers([self.waiting], self.layout, into)
        add_layers(base, into, [*layers, self.waiting], run, created_now(), {})
        return into


def prepare_hooks(
    recipe: Recipe, base: Path, workspace: Path, cache: Path, blobs: BlobCache | None, progress: Progress
) -> BuildHooks | None:
    """Make the image of a build's container; None if its recipe has no hooks.

    Args:
        recipe: the recipe.
        base: layout of the base image.
        workspace: directory for intermediate files.
        cache: cache directory of the tools.
        blobs: knows the files of base images.
        progress: progress reporter.

    Raises:
        HostError: the agents cannot be compiled.
    """
    if recipe.hooks is Hooks.NONE:
        return None
    with progress.step("hooks"):
        required = () if isinstance(recipe.hooks, Hooks) else recipe.hooks
        runtimes, layout = required or find_runtimes(base, blobs), workspace / "hooks"
        agents = pack_agents(find_agents(runtimes, cache, progress.note), layout)
        fifos, waiting = pack_fifos([CHECKPOINT, RESTORED], layout), pack_fifos([RESTORED], layout)
        add_layers(base, layout, [agents, fifos], None, created_now(), {})
    keep_servers = Restorer.RUNTIME not in recipe.restore
    config = read_image(base).config
    return BuildHooks(runtimes, required, recipe.late, keep_servers, layout, agents, waiting, config)


def document_hooks(processes: Iterable[HookProcess]) -> list[Mapping[str, object]]:
    """Return the processes for the build report."""
    return [{"pid": one.pid, "runtime": one.runtime, "beforeCheckpointSeconds": one.before_s} for one in processes]
