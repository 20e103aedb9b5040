"""Read the build that pods must match, from a recipe or an image, and try on a cluster whether it is restored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from warmstart.core.age import has_passed
from warmstart.core.cpu import FEATURES
from warmstart.core.errors import ClusterError, ImageError, InputError
from warmstart.core.privileges import UNCONFINED, Kind, Privilege
from warmstart.core.progress import Progress
from warmstart.core.reference import Source, Transport
from warmstart.image.annotations import CPU, EXPIRES
from warmstart.image.registry.client import read_manifest
from warmstart.image.registry.credentials import DEFAULT_ACCESS, RegistryAccess
from warmstart.image.signatures.check import ANYBODY, Trust
from warmstart.inspect.inspection import CheckpointFacts, ImageFacts, inspect_target
from warmstart.inspect.target import Target, read_target
from warmstart.inspect.trust import list_image_privileges, list_renamed
from warmstart.kube.client import Cluster
from warmstart.kube.manifests import make_pod_spec
from warmstart.kube.mounts import list_mount_points
from warmstart.kube.recorded import list_pod_privileges
from warmstart.kube.settings import KUBELET_MOUNTS, BuildInfo
from warmstart.kube.trial import Verdict, find_pools, try_pool
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Recipe

_MOST_NODES = 20
# Words of the pod in a recipe.
_OF_POD = ("volumes", "securityContext", "initContainers")


@dataclass(frozen=True)
class ImageSummary:
    """A build, read from a recipe or an image.

    Attributes:
        build: the build that pods must match.
        warnings: a sentence each.
        identity: identity of the dumped process; empty if only the recipe is known.
        privileges: privileges that an image requests beyond an ordinary pod; none for a recipe, the user's own file.
        checkpoint: checkpoint of an image; None if only the recipe is known.
        name: privilege for the name recorded in the image, if the user gave another name.
    """

    build: BuildInfo
    warnings: tuple[str, ...] = ()
    identity: str = ""
    privileges: tuple[Privilege, ...] = ()
    name: tuple[Privilege, ...] = ()
    checkpoint: CheckpointFacts | None = None


def read_build(
    target: str,
    *,
    overrides: Sequence[str] = (),
    tag: str | None = None,
    access: RegistryAccess = DEFAULT_ACCESS,
    match_cpu: bool = False,
    allowed: Sequence[Privilege] = (),
    signed: Trust = ANYBODY,
) -> ImageSummary:
    """Read a build from its recipe or its image.

    Args:
        target: recipe file, or `-`; or an image, as for `inspect_target`. Only an image records the process's user, its
            mounts and its architecture.
        overrides: values that replace the recipe's.
        tag: as for `load_recipe`.
        access: registries without TLS, and the file of credentials.
        match_cpu: whether nodes must have the processor features of the build.
        allowed: privileges that pods may get from the image's recipe.
        signed: keys that must have signed the image; also the image of a recipe.

    Raises:
        SignatureError: none of the keys signed it.
        RecipeError: the recipe is invalid.
        InputError: `match_cpu` is for an image, and `overrides` and `tag` are for a recipe.
        ImageError: the image was not made by warmstart, or cannot be read.
        ArchiveError: the checkpoint in the image is broken.
        RegistryError: the registry refused, or could not be reached.
    """
    found = read_target(target)
    if found.recipe is not None:
        if match_cpu:
            raise InputError(f"only an image has a record of the processor, and {target} is {found.kind}")
        recipe = load_recipe(found.recipe, overrides=overrides, tag=tag)
        if signed.signers:
            manifest = read_manifest(recipe.image, access=access)
            signed.require(Source(Transport.REGISTRY, recipe.image), manifest, access)
        return ImageSummary(describe_recipe(recipe, str(recipe.image)))
    if overrides or tag:
        raise InputError(f"values can be given for a recipe only, and {target} is {found.kind}")
    inspection = inspect_target(target, access=access, signed=signed)
    if inspection.image is None or inspection.image.provenance is None or inspection.checkpoint is None:
        raise ImageError(f"{target} was not built by warmstart: it has no build record")
    recipe = parse_recipe(inspection.image.provenance.recipe, f"the recipe in {target}")
    known = _describe_image(recipe, inspection.image, inspection.checkpoint, found, match_cpu=match_cpu)
    build = replace(known.build, allowed=tuple(allowed))
    asked = dict.fromkeys([*list_image_privileges(inspection, recipe), *_list_of_pod(build)])
    return replace(known, build=build, privileges=tuple(asked), checkpoint=inspection.checkpoint)


def list_beyond_pod(privileges: Iterable[Privilege]) -> list[Privilege]:
    """List the privileges beyond a new pod. By default, a pod of Kubernetes has no system call filter."""
    unfiltered = Privilege(Kind.SECCOMP, UNCONFINED)
    return [one for one in privileges if one != unfiltered]


def _list_of_pod(build: BuildInfo) -> list[Privilege]:
    """List the requests of a build's pod. A recipe can have keys that only Kubernetes uses."""
    pod = {"metadata": {"name": build.name}, "spec": make_pod_spec(build)}
    asked = list_pod_privileges(pod, build.image, root=True)
    # The node selector is the build's architecture and processor.
    return [one for one in asked if one.kind is not Kind.NODE_SELECTOR]


