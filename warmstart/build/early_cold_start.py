"""The cold start of an image that restores itself, observed before the image is complete.

An image starts cold with the layers of its base image, of the launcher, and of the files that the application has
changed. The launcher reads neither the memory nor the dump then, so they need not be packed yet. Most applications
change no files. The start of their image is observed while the application to be dumped warms up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from warmstart.build.base import BaseImage
from warmstart.build.beside import ALONE
from warmstart.build.cold_start import IMAGE, ColdStart, observe_cold_start
from warmstart.build.context import BuildContext
from warmstart.build.hook_channel import HookProcess
from warmstart.build.result import SelfCheckpoint
from warmstart.build.verify import open_plain_engine
from warmstart.engine.local import LocalEngine
from warmstart.image.annotations import created_now
from warmstart.image.compose import Layer, Run, add_layers, link_layers
from warmstart.image.selfrestore.pack import pack_removals
from warmstart.node.network import Network


class EarlyColdStart:
    """Observes a cold start as soon as that is possible.

    Args:
        context: of the build.
        engine: the engine of the build.
        base: the base image.
        layout: holds the layers.
        programs: the layer of the launcher.
        run: how the image is started.
        undo: ends the observation.
    """

    def __init__(
        self,
        context: BuildContext,
        engine: LocalEngine,
        base: BaseImage,
        layout: Path,
        programs: Layer,
        run: Run,
        undo: contextlib.ExitStack,
    ) -> None:
        self._context, self._engine, self._base, self._layout = context, engine, base, layout
        self._programs, self._run, self._undo = programs, run, undo
        self._cold: ColdStart | None = None

    def begin(self) -> None:
        """Begin with an image of an application that changes no files, unless it could meet the running one outside."""
        if self._has_own_engine and self._context.options.network is Network.NONE:
            self._cold = self._observe(self._make_image("cold", []))

    def settle(self, launched: SelfCheckpoint) -> ColdStart | None:
        """Begin, or begin again if the application has changed files.

        Returns:
            The cold start. None if it must wait for new services, or for an engine of its own.
        """
        hooks = launched.warm.hooks
        if not self._has_own_engine or (self._cold and launched.untouched and not any(one.asked for one in hooks)):
            return self._cold
        layout = self._make_image("cold-changed", [launched.changes], hooks)
        if self._cold:
            self._cold.repeat(layout)
        else:
            self._cold = self._observe(layout)
        return self._cold

    @property
    def _has_own_engine(self) -> bool:
        return not self._engine.shared and self._context.beside == ALONE

    def _observe(self, layout: Path) -> ColdStart:
        recipe = self._context.recipe
        opener = partial(open_plain_engine, self._engine, recipe.restore)
        return self._undo.enter_context(observe_cold_start(opener, IMAGE, recipe.container, layout))

    def _make_image(self, name: str, changes: Sequence[Layer], hooks: Sequence[HookProcess] = ()) -> Path:
        """Make an image without memory and dump; return its layout."""
        context, cold = self._context, self._context.workspace / name
        layers = [self._programs, *pack_removals(context.recipe.cold_removed, self._layout), *changes]
        with context.progress.step("image"):
            link_layers(layers, self._layout, cold)
            layers[1:1] = context.hooks.link_agents(cold, hooks) if context.hooks else []
            add_layers(self._base.layout, cold, layers, self._run, created_now(), context.recipe.labels)
        return cold
