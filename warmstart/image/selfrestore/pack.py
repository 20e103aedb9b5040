"""An image that restores itself: the launcher as its entrypoint, and what that finds in /.warmstart.

The launcher's README has the files and the format of its manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import CheckpointError, ImageError
from warmstart.dump.edit.listeners import Listener
from warmstart.image.compose import CREATED_BY, Layer, LayerWriter, Run
from warmstart.image.manifest import Config
from warmstart.image.overlay_diff import Changes, add_changes
from warmstart.image.tree_tar import TreeTar, open_entry, open_tree
from warmstart.recipe.model import Container

DIRECTORY = ".warmstart"
MEMORY = f"{DIRECTORY}/memory"
# What has changed of it, and is mapped where a runtime restores an image that can also restore itself.
MEMORY_OF_RUNTIME = f"{DIRECTORY}/memory-runtime"
LAUNCHER = f"/{DIRECTORY}/launcher"
# Where commands that are run in the container of a build find the launcher, and that the root file system: see
# launcher/src/rooms.c.
BUILD_LAUNCHER = "/launcher"
BUILD_ROOT = "/container"
ENTRYPOINT = (LAUNCHER, "start", "--")
# What the launcher itself keeps of the application's files, in `seed`, and puts back when it restores.
SEEDED = ("tmp", "var/tmp", "run")


# What the launcher writes when it has decided (launcher/src/start.c).
RESTORED = re.compile(r"warmstart: restored in (\d+) ms$")
COLD_START = re.compile(r"warmstart: cold start: (.*) \(\d+ ms\)$")


@dataclass(frozen=True)
class Identity:
    """Whom an application was dumped as, and what it was, by the launcher's manifest.

    Attributes:
        pid: of the application, in its container.
    """

    user: int
    group: int
    groups: tuple[int, ...]
    pid: int
    arguments: tuple[str, ...]


def find_run(container: Container, config: Config) -> Run:
    """How the image of a recipe's container, on a base image with this config, is started.

    Command and arguments are those that Kubernetes would give a container (`command` replaces the entrypoint and its
    arguments, `args` the arguments); they become the image's, since a pod that gives a command replaces the launcher.

    Raises:
        ImageError: there is no command.
    """
    entrypoint = container.command or config.entrypoint
    cmd = container.args or (() if container.command else config.cmd)
    if not entrypoint and not cmd:
        raise ImageError("neither the recipe nor the base image has a command", hint="set container.command")
    return Run((*ENTRYPOINT, *entrypoint), cmd, find_user(container, config))


def find_user(container: Container, config: Config) -> str:
    """Who the container runs as, in the words of an image's `User`; empty for root."""
    context = container.security_context
    if context.run_as_user is None:
        return config.user
    group = "" if context.run_as_group is None else f":{context.run_as_group}"
    return f"{context.run_as_user}{group}"


def read_manifest(directory: Path) -> Identity:
    """Read the launcher's manifest, as far as it concerns others.

    Raises:
        CheckpointError: the launcher has not written it.
    """
    fields: dict[str, list[str]] = {}
    try:
        for line in _read_text(directory / "manifest").splitlines():
            key, _, value = line.partition(" ")
            fields.setdefault(key, []).append(value)
        (user,), (group,), (groups,), (pid,) = (fields[key] for key in ("user", "group", "groups", "pid"))
        arguments = tuple(fields["argument"])
        return Identity(int(user), int(group), tuple(map(int, groups.split())), int(pid), arguments)
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"cannot read the launcher's manifest: {error}") from error


def _read_text(file: Path) -> str:
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as text:  # noqa: PTH123
        return text.read()


def update_manifest(directory: Path, memory: Path | None, listeners: Sequence[Listener], signal: int) -> None:
    """Bring the launcher's manifest up to date with an edited checkpoint.

    Args:
        directory: with the manifest and the checkpoint.
        memory: the file with the memory; None where no memory is mapped.
        listeners: sockets that are to listen before the application is restored.
        signal: what to send the restored application; 0 for nothing.
    """
    manifest = directory / "manifest"
    *kept, end = [line for line in _read_text(manifest).splitlines() if not line.startswith("file ")]
    added = [*_list_files(directory, memory), *(f"listen {_describe(listener)}" for listener in listeners)]
    if signal:
        added.append(f"signal {signal}")
    beside = directory / "manifest.new"
    with beside.open("x") as text:
        text.writelines(f"{line}\n" for line in [*kept, *added, end])
        os.fchmod(text.fileno(), 0o644)
    beside.replace(manifest)


def _list_files(directory: Path, memory: Path | None) -> Iterator[str]:
    for file in sorted((directory / "checkpoint").iterdir()):
        yield f"file {file.lstat().st_size} {file.name}"
    if memory is not None:
        yield f"file {memory.stat().st_size} ../{Path(MEMORY).name}"


def _describe(listener: Listener) -> str:
    return f"{listener.network} {listener.port} {listener.backlog} {listener.inode}"


def pack_programs(programs: Path, layout: Path) -> Layer:
    """Make the layer of the launcher, CRIU, and what CRIU's licence (GPL-2.0) wants to go with it.

    It depends on them alone, so that all images of one version have this layer in common.
    """
    writer = LayerWriter(layout, f"{CREATED_BY}launcher")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        for name in ("launcher", "criu"):
            tar.copy_program(programs / name, f"{DIRECTORY}/{name}")
        tar.make_directory(f"{DIRECTORY}/source")
        for file in sorted((programs / "source").iterdir()):
            tar.copy_program(file, f"{DIRECTORY}/source/{file.name}")
    return writer.finish()


def pack_changes(changes: Changes | None, layout: Path) -> Layer:
    """Make the layer of what an application has changed in its root file system; no process of it may be left.

    Args:
        changes: where they are; None where there can be none.
        layout: where the layer goes.

    Raises:
        ImageError: something in it cannot be in a layer.
    """
    writer = LayerWriter(layout, f"{CREATED_BY}changed files")
    with open_tree(writer) as tar:
        if changes is not None:
            add_changes(tar, changes, [DIRECTORY, *SEEDED])
    return writer.finish()


def pack_checkpoint(directory: Path, layout: Path) -> Layer:
    """Make the layer of a checkpoint that the launcher took, and of what goes with it."""
    writer = LayerWriter(layout, f"{CREATED_BY}{DIRECTORY}")
    with open_tree(writer) as tar:
        _add_checkpoint(tar, directory)
    return writer.finish()


def _add_checkpoint(tar: TreeTar, directory: Path) -> None:
    tar.make_directory(DIRECTORY)
    with open_entry(directory) as place:
        for name in ("manifest", "env"):
            with open_entry(name, place.fd) as entry:
                tar.add(entry, f"{DIRECTORY}/{name}")
        for name in ("checkpoint", "seed"):
            with suppress(FileNotFoundError), open_entry(name, place.fd) as entry:
                tar.add_all(entry, f"{DIRECTORY}/{name}")


def restores_itself(config: Config) -> bool:
    """Whether an image with this config restores itself."""
    return config.entrypoint[: len(ENTRYPOINT)] == ENTRYPOINT
