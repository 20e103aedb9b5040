"""The hooks of runtimes in an image: a layer with their agents and a FIFO, and the variables that load them.

docs/hooks.md has the protocol, and docs/design.md the reasons. Two more FIFOs are only in the build's container: an
agent that waits at one of them finds it missing in a restored container, and so learns of the restore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from warmstart.image.cache.blobs import BlobCache
from warmstart.image.compose import CREATED_BY, Layer, LayerWriter
from warmstart.image.layout import read_image
from warmstart.image.manifest import Config
from warmstart.image.selfrestore.pack import DIRECTORY
from warmstart.image.tree_tar import open_tree
from warmstart.recipe.model import Container, Runtime

HOOKS = f"{DIRECTORY}/hooks"
#: Names of the FIFOs.
REPLY, CHECKPOINT, RESTORED = "reply", "checkpoint", "restored"
#: The variables of the application: the directory, the variables that it reads again, the limit in seconds, and what is
#: left as it is at the checkpoint.
VARIABLE, LATE, LIMIT = "WARMSTART_HOOKS", "WARMSTART_HOOKS_LATE", "WARMSTART_HOOKS_LIMIT"
KEEP, WEB_SERVERS = "WARMSTART_HOOKS_KEEP", "web-servers"
DEFAULT_LIMIT_S = 30.0
# Variable, its addition, the text between, and whether the addition comes first; as in launcher/src/hooks.c.
_LOADERS = {
    Runtime.JAVA: ("JAVA_TOOL_OPTIONS", f"-javaagent:/{HOOKS}/agent.jar", " ", False),
    Runtime.PYTHON: ("PYTHONPATH", f"/{HOOKS}/python", ":", True),
    Runtime.NODE: ("NODE_OPTIONS", f"--require /{HOOKS}/node/hooks.cjs", " ", False),
}
_PROGRAMS = {
    Runtime.JAVA: re.compile(r"(^|/)bin/java$"),
    Runtime.PYTHON: re.compile(r"(^|/)bin/python3(\.\d+)?$"),
    Runtime.NODE: re.compile(r"(^|/)bin/node(js)?$"),
}


def find_runtimes(layout: Path, known: BlobCache | None) -> tuple[Runtime, ...]:
    """Return the runtimes that an image has, by the names of its files; all if its files are not known."""
    image = read_image(layout)
    found: set[Runtime] = set()
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        members = known.read_members(layer, diff_id) if known else None
        if members is None:
            return tuple(Runtime)
        found.update(_match(member.name for member in members))
    return tuple(runtime for runtime in Runtime if runtime in found)


def _match(names: Iterable[str]) -> Iterator[Runtime]:
    for name in names:
        if "bin/" in name:
            yield from (runtime for runtime, pattern in _PROGRAMS.items() if pattern.search(name))


def pack_agents(files: Mapping[str, Path], layout: Path) -> Layer:
    """Make the layer of the agents and the FIFO `reply`; it depends on nothing else."""
    writer = LayerWriter(layout, f"{CREATED_BY}hooks")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        tar.make_directory(HOOKS)
        for directory in sorted({str(parent) for name in files for parent in PurePosixPath(name).parents[:-1]}):
            tar.make_directory(f"{HOOKS}/{directory}")
        for name, file in sorted(files.items()):
            tar.copy_program(file, f"{HOOKS}/{name}")
        tar.make_fifo(f"{HOOKS}/{REPLY}")
    return writer.finish()


def pack_java_mark(layout: Path) -> Layer:
    """Make the layer with the mark of an application in Java that asks for its checkpoint; launcher/src/hooks.c."""
    writer = LayerWriter(layout, f"{CREATED_BY}hooks of Java")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        tar.make_directory(HOOKS)
        tar.make_empty(f"{HOOKS}/java-asks")
    return writer.finish()


def pack_fifos(names: Sequence[str], layout: Path) -> Layer:
    """Make a layer with FIFOs of the hooks, for a container that the published image does not have."""
    writer = LayerWriter(layout, f"{CREATED_BY}hooks of the build")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        tar.make_directory(HOOKS)
        for name in names:
            tar.make_fifo(f"{HOOKS}/{name}")
    return writer.finish()


def add_variables(
    container: Container, config: Config, runtimes: Sequence[Runtime], late: Sequence[str], *, keep_servers: bool
) -> Container:
    """Return the container of a build with the variables that load the agents.

    Args:
        container: the recipe's container.
        config: config of its image, whose values are kept as well.
        runtimes: the runtimes with an agent.
        late: names of the variables that the application reads again after a restore; `*` for all.
        keep_servers: whether web servers may go on listening, because nobody is served before the hooks have ended. A
            value of the user's own is kept.
    """
    own, given = dict(container.env), {**dict(config.env), **dict(container.env)}
    for runtime in runtimes:
        name, addition, between, comes_first = _LOADERS[runtime]
        words = [word for word in (given.get(name), addition) if word]
        own[name] = between.join(reversed(words) if comes_first else words)
    own |= {VARIABLE: f"/{HOOKS}", **({LATE: ",".join(late)} if late else {})}
    if keep_servers and KEEP not in given:
        own[KEEP] = WEB_SERVERS
    return replace(container, env=tuple(own.items()))


def find_limit_s(container: Container, config: Config) -> float:
    """Return the time in seconds that the hooks have before a checkpoint, and again after a restore."""
    value = {**dict(config.env), **dict(container.env)}.get(LIMIT, "")
    return float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) and float(value) > 0 else DEFAULT_LIMIT_S
