"""Delay the checkpoint of a container on a node until a test releases it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.cluster.node import Node

# Replaces the node's runc, and runs it in the end.
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
    """A checkpoint that does not begin before it is released."""

    directory: Path

    @property
    def held(self) -> bool:
        """Return whether the runtime has been asked for the checkpoint."""
        return (self.directory / "held").exists()

    def release(self) -> None:
        """Let the checkpoint begin."""
        (self.directory / "released").touch()


@contextlib.contextmanager
def hold_checkpoint(node: Node, container: str) -> Iterator[Hold]:
    """Delay checkpoints of the container with this id until they are released or the block ends."""
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
