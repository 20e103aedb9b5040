"""Open the embedded node: the tools, a workspace, namespaces around them, and the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.core.progress import Progress
from warmstart.core.workspace import open_workspace
from warmstart.node.keeper import Bind
from warmstart.node.launcher import ensure_launcher
from warmstart.node.network import Network, connect_network
from warmstart.node.session import Session, enter
from warmstart.node.tree import ensure_tree


@contextlib.contextmanager
def open_node(
    purpose: str,
    cache: Path,
    progress: Progress,
    *,
    network: Network = Network.NONE,
    binds: Sequence[Bind] = (),
    leftovers: Sequence[str] = (),
    keep_evidence: bool = False,
    launcher: bool = False,
) -> Iterator[Session]:
    """Open a node with a workspace of its own; both are gone when the block ends.

    Args:
        purpose: becomes part of the workspace's name.
        cache: the cache directory.
        progress: progress reporter; setting up the tools is its step `tools`.
        network: what containers on the node reach.
        binds: paths of the host that the node sees.
        leftovers: patterns of files that are removed if this process is killed; see `enter`.
        keep_evidence: keep the workspace if the block fails; see `open_workspace`.
        launcher: make the launcher too, unless it is there.

    Raises:
        HostError: as `ensure_tree`, `enter` and `connect_network`.
    """
    with progress.step("tools"):
        tree = ensure_tree(cache, progress.note, progress.warn)
        if launcher:
            ensure_launcher(cache, progress.note)
    with (
        open_workspace(purpose, keep_evidence=keep_evidence) as workspace,
        enter(tree, workspace, binds=binds, leftovers=leftovers) as node,
        connect_network(node, network) as session,
    ):
        yield session
