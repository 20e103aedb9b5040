"""Images that restore themselves: the launcher as entrypoint, with its files in /.warmstart.

The launcher's README describes the files and the manifest format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import CheckpointError, ImageError
from warmstart.core.partial import replace_file
from warmstart.dump.edit.listeners import Listener
from warmstart.dump.proc.touched import FilePart
from warmstart.image.compose import CREATED_BY, Layer, LayerWriter, Run
from warmstart.image.manifest import Config
from warmstart.image.overlay_diff import Changes, add_changes, changes_nothing
from warmstart.image.selfrestore.manifest_lines import escape_word
from warmstart.image.tree_tar import TreeTar, open_entry, open_tree
from warmstart.recipe.model import Compression, Container

DIRECTORY = ".warmstart"
MEMORY = f"{DIRECTORY}/memory"
# The changed part of it, mapped if a runtime restores an image that can also restore itself.
MEMORY_OF_RUNTIME = f"{DIRECTORY}/memory-runtime"
LAUNCHER = f"/{DIRECTORY}/launcher"
# The parts of the memory that a restore touches, in images that are pulled lazily.
TOUCHED_MEMORY = f"{DIRECTORY}/memory-touched"
# The list of parts of files that the launcher reads ahead: START SIZE PATH, one a line.
READ_AHEAD = f"{DIRECTORY}/read-ahead"
# The list of files that a cold start removes, as launcher/src/seed.c reads it.
REMOVED = f"{DIRECTORY}/remove"
#: What made the layer of the launcher, in the history of an image.
PROGRAMS = f"{CREATED_BY}launcher"
#: The same of the layer of an application's changed files.
CHANGES = f"{CREATED_BY}changed files"
# Paths of the launcher and of the root filesystem in a build container: see launcher/src/mount_namespaces.c.
BUILD_LAUNCHER = "/launcher"
BUILD_ROOT = "/container"
ENTRYPOINT = (LAUNCHER, "start", "--")
#: The command of a pod's postStart that does the steps after a restore by the runtime, and nothing after other starts.
HOOK = (LAUNCHER, "steps")
# Directories that the launcher saves in `seed` and puts back at a restore.
SEEDED = ("tmp", "var/tmp", "run")


# The launcher's log lines after its decision (launcher/src/start.c).
RESTORED = re.compile(
    r"warmstart: restored in (?P<restore>\d+) ms"
    r"(?:, hooks in (?P<hooks>\d+) ms)?(?:, after-restore steps in (?P<steps>\d+) ms)?$"
)
STEP_FAILED = re.compile(r"warmstart: restored in \d+ ms, but (.*)$")
COLD_START = re.compile(r"warmstart: cold start: (.*) \(\d+ ms\)$")


@dataclass(frozen=True)
class Identity:
    """Identity of the dumped application, from the launcher's manifest.

    Attributes:
        pid: process number of the application in its container.
    """

    user: int
    group: int
    groups: tuple[int, ...]
    pid: int
    arguments: tuple[str, ...]

    def take(self, paths: Iterable[Path]) -> None:
        """Give files to the application's user and group again: whoever edits a file makes it anew."""
        for path in paths:
            os.chown(path, self.user, self.group, follow_symlinks=False)


def find_run(container: Container, config: Config, env: tuple[tuple[str, str], ...] = ()) -> Run:
    """Return the entrypoint, command, user and environment of a recipe's image on a base image with this config.

    As in Kubernetes, `command` replaces the entrypoint and its arguments, and `args` the arguments. They become part of
    the image, since a pod with a command of its own would replace the launcher.

    Args:
        container: the recipe's container.
        config: config of the base image.
        env: variables that the image gets in addition to those of the base image.

    Raises:
        ImageError: there is no command.
    """
    entrypoint = container.command or config.entrypoint
    cmd = container.args or (() if container.command else config.cmd)
    if not entrypoint and not cmd:
        raise ImageError("neither the recipe nor the base image has a command", hint="set container.command")
    return Run((*ENTRYPOINT, *entrypoint), cmd, find_user(container, config), env)


def find_user(container: Container, config: Config) -> str:
    """Return the container's user in the format of an image's `User`; empty for root."""
    context = container.security_context
    if context.run_as_user is None:
        return config.user
    group = "" if context.run_as_group is None else f":{context.run_as_group}"
    return f"{context.run_as_user}{group}"


def read_manifest(directory: Path) -> Identity:
    """Read the identity from the launcher's manifest.

    Raises:
        CheckpointError: the launcher has not written it.
    """
    try:
        text = _read_text(directory / "manifest")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the launcher's manifest: {error}") from error
    return parse_manifest(text)


def parse_manifest(text: str) -> Identity:
    """Parse the launcher's manifest; errors as in `read_manifest`."""
    fields: dict[str, list[str]] = {}
    try:
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            fields.setdefault(key, []).append(value)
        (user,), (group,), (groups,), (pid,) = (fields[key] for key in ("user", "group", "groups", "pid"))
        arguments = tuple(fields["argument"])
        return Identity(int(user), int(group), tuple(map(int, groups.split())), int(pid), arguments)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"cannot read the launcher's manifest: {error}") from error


def _read_text(file: Path) -> str:
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as text:  # noqa: PTH123
        return text.read()


