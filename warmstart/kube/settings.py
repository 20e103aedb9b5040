"""The build that a pod must match, and the values that the pod must have for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.privileges import Privilege
from warmstart.recipe.model import OnDifference, Restorer
from warmstart.recipe.pods import mapping_at

TERMINATION_LOG = "/dev/termination-log"
#: Mounts that the kubelet gives to every container.
KUBELET_MOUNTS = frozenset({"/etc/hosts", TERMINATION_LOG})
#: Whether pods get a token of their service account, and where it is mounted.
TOKEN = "automountServiceAccountToken"  # noqa: S105 - no password
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - no password


@dataclass(frozen=True)
class BuildInfo:
    """The build of an image, as far as pods must match it.

    Attributes:
        name: the recipe's name.
        image: the image in the pod's manifest.
        container: the recipe's `container`, in the words of Kubernetes.
        restorers: who restores the image.
        user: user id and group id of the process in the checkpoint; None when only the recipe is known.
        mounts: mount points of the build, without those of every container.
        architecture: of the checkpoint, in Go's words; empty when only the recipe is known.
        cpu_features: features that nodes need, named as by Node Feature Discovery.
        allowed: privileges that the image may give a pod; None for the user's own recipe, where all are allowed.
        pod: the recipe's `volumes`, `securityContext` and `initContainers`, in the words of Kubernetes.
        stand_ins: the recipe's `build`: the objects and fields that the build had in place of the cluster's.
        late: names of the variables that the application reads again after a restore; `*` stands for all.
        on_difference: the answer of an image that restores itself to a frozen variable with another value.
        after_restore: the recipe's steps after a restore.
    """

    name: str
    image: str
    container: Mapping[str, Any]
    restorers: tuple[str, ...] = (Restorer.RUNTIME,)
    user: tuple[int, int] | None = None
    mounts: tuple[str, ...] = ()
    architecture: str = ""
    cpu_features: tuple[str, ...] = ()
    allowed: tuple[Privilege, ...] | None = None
    pod: Mapping[str, Any] = field(default_factory=dict)
    stand_ins: Mapping[str, Any] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    on_difference: OnDifference = OnDifference.COLD
    after_restore: Sequence[Mapping[str, Any]] = ()

    @property
    def by_runtime(self) -> bool:
        """Whether the runtime may restore the image, even if it can also restore itself."""
        return Restorer.RUNTIME in self.restorers

    @property
    def by_itself(self) -> bool:
        """Whether the image can restore itself."""
        return Restorer.SELF in self.restorers

    @property
    def fs_group(self) -> int | None:
        """The group of the build's volumes."""
        return mapping_at(dict(self.pod), "securityContext").get("fsGroup")


@dataclass(frozen=True)
class Setting:
    """A value that a pod must have.

    Attributes:
        keys: path, from the container, or from the pod's specification.
        value: the value; None if there must be none.
        reason: the reason.
        of_pod: whether it is the pod's, not the container's.
        by_default: whether it is the default of a pod.
        or_other: whether any other value is fine.
        item: for an item of the list at `keys`, the key that tells it from other items; empty for a whole value.
    """

    keys: tuple[str, ...]
    value: Any
    reason: str
    of_pod: bool = False
    by_default: bool = False
    or_other: bool = False
    item: str = ""
