"""The agents of hooks in the pod of a build, spoken with through the launcher, by exec; see launcher/src/agents.c."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from warmstart.build.context import BuildContext
from warmstart.build.hook_channel import HookChannel, HookProcess
from warmstart.build.launched import read_messages
from warmstart.core.errors import AppError, ClusterError
from warmstart.engine.cluster import LOG_LINES, KubernetesContainer
from warmstart.image.selfrestore.pack import BUILD_LAUNCHER
from warmstart.kube.client import Head
from warmstart.node.hooks import find_agents
from warmstart.recipe.model import Recipe

EXCHANGE_S = 30.0
# The processes, and a full FIFO.
_MOST_BYTES = 1 << 17
_PIDS = re.compile(rb"pids((?: \d{1,10}){0,8192})\n")


@dataclass
class PodHooks(HookChannel):
    """See `HookChannel`; of a pod whose application runs under the launcher.

    Attributes:
        container: the container of the pod.
    """

    container: KubernetesContainer = field(kw_only=True)
    _pids: frozenset[int] = frozenset()
    _answers: bytes | None = None

    def look(self) -> bytes:
        """See `HookChannel.look`.

        Raises:
            ClusterError: the launcher did not answer.
        """
        if self._answers is None:
            self._exchange("look")
        answers, self._answers = self._answers or b"", None
        return answers

    def ask(self) -> None:
        """See `HookChannel.ask`; raises ClusterError as `look` does."""
        self._exchange("ask")

    def stop_asking(self) -> None:
        """See `HookChannel.stop_asking`: an exchange ends by itself."""

    def asks_for_checkpoint(self) -> bool:
        """Return whether the application has asked for its checkpoint; False also if the container has just ended."""
        with contextlib.suppress(ClusterError):
            return self.announced()
        return False

    def list_pids(self) -> Collection[int]:
        """Return the running processes of the container at the last exchange, by their numbers there."""
        if self._answers is None:
            self._exchange("look")
        return self._pids

    def _exchange(self, word: str) -> None:
        running, said = self.container, Head(_MOST_BYTES)
        what = f"the launcher in the pod {running.pod.name}"
        try:
            end = running.cluster.exec(
                running.pod, running.name, [BUILD_LAUNCHER, "hooks", word], write=said.write, timeout_s=EXCHANGE_S
            )
        except TimeoutError as late:
            raise ClusterError(f"{what} did not answer within {EXCHANGE_S:g} s") from late
        if end.exit_code:
            raise ClusterError(f"{what} could not reach the agents of hooks", details=read_messages(end.stderr)[:5])
        found = _PIDS.match(said.data)
        if found is None:
            raise ClusterError(f"{what} did not list the processes of the container")
        self._pids = frozenset(map(int, found[1].split()))
        self._answers = (self._answers or b"") + bytes(said.data[found.end() :])


def with_variables(context: BuildContext) -> Recipe:
    """Return the recipe with the variables that load the agents."""
    recipe = context.recipe
    return replace(recipe, container=context.hooks.prepare(recipe.container)) if context.hooks else recipe


def list_agents(context: BuildContext) -> Mapping[str, Path]:
    """Return the files of the agents, by their names in the directory of the hooks; none without hooks."""
    if context.hooks is None:
        return {}
    return find_agents(context.hooks.runtimes, context.options.cache, context.progress.note)


def run_hooks(context: BuildContext, channel: PodHooks | None) -> tuple[HookProcess, ...]:
    """Have the application's hooks before the checkpoint called, and return the processes that have some.

    Raises:
        AppError: a hook failed or did not end, or the container has ended.
    """
    if context.hooks is None or channel is None:
        return ()
    running = channel.container

    def check() -> None:
        if running.state().exited:
            raise AppError("the container ended during its beforeCheckpoint hooks", details=running.log_tail(LOG_LINES))

    with context.progress.step("hooks"):
        return context.hooks.request_checkpoint(channel, context.recipe.container, channel.list_pids, check)