def update_manifest(
    directory: Path, memory_bytes: int, listeners: Sequence[Listener], lines: Sequence[str] = ()
) -> None:
    """Bring the launcher's manifest up to date with an edited checkpoint.

    Args:
        directory: the directory of the manifest and the checkpoint.
        memory_bytes: size of the memory file; 0 if no memory is mapped.
        listeners: sockets to open before the restore.
        lines: others, from `warmstart.image.selfrestore.manifest_lines`.
    """
    manifest = directory / "manifest"
    *kept, end = [line for line in _read_text(manifest).splitlines() if not line.startswith("file ")]
    added = [*_list_files(directory, memory_bytes), *(f"listen {_describe(listener)}" for listener in listeners)]
    with replace_file(manifest, mode=0o644) as file:
        file.writelines(f"{line}\n".encode() for line in [*kept, *added, *lines, end])


def update_sizes(directory: Path, added: Mapping[str, int] | None = None) -> None:
    """Bring the sizes of the checkpoint's files in the launcher's manifest up to date.

    Args:
        directory: as for `update_manifest`.
        added: sizes of further files, by their paths relative to the checkpoint.
    """
    manifest = directory / "manifest"
    *lines, end = [_update_size(line, directory / "checkpoint") for line in _read_text(manifest).splitlines()]
    lines += [f"file {size_bytes} {name}" for name, size_bytes in (added or {}).items()]
    with replace_file(manifest, mode=0o644) as file:
        file.writelines(f"{line}\n".encode() for line in [*lines, end])


def _update_size(line: str, checkpoint: Path) -> str:
    key, _, rest = line.partition(" ")
    name = rest.partition(" ")[2]
    is_edited = key == "file" and "/" not in name
    return f"file {(checkpoint / name).lstat().st_size} {name}" if is_edited else line


def _list_files(directory: Path, memory_bytes: int) -> Iterator[str]:
    for file in sorted((directory / "checkpoint").iterdir()):
        yield f"file {file.lstat().st_size} {file.name}"
    if memory_bytes:
        yield f"file {memory_bytes} ../{Path(MEMORY).name}"


def _describe(listener: Listener) -> str:
    return f"{listener.network} {listener.port} {listener.backlog} {listener.inode}"


def pack_programs(programs: Path, layout: Path) -> Layer:
    """Make the layer of the launcher, CRIU, and CRIU's source as its licence (GPL-2.0) requires.

    It depends on nothing else, not even on the recipe's compression, so all images of one version share this layer.
    """
    writer = LayerWriter(layout, PROGRAMS)
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        for name in ("launcher", "criu"):
            tar.copy_program(programs / name, f"{DIRECTORY}/{name}")
        tar.make_directory(f"{DIRECTORY}/source")
        for file in sorted((programs / "source").iterdir()):
            tar.copy_program(file, f"{DIRECTORY}/source/{file.name}")
    return writer.finish()


def pack_changes(changes: Changes | None, layout: Path, compression: Compression = Compression.FAST) -> Layer:
    """Make the layer of an application's changed files; all its processes must have ended.

    Args:
        changes: their location; None if the root is read-only.
        layout: the layout that gets the layer.
        compression: of the layer.

    Raises:
        ImageError: a file cannot be put in a layer.
    """
    writer = LayerWriter(layout, CHANGES, compression)
    with open_tree(writer) as tar:
        if changes is not None:
            add_changes(tar, changes, [DIRECTORY, *SEEDED])
    return writer.finish()


def pack_removals(paths: Sequence[str], layout: Path) -> list[Layer]:
    """Make the layer with the list of files that a cold start removes first; none without such files."""
    if not paths:
        return []
    writer = LayerWriter(layout, f"{CREATED_BY}{REMOVED}")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        tar.make_text("".join(f"{escape_word(path)}\n" for path in paths), REMOVED)
    return [writer.finish()]


def pack_read_ahead(parts: Sequence[FilePart], layout: Path) -> list[Layer]:
    """Make the layer with the list of what a restore is to read ahead; none without any."""
    if not parts:
        return []
    writer = LayerWriter(layout, f"{CREATED_BY}{READ_AHEAD}")
    with open_tree(writer) as tar:
        tar.make_directory(DIRECTORY)
        lines = (f"{part.start} {part.size} {escape_word(part.path)}\n" for part in parts)
        tar.make_text("".join(lines), READ_AHEAD)
    return [writer.finish()]


def changes_no_files(changes: Changes | None) -> bool:
    """Tell whether `pack_changes` would find nothing that an application changed; all its processes must have ended."""
    return changes is None or changes_nothing(changes, [DIRECTORY, *SEEDED])


def pack_checkpoint(directory: Path, layout: Path, compression: Compression = Compression.FAST) -> Layer:
    """Make the layer of the launcher's checkpoint and its other files: the same layer for the same content.

    Only the application's own files keep their modification times; those of the checkpoint are when it was edited.
    """
    writer = LayerWriter(layout, f"{CREATED_BY}{DIRECTORY}", compression)
    with open_tree(writer) as tar:
        _add_checkpoint(tar, directory)
    return writer.finish()


def _add_checkpoint(tar: TreeTar, directory: Path) -> None:
    tar.make_directory(DIRECTORY)
    with open_entry(directory) as place:
        for name in ("manifest", "env"):
            with open_entry(name, place.fd) as entry:
                tar.add(entry, f"{DIRECTORY}/{name}", mtime=0)
        for name, mtime in (("checkpoint", 0), ("seed", None)):
            with suppress(FileNotFoundError), open_entry(name, place.fd) as entry:
                tar.add_all(entry, f"{DIRECTORY}/{name}", mtime=mtime)


def restores_itself(config: Config) -> bool:
    """Whether an image with this config restores itself."""
    return config.entrypoint[: len(ENTRYPOINT)] == ENTRYPOINT