def describe_recipe(recipe: Recipe, image: str) -> BuildInfo:
    """Return the build of a recipe, as far as the recipe shows it."""
    document = json.loads(recipe.document)
    steps = document.get("afterRestore") or []
    return BuildInfo(
        recipe.name,
        image,
        document["container"],
        tuple(map(str, recipe.restore)),
        mounts=tuple(list_mount_points(document["container"])),
        pod={key: document[key] for key in _OF_POD if document.get(key)},
        stand_ins=document.get("build") or {},
        late=recipe.late,
        on_difference=recipe.on_difference,
        after_restore=tuple(steps) if isinstance(steps, list) else (steps,),
    )


def _describe_image(
    recipe: Recipe, image: ImageFacts, checkpoint: CheckpointFacts, target: Target, *, match_cpu: bool
) -> ImageSummary:
    assert image.provenance is not None
    built_as = recipe.image
    by_recipe = describe_recipe(recipe, str(built_as))
    user = checkpoint.container.user
    found = [mount.destination for mount in checkpoint.container.mounts if mount.destination not in KUBELET_MOUNTS]
    build = replace(
        by_recipe,
        image=str(built_as) if by_recipe.by_runtime else f"{built_as.name}@{image.digest}",
        user=(user.uid, user.gid),
        # The mounts of an image that restores itself are the launcher's business.
        mounts=tuple(found) if by_recipe.by_runtime else by_recipe.mounts,
        architecture=image.provenance.architecture,
        cpu_features=_find_cpu_features(image, target.text) if match_cpu else (),
    )
    renamed = tuple(list_renamed(None if target.source is None else target.source.reference, built_as))
    warnings = [*(one.why for one in renamed), *_list_expired(image, target.text, by_runtime=by_recipe.by_runtime)]
    return ImageSummary(build, tuple(warnings), image.provenance.identity, name=renamed)


def _list_expired(image: ImageFacts, name: str, *, by_runtime: bool) -> Iterator[str]:
    """Yield a warning if the image has expired."""
    if has_passed(moment := image.notes.get(EXPIRES, "")):
        effect = "a runtime restores it anyway" if by_runtime else "it starts cold"
        yield f"{name} expired at {moment}, {effect}: build it again"


def _find_cpu_features(image: ImageFacts, target: str) -> tuple[str, ...]:
    if CPU not in image.notes:
        raise ImageError(f"{target} has no record of the processor it was built on: build it again")
    return tuple(FEATURES[name] for name in image.notes[CPU].split() if name in FEATURES)


def try_cluster(cluster: Cluster, known: ImageSummary, progress: Progress) -> list[Verdict]:
    """Try on one node of each kind whether the image is restored, and how.

    Raises:
        ClusterError: no permission to list nodes or create pods, or the API server could not be reached.
    """
    verdicts = []
    for pool in find_pools(cluster):
        with progress.step(pool.runtime):
            verdicts.append(try_pool(cluster, pool, known.build, known.identity, progress.note))
    return verdicts


def require_restored(verdicts: Sequence[Verdict]) -> None:
    """Require that the image was restored everywhere.

    Raises:
        ClusterError: the image was not restored on some nodes; the error lists them.
    """
    failed = [node for verdict in verdicts if not verdict.restored for node in verdict.pool.nodes]
    if failed:
        raise ClusterError(f"the image is not restored on {len(failed)} nodes", details=failed[:_MOST_NODES])
