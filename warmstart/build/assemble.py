"""Edit the dump of a checkpoint, and make it layers on top of the base image."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from warmstart import __version__
from warmstart.build.base import BaseImage
from warmstart.build.container import refusing_self
from warmstart.build.context import BuildContext
from warmstart.build.literals import find_command_line
from warmstart.build.result import EditedDump, RuntimeCheckpoint, SelfCheckpoint, WarmState
from warmstart.core.age import format_time
from warmstart.dump.archive.archive import Archive, extract_archive
from warmstart.dump.criu.contents import has_memory, read_files, read_mappings, read_processes, sum_pages_bytes
from warmstart.dump.criu.credentials import read_credentials
from warmstart.dump.criu.log import read_version
from warmstart.dump.edit.allocators import choose_none, choose_safe
from warmstart.dump.edit.cgroups import move_to_cgroup_v2
from warmstart.dump.edit.directories import clear_directory_modes
from warmstart.dump.edit.environment import add_environment, link_environment
from warmstart.dump.edit.listeners import find_listeners
from warmstart.dump.edit.locked_files import unlock_files
from warmstart.dump.edit.memory import choose_all, map_memory
from warmstart.dump.edit.parents import clear_parent_death_signals
from warmstart.dump.edit.sizes import clear_growing_sizes, clear_sizes_of_pod
from warmstart.dump.edit.sockets import clear_owners, close_sockets, reconnect_datagrams
from warmstart.dump.edit.stacks import clear_dead_stacks
from warmstart.dump.edit.timers import restart_timers
from warmstart.dump.preflight.check import raise_on_errors
from warmstart.dump.preflight.filters import check_filters
from warmstart.dump.state.document import write_state
from warmstart.engine.local import LocalEngine
from warmstart.image.annotations import (
    BASE_DIGEST,
    BASE_NAME,
    BUILD_KEY,
    CPU,
    EXPIRES,
    PREFIX,
    STATE,
    STATEMENTS,
    Provenance,
    created_now,
    write_provenance,
)
from warmstart.image.buildah import Buildah, WorkingContainer
from warmstart.image.compose import Layer, Run, compose_image, pack_addition
from warmstart.image.crio import CHECKPOINT_NAME, prepare_checkpoint
from warmstart.image.manifest import find_host_platform
from warmstart.image.packer import Packer
from warmstart.image.rootfs_diff import Completion, complete_diff
from warmstart.image.selfrestore.manifest_lines import (
    describe_expiry,
    describe_locked,
    describe_needs,
    describe_steps,
    describe_variables,
    make_salt,
)
from warmstart.image.selfrestore.pack import MEMORY, pack_checkpoint, pack_removals, update_manifest
from warmstart.image.signatures.predicates import OWN_TYPES
from warmstart.node.session import Session
from warmstart.recipe.model import Lazy, Mapped


def read_archive(context: BuildContext, file: Path, completion: Completion | None = None) -> Archive:
    """Unpack the archive into the workspace, and remove it; the corrections to its changed files are applied."""
    with context.progress.step("read checkpoint"):
        archive = extract_archive(file, context.workspace / "checkpoint")
        file.unlink()
        return complete_diff(archive, completion) if completion else archive


def edit_dump(
    context: BuildContext, packer: Packer, dumped: RuntimeCheckpoint, archive: Archive, memory: str = MEMORY
) -> EditedDump:
    """Edit a dump so that it restores under any address, with its memory mapped from a file of the image.

    Args:
        context: of the build.
        packer: makes the layer of the memory.
        dumped: the checkpoint.
        archive: its archive, unpacked.
        memory: path of the memory file in the image.
    """
    directory, user = archive.checkpoint_dir, archive.spec.user
    with context.progress.step("edit dump"):
        dump = edit_images(context, packer, directory, dumped.warm, memory, (user.uid, user.gid))
        if not move_to_cgroup_v2(directory):
            context.progress.warn("processes are in several cgroups: the image restores only on nodes with cgroup v1")
    return dump


def edit_launched(context: BuildContext, packer: Packer, launched: SelfCheckpoint) -> EditedDump:
    """Edit the launcher's dump in the same way, and update its manifest."""
    directory = launched.directory / "checkpoint"
    recipe, identity = context.recipe, launched.identity
    with context.progress.step("edit dump"):
        with refusing_self(context.recipe):
            raise_on_errors(check_filters(directory), force=context.options.force)
        dump = edit_images(context, packer, directory, launched.warm, MEMORY, (identity.user, identity.group))
        link_environment(launched.directory, add_environment(directory))
        clear_owners(directory)
        clear_growing_sizes(directory)
        locked = unlock_files(directory)
        identity.take(directory.iterdir())
        salt = make_salt(launched.warm.identity)
        lines = describe_variables(launched.environment, recipe.late, recipe.on_difference, salt)
        lines += describe_locked(locked)
        lines += describe_expiry(context.expires)
        lines += describe_steps(recipe.after_restore, identity.pid)
        threads = itertools.chain.from_iterable(read_credentials(directory).values())
        lines += describe_needs(threads, identity.user, identity.group)
        lines += context.hooks.describe(launched.warm.hooks, recipe.container) if context.hooks else []
        update_manifest(launched.directory, dump.memory.size_bytes, find_listeners(directory), lines)
    return dump


