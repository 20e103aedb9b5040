"""Edit the dump of a checkpoint, and make it layers on top of the base image."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from warmstart import __version__
from warmstart.build.base import BaseImage
from warmstart.build.container import refusing_self
from warmstart.build.context import BuildContext
from warmstart.build.literals import find_command_line
from warmstart.build.result import EditedDump, RuntimeCheckpoint, SelfCheckpoint, WarmState
from warmstart.dump.archive.archive import Archive, extract_archive
from warmstart.dump.criu.contents import sum_pages_bytes
from warmstart.dump.edit.allocators import choose_none, choose_safe
from warmstart.dump.edit.cgroups import move_to_cgroup_v2
from warmstart.dump.edit.directories import clear_directory_modes
from warmstart.dump.edit.environment import add_environment, link_environment
from warmstart.dump.edit.growing import clear_growing_sizes
from warmstart.dump.edit.listeners import find_listeners
from warmstart.dump.edit.memory import choose_all, map_memory
from warmstart.dump.edit.parents import clear_parent_death_signals
from warmstart.dump.edit.sockets import clear_owners, close_sockets
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
    PREFIX,
    STATE,
    Provenance,
    created_now,
    write_provenance,
)
from warmstart.image.buildah import Buildah, WorkingContainer
from warmstart.image.compose import Layer, Run, compose_image, pack_file
from warmstart.image.crio import CHECKPOINT_NAME, prepare_checkpoint
from warmstart.image.manifest import find_host_platform
from warmstart.image.selfrestore.manifest_lines import describe_steps, describe_variables
from warmstart.image.selfrestore.pack import DIRECTORY, MEMORY, pack_checkpoint, update_manifest
from warmstart.node.session import Session
from warmstart.recipe.model import Mapped


def read_archive(context: BuildContext, file: Path) -> Archive:
    """Unpack the archive into the workspace, and remove it."""
    with context.progress.step("read checkpoint"):
        archive = extract_archive(file, context.workspace / "checkpoint")
        file.unlink()
    return archive


def edit_dump(context: BuildContext, dumped: RuntimeCheckpoint, archive: Archive, memory: str = MEMORY) -> EditedDump:
    """Edit a dump so that it restores under any address, with its memory mapped from a file of the image."""
    directory = archive.checkpoint_dir
    with context.progress.step("edit dump"):
        if not move_to_cgroup_v2(directory):
            context.progress.warn("processes are in several cgroups: the image restores only on nodes with cgroup v1")
        return edit_images(context, directory, dumped.warm, memory)


def edit_launched(context: BuildContext, launched: SelfCheckpoint) -> EditedDump:
    """Edit the launcher's dump in the same way, and update its manifest."""
    directory = launched.directory / "checkpoint"
    recipe, identity = context.recipe, launched.identity
    with context.progress.step("edit dump"):
        with refusing_self(context.recipe):
            raise_on_errors(check_filters(directory), force=context.options.force)
        dump = edit_images(context, directory, launched.warm, MEMORY)
        link_environment(launched.directory, add_environment(directory))
        clear_directory_modes(directory)
        clear_owners(directory)
        clear_growing_sizes(directory)
        for path in directory.iterdir():
            os.chown(path, identity.user, identity.group, follow_symlinks=False)
        lines = describe_variables(launched.environment, recipe.late, recipe.on_difference)
        lines += describe_steps(recipe.after_restore, identity.pid)
        lines += context.hooks.describe(launched.warm.hooks, recipe.container) if context.hooks else []
        update_manifest(launched.directory, dump.memory_file, find_listeners(directory), lines)
    return dump


def edit_images(context: BuildContext, directory: Path, warm: WarmState, name: str) -> EditedDump:
    """Close the sockets in a dump, and move its memory to a file called `name` in the image."""
    memory_file = context.workspace / Path(name).name
    pages_bytes = sum_pages_bytes(directory)
    sockets = close_sockets(directory, established=context.recipe.close_tcp)
    clear_parent_death_signals(directory)
    restart_timers(directory)
    policies = {Mapped.ALL: choose_all, Mapped.AUTO: choose_safe(warm.programs), Mapped.NONE: choose_none}
    choose = policies[context.recipe.mapped]
    memory = map_memory(directory, memory_file, path_in_image=f"/{name}", choose=choose)
    return EditedDump(pages_bytes, len(sockets), memory, memory_file if memory.size_bytes else None)


def describe(context: BuildContext, engine: LocalEngine, warm: WarmState, dump: EditedDump) -> Provenance:
    """Return the provenance of the image."""
    criu = context.session.run(["criu", "--version"], timeout_s=10).stdout
    return Provenance(
        version=__version__,
        criu=criu.split()[-1],
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
        **({PREFIX + STATE: write_state(warm.state)} if warm.state else {}),
        **write_provenance(provenance),
    }


def link_agents(context: BuildContext, warm: WarmState, layout: Path) -> list[Layer]:
    """Return the layer of the agents for hooks, put into a layout; none if the application has no hooks."""
    return context.hooks.link_agents(layout, warm.hooks) if context.hooks else []


def pack_launched(
    context: BuildContext, launched: SelfCheckpoint, dump: EditedDump, layout: Path, programs: Layer
) -> list[Layer]:
    """Make the layers of an image that restores itself, lowest first."""
    identity, compression = launched.identity, context.recipe.compression
    layers = [programs, *link_agents(context, launched.warm, layout)]
    if dump.memory_file:
        layers.append(pack_file(dump.memory_file, MEMORY, layout, (identity.user, identity.group), compression))
    return [*layers, launched.changes, pack_checkpoint(launched.directory, layout, compression)]


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
        owner = (archive.spec.user.uid, archive.spec.user.gid)
        layers = list(below) or link_agents(context, dumped.warm, layout)
        committed = container.commit(
            archive.root,
            f"oci:{addition}",
            annotations=annotations,
            labels=recipe.labels,
            cmd=find_command_line(recipe) or None,
        )
        if dump.memory_file:
            name = f"{DIRECTORY}/{dump.memory_file.name}"
            layers.append(pack_file(dump.memory_file, name, layout, owner, recipe.compression))
        committed.result()
        compose_image(base.layout, addition, layout, layers, run, recipe.compression)
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
