"""Compare the privileges an image requests by its recipe, checkpoint or name with those the user allows.

A runtime gives a restored process the user, capabilities and system call filter of the checkpoint, regardless of its
pod. An image that restores itself gets those of its pod, so only its recipe counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from warmstart.core.errors import ArchiveError, ImageError, InputError
from warmstart.core.privileges import (
    ALL,
    ORDINARY_CAPABILITIES,
    UNCONFINED,
    Kind,
    Privilege,
    name_capability,
    require_allowed,
)
from warmstart.core.reference import Reference, Source, Transport, parse_source
from warmstart.dump.archive.metadata import load_json
from warmstart.image.annotations import POD_NOTE
from warmstart.image.crio import CHECKPOINT_NAME
from warmstart.image.layout import read_image
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.signatures.check import ANYBODY, Trust
from warmstart.inspect.inspection import RESTORERS, CheckpointFacts, ImageFacts, Inspection, inspect_image
from warmstart.kube.recorded import list_pod_privileges
from warmstart.kube.settings import KUBELET_MOUNTS
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Probe, Recipe
from warmstart.recipe.privileges import list_contexts, require_recipe_privileges

# Prefix of the annotations that the kubelet sets on every container.
_KUBELET_ANNOTATIONS = "io.kubernetes."
_ORDINARY_DEVICES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx"))


@dataclass(frozen=True)
class Expected:
    """The privileges that a container's processes may have.

    Attributes:
        capabilities: names of capabilities; ALL stands for all of them.
        no_new_privs: whether they must be kept from gaining privileges.
        filtered: whether they must be under a system call filter.
        root: whether they may be root.
    """

    capabilities: frozenset[str] = ORDINARY_CAPABILITIES
    no_new_privs: bool = False
    filtered: bool = True
    root: bool = True


def expect(context: Mapping[str, Any], *, filtered: bool) -> Expected:
    """Return the privileges that processes may have under a Kubernetes security context.

    Args:
        context: security context of the container, merged with the pod's.
        filtered: whether a system call filter is expected if the context sets none.
    """
    changes = context.get("capabilities") or {}
    dropped, added = ({name_capability(name) for name in changes.get(key) or ()} for key in ("drop", "add"))
    kept = frozenset() if ALL in dropped else ORDINARY_CAPABILITIES - dropped
    if context.get("privileged"):
        return Expected(frozenset({ALL}), filtered=False)
    kind = (context.get("seccompProfile") or {}).get("type", "")
    return Expected(
        capabilities=kept | added,
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        filtered=filtered if not kind else kind != UNCONFINED,
        root=not context.get("runAsNonRoot") and not context.get("runAsUser"),
    )


def list_recipe_privileges(recipe: Recipe) -> list[Privilege]:
    """List the privileges that the recipe of an image requests."""
    where, found = "the recipe in the image", []
    for path, context in list_contexts(recipe):
        found += [
            Privilege(Kind.CAPABILITY, name, f"{path} of {where} adds it")
            for name in map(name_capability, context.capabilities_add)
            if name not in ORDINARY_CAPABILITIES
        ]
        if context.privileged:
            found.append(Privilege(Kind.PRIVILEGED, why=f"{path} of {where} says it"))
    # Those in a registry are as public as the image itself.
    beside = {one.container.image for one in recipe.companions}
    local = sorted(name for name in beside if parse_source(name).kind is not Transport.REGISTRY)
    found += [Privilege(Kind.IMAGE, name, f"a service of {where} runs this image of the machine") for name in local]
    hosts = dict.fromkeys(getattr(probe.action, "host", None) for probe in _list_probes(recipe))
    return found + [Privilege(Kind.PROBE_HOST, host, f"a probe of {where} asks it") for host in hosts if host]


def _list_probes(recipe: Recipe) -> Iterator[Probe]:
    for container in (recipe.container, *(service.container for service in recipe.services)):
        yield from filter(None, (container.readiness_probe, container.startup_probe))


def list_checkpoint_privileges(checkpoint: CheckpointFacts, expected: Expected) -> list[Privilege]:
    """List the privileges that a runtime would give the processes of a checkpoint, beyond those expected."""
    return [*_list_of_container(checkpoint, expected), *_list_of_processes(checkpoint, expected)]


def _list_of_container(checkpoint: CheckpointFacts, expected: Expected) -> Iterator[Privilege]:
    limits = checkpoint.container.limits
    if limits is None:
        return
    yield from _list_capabilities(limits.capabilities, expected, "the checkpointed container had it")
    if expected.no_new_privs and not limits.no_new_privs:
        yield Privilege(Kind.PRIVILEGE_ESCALATION, why="the checkpointed container had no no_new_privs")
    if expected.filtered and not limits.filtered:
        yield Privilege(Kind.SECCOMP, UNCONFINED, "the checkpointed container had no system call filter")
    if limits.apparmor == "unconfined" and ALL not in expected.capabilities:
        yield Privilege(Kind.APPARMOR, UNCONFINED, "the checkpointed container had no AppArmor profile")
    for path in limits.devices:
        if path not in _ORDINARY_DEVICES and ALL not in expected.capabilities:
            yield Privilege(Kind.DEVICE, path, "the checkpointed container had this device")
    for key in limits.annotations:
        if not key.startswith(_KUBELET_ANNOTATIONS) or key.startswith("io.kubernetes.cri-o."):
            yield Privilege(Kind.ANNOTATION, key, "the runtime takes it from the checkpoint")


def _list_of_processes(checkpoint: CheckpointFacts, expected: Expected) -> Iterator[Privilege]:
    for pid, threads in checkpoint.credentials.items():
        where = f"the process {pid} of the checkpoint"
        for thread in threads:
            for _, names in thread.capabilities:
                yield from _list_capabilities(names, expected, f"{where} has it")
            if thread.root and not expected.root:
                yield Privilege(Kind.ROOT, why=f"{where} has a user id of 0")
            if expected.no_new_privs and not thread.no_new_privs:
                yield Privilege(Kind.PRIVILEGE_ESCALATION, why=f"{where} has no no_new_privs")
            if expected.filtered and not thread.filters:
                yield Privilege(Kind.SECCOMP, UNCONFINED, f"{where} has no system call filter")
            if ALL not in expected.capabilities:
                yield from _list_lsm(thread.lsm, where)


def _list_lsm(lsm: str, where: str) -> Iterator[Privilege]:
    """Yield an AppArmor profile, or an SELinux label USER:ROLE:TYPE:LEVEL, if it confines nothing."""
    if lsm.startswith("unconfined"):
        yield Privilege(Kind.APPARMOR, UNCONFINED, f"{where} has no AppArmor profile")
    elif ":spc_t" in lsm or ":unconfined" in lsm:
        yield Privilege(Kind.SELINUX, lsm, f"{where} has this label")


def _list_capabilities(names: Iterable[str], expected: Expected, why: str) -> Iterator[Privilege]:
    if ALL not in expected.capabilities:
        yield from (Privilege(Kind.CAPABILITY, name, why) for name in names if name not in expected.capabilities)


def list_mount_privileges(checkpoint: CheckpointFacts, recipe: Recipe) -> list[Privilege]:
    """List the mounts of a checkpoint that are not volumes of its recipe."""
    known = {*KUBELET_MOUNTS, *(str(PurePosixPath(mount.path)) for mount in recipe.container.volume_mounts)}
    return [
        Privilege(Kind.MOUNT, mount.destination, "the checkpointed container had this mount")
        for mount in checkpoint.container.mounts
        if mount.destination not in known
    ]


def list_image_privileges(inspection: Inspection, recipe: Recipe, *, own: bool = False) -> list[Privilege]:
    """List all privileges that an image built by warmstart requests.

    Args:
        inspection: inspection of the image.
        recipe: recipe in the image, or the user's own.
        own: whether the recipe is the user's own; its requests are then omitted.
    """
    asked = [] if own else list_recipe_privileges(recipe)
    if inspection.image is None or inspection.checkpoint is None:
        return asked
    if RESTORERS[CHECKPOINT_NAME] in inspection.image.restorers:
        expected = expect(read_context(recipe), filtered=True)
        asked += list_checkpoint_privileges(inspection.checkpoint, expected)
        asked += list_mount_privileges(inspection.checkpoint, recipe)
    return asked


def list_renamed(reference: Reference | None, built_as: Reference) -> list[Privilege]:
    """Return the name that an image was built as, if the user gave another one.

    Args:
        reference: the user's name for it; None if it is in no registry.
        built_as: the name in its recipe.
    """
    if reference is None or reference == built_as:
        return []
    if reference.digest and reference.name == built_as.name:
        return []
    why = f"{reference} was built as {built_as}; the runtime looks it up by that name, so pods are to pull it by that"
    return [Privilege(Kind.IMAGE, str(built_as), why)]


def list_saved_privileges(inspection: Inspection, context: Mapping[str, Any]) -> list[Privilege]:
    """List the privileges of a saved image's checkpoint beyond those of the pod recorded in the image.

    By default, neither a pod of Kubernetes nor its checkpoint has a system call filter. Mounts are not listed, since a
    runtime restores only those of the new pod.

    Args:
        inspection: inspection of the image.
        context: security context of the container in the pod.

    Raises:
        ImageError: the checkpoint cannot be read.
    """
    if inspection.checkpoint is None:
        raise ImageError(f"the checkpoint in {inspection.name} cannot be read: {inspection.unread}")
    return list_checkpoint_privileges(inspection.checkpoint, expect(context, filtered=False))


def list_claims(inspection: Inspection) -> list[Privilege]:
    """List, for display, the privileges that an image or archive requests beyond an ordinary pod, as far as known."""
    image, checkpoint = inspection.image, inspection.checkpoint
    try:
        if image is not None and image.provenance is not None:
            return list_image_privileges(inspection, parse_recipe(image.provenance.recipe, "the recipe"))
        found = [] if image is None else list_noted_privileges(image)
    except (InputError, ImageError):
        found = []
    return found if checkpoint is None else [*found, *list_checkpoint_privileges(checkpoint, Expected(filtered=False))]


def list_noted_privileges(image: ImageFacts) -> list[Privilege]:
    """List the privileges that the pod in a saved image requests.

    Raises:
        ImageError: the pod's manifest is invalid.
    """
    if POD_NOTE not in image.notes:
        return []
    try:
        manifest = load_json(image.notes[POD_NOTE].encode(), "the pod")
    except (ArchiveError, ValueError) as error:
        raise ImageError(f"the pod in the image is not understood: {error}") from error
    if not isinstance(manifest, dict):
        raise ImageError("the pod in the image is not understood: it is not a mapping")
    containers = manifest.get("spec", {}).get("containers") if isinstance(manifest.get("spec"), dict) else None
    first = containers[0] if isinstance(containers, list) and containers else None
    own = str(first.get("image")) if isinstance(first, dict) else ""
    return list_pod_privileges(manifest, own, root=True)


def read_context(recipe: Recipe) -> Mapping[str, Any]:
    """Return the security context of a recipe's container, with the keys of Kubernetes."""
    context: Mapping[str, Any] = json.loads(recipe.document)["container"].get("securityContext") or {}
    return context


def trust(
    allowed: Sequence[Privilege],
    own: Recipe | None = None,
    *,
    signed: Trust = ANYBODY,
    access: RegistryAccess = DEFAULT_ACCESS,
) -> Callable[[Path, Source, Recipe], Recipe]:
    """Return a function that refuses a pulled image or returns the recipe to run it by: the user's, or the image's.

    Args:
        allowed: privileges that the user allows.
        own: the user's own recipe for the image.
        signed: keys and identities of which one must have signed the image.
        access: how its registry is asked for signatures.
    """

    def decide(layout: Path, source: Source, claimed: Recipe) -> Recipe:
        recipe = own or claimed
        signed.require(source, read_image(layout).manifest, access)
        inspection = inspect_image(Source(Transport.OCI, path=layout))
        if own is not None:
            require_recipe_privileges(own, allowed)
        asked = list_image_privileges(inspection, recipe, own=own is not None)
        if signed.signers:
            # Whoever controls the registry could serve another image that the same key signed.
            asked += list_renamed(source.reference, recipe.image)
        require_allowed(asked, allowed, str(source.reference or source))
        return recipe

    return decide
