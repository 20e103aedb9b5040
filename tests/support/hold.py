"""Holding a checkpoint of a container on a node for as long as a test wants."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.cluster.node import Node

# In the place of the node's own, which it runs in the end.
RUNC = """\
#!/bin/sh
case " $* " in
*" checkpoint "*" {container} "*)
    touch {directory}/held
    while [ ! -e {directory}/released ]; do
        sleep 0.1
    done
    ;;
esac
exec {before} "$@"
"""


@dataclass(frozen=True)
class Hold:
    """A checkpoint that does not begin until it is let."""

    directory: Path

    @property
    def held(self) -> bool:
        """Whether the runtime has been asked for it."""
        return (self.directory / "held").exists()

    def release(self) -> None:
        """Let it be made."""
        (self.directory / "released").touch()


@contextlib.contextmanager
def hold_checkpoint(node: Node, container: str) -> Iterator[Hold]:
    """Hold checkpoints of a container, which has this id in the runtime, until they are released or the block ends."""
    runc = node.session.root / "usr/bin/runc"
    before = runc.with_name(f"runc.{secrets.token_hex(4)}")
    directory = Path("/run") / before.name
    hold = Hold(node.session.root / directory.relative_to("/"))
    hold.directory.mkdir()
    partial = runc.with_name("runc.partial")
    partial.write_text(RUNC.format(container=container, directory=directory, before=f"/usr/bin/{before.name}"))
    partial.chmod(0o755)
    before.hardlink_to(runc)
    partial.rename(runc)
    try:
        yield hold
    finally:
        hold.release()
        before.rename(runc)
