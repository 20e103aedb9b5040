"""Open the embedded node for one command: a workspace, the tools, the namespaces, the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.core.linux import require_linux
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
    binds: Sequence[Bind] = (),
    leftovers: Sequence[str] = (),
    network: Network = Network.NONE,
    with_launcher: bool = False,
    keep_evidence: bool = False,
) -> Iterator[Session]:
    """Yield a session with the tools in a workspace of its own, and set up missing tools first.

    Args:
        purpose: part of the workspace's name; see `open_workspace`.
        cache: cache directory.
        progress: progress reporter; the step is called `tools`.
        binds: directories and files of this machine to show in the session.
        leftovers: patterns of files to remove if this process is killed; see `enter`.
        network: network of the containers.
        with_launcher: compile the launcher as part of the step, so that later steps find it.
        keep_evidence: keep the workspace if the block fails.

    Raises:
        HostError: the tools cannot be set up, or the kernel refused a namespace, a mount or an interface.
        OSError: the cache is not writable.
    """
    require_linux("start the embedded node")
    with open_workspace(purpose, keep_evidence=keep_evidence) as workspace:
        with progress.step("tools"):
            tree = ensure_tree(cache, progress.note, progress.warn)
            if with_launcher:
                ensure_launcher(cache, progress.note)
        with (
            enter(tree, workspace, binds=binds, leftovers=leftovers) as session,
            connect_network(session, network) as connected,
        ):
            yield connected