def edit_images(
    context: BuildContext, packer: Packer, directory: Path, warm: WarmState, name: str, owner: tuple[int, int]
) -> EditedDump:
    """Close the sockets in a dump, clear what is dead on stacks, and move its memory to a file in the image.

    The file is called `name`, and belongs to this user and group.
    """
    layout, compression = context.workspace / "layout", context.recipe.compression
    pages_bytes = sum_pages_bytes(directory)
    files = list_mapped(directory) if context.recipe.lazy is not Lazy.NONE else ()
    cleared_bytes = clear_dead_stacks(directory)
    policies = {Mapped.ALL: choose_all, Mapped.AUTO: choose_safe(warm.programs), Mapped.NONE: choose_none}
    layers: list[Future[Layer]] = []
    memory = map_memory(
        directory,
        lambda content: layers.append(packer.pack_memory(content, name, owner, layout, compression)),
        path_in_image=f"/{name}",
        choose=policies[context.recipe.mapped],
    )
    # None of these changes memory, which is being packed meanwhile.
    sockets = close_sockets(directory, established=context.recipe.close_tcp)
    reconnect_datagrams(directory)
    clear_sizes_of_pod(directory)
    clear_directory_modes(directory)
    clear_parent_death_signals(directory)
    restart_timers(directory)
    return EditedDump(pages_bytes, len(sockets), memory, layers[0] if layers else None, cleared_bytes, files)


def list_mapped(directory: Path) -> tuple[str, ...]:
    """Return the paths of the files that the processes of a dump have mapped, each once."""
    files = read_files(directory)
    pids = [process.pid for process in read_processes(directory) if has_memory(directory, process.pid)]
    mappings = itertools.chain.from_iterable(read_mappings(directory, pid, files) for pid in pids)
    return tuple(dict.fromkeys(mapping.file for mapping in mappings if mapping.file))


def describe(
    context: BuildContext, engine: LocalEngine, log: Path | None, warm: WarmState, dump: EditedDump
) -> Provenance:
    """Return the provenance of the image; `log` is CRIU's of the dump."""
    return Provenance(
        version=__version__,
        criu=read_version(log) or "unknown",
        runtime=engine.cri.version(),
        kernel=platform.release(),
        architecture=find_host_platform().architecture,
        identity=warm.identity,
        recipe=context.recipe.document,
        edits=json.dumps(dump.edits),
    )


def annotate(context: BuildContext, base: BaseImage, warm: WarmState, provenance: Provenance) -> dict[str, str]:
    """Return the annotations that are common to both restorers."""
    return {
        **({PREFIX + BUILD_KEY: context.inputs.key(base.digest)} if context.inputs else {}),
        **created_now(),
        BASE_NAME: base.source.label,
        BASE_DIGEST: base.digest,
        PREFIX + CPU: " ".join(warm.cpu_features),
        **({PREFIX + EXPIRES: format_time(context.expires)} if context.expires else {}),
        **({PREFIX + STATE: write_state(warm.state)} if warm.state else {}),
        **({PREFIX + STATEMENTS: " ".join(sorted(OWN_TYPES))} if context.options.signer else {}),
        **write_provenance(provenance),
    }


def link_agents(context: BuildContext, warm: WarmState, layout: Path) -> list[Layer]:
    """Return the layer of the agents for hooks, put into a layout; none if the application has no hooks."""
    return context.hooks.link_agents(layout, warm.hooks) if context.hooks else []


def pack_launched(
    context: BuildContext, launched: SelfCheckpoint, dump: EditedDump, layout: Path, programs: Layer
) -> list[Layer]:
    """Make the layers of an image that restores itself, lowest first."""
    layers = [
        programs,
        *link_agents(context, launched.warm, layout),
        *pack_removals(context.recipe.cold_removed, layout),
    ]
    checkpoint = pack_checkpoint(launched.directory, layout, context.recipe.compression)
    if dump.memory_layer:
        layers.append(dump.memory_layer.result())
    return [*layers, launched.changes, checkpoint]


def make_layout(
    context: BuildContext,
    container: WorkingContainer,
    dumped: RuntimeCheckpoint,
    archive: Archive,
    dump: EditedDump,
    base: BaseImage,
    provenance: Provenance,
    below: Sequence[Layer] = (),
    run: Run | None = None,
) -> Path:
    """Make the image that the runtime restores, as an OCI layout in the workspace.

    Args:
        context: of the build.
        container: a working container of this image alone. Opening it takes about as long as editing a small dump.
        dumped: the checkpoint.
        archive: its archive, unpacked.
        dump: its edited dump.
        base: the base image.
        provenance: how the image was built.
        below: layers between the base image and the checkpoint.
        run: how the image is started; as the base image when None.
    """
    layout, addition = context.workspace / "layout", context.workspace / "addition"
    recipe = context.recipe
    annotations = {CHECKPOINT_NAME: recipe.name, **annotate(context, base, dumped.warm, provenance)}
    with context.progress.step("image"):
        prepare_checkpoint(archive, str(recipe.image))
        if not dumped.has_tmp and recipe.container.security_context.read_only_root_filesystem:
            add_tmp(archive.root)
        layers = list(below) or link_agents(context, dumped.warm, layout)
        committed = container.commit(
            archive.root,
            f"oci:{addition}",
            annotations=annotations,
            labels=recipe.labels,
            cmd=find_command_line(recipe) or None,
        )
        committed.result()
        # While the memory is still being packed.
        packed = pack_addition(addition, layout, recipe.compression)
        if dump.memory_layer:
            layers.append(dump.memory_layer.result())
        compose_image(base.layout, addition, layout, [*layers, *packed], run)
    return layout


def open_container(session: Session, workspace: Path) -> AbstractContextManager[WorkingContainer]:
    """Open a working container of buildah, with an image store of its own in the workspace."""
    return Buildah(session.argv(["buildah"]), session.environment, workspace / "buildah").working_container()


def add_tmp(root: Path) -> None:
    """Make a directory /tmp below `root`.

    CRIU pivots the root on it, and makes another directory only if the root is writable (`cr_pivot_root` in
    criu/mount.c).
    """
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
