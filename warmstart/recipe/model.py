"""The recipe as frozen dataclasses.

Names and meanings are those of Kubernetes' core/v1 API where it has the concept. Nothing here reads or
checks; `warmstart.recipe.load` makes these from a document that has passed the schema.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from warmstart.core.reference import Reference


class Restorer(StrEnum):
    """Who restores the image: the node's container runtime, or the image itself."""

    RUNTIME = "runtime"
    SELF = "self"


class Mapped(StrEnum):
    """The memory to map from a file of the image; AUTO is memory that is known to be safe."""

    AUTO = "auto"
    ALL = "all"
    NONE = "none"


class OnDifference(StrEnum):
    """Answer of an image that restores itself to a frozen variable that differs in the pod."""

    COLD = "cold"
    WARN = "warn"


class OnSecret(StrEnum):
    """Answer of a build to a secret that it finds in the image."""

    AUTO = "auto"
    REFUSE = "refuse"
    WARN = "warn"
    IGNORE = "ignore"


class Runtime(StrEnum):
    """A runtime of a language whose hooks can be called."""

    JAVA = "java"
    PYTHON = "python"
    NODE = "node"


class Prepare(StrEnum):
    """The runtime whose memory is prepared for the checkpoint."""

    NONE = "none"
    JAVA = "java"


class Hooks(StrEnum):
    """Whose hooks are called, if the recipe does not list runtimes."""

    AUTO = "auto"
    NONE = "none"


#: The hooks of a recipe that does not say; the schema has it too.
DEFAULT_HOOKS = Hooks.NONE


class VolumeKind(StrEnum):
    """A volume as a build makes it: empty, with files, or empty in place of a lasting one."""

    EMPTY_DIR = "emptyDir"
    FILES = "files"
    LASTING = "lasting"


class Compression(StrEnum):
    """Compression of the layers added to the base image: by time or by size."""

    FAST = "fast"
    SMALL = "small"


class Lazy(StrEnum):
    """Format of layers that a snapshotter mounts before it has fetched them."""

    NONE = "none"
    ESTARGZ = "estargz"
    ZSTD_CHUNKED = "zstd-chunked"


#: Methods of steps whose requests tell the length of a body.
METHODS_WITH_BODY = frozenset({"POST", "PUT"})


@dataclass(frozen=True)
class HttpGet:
    """An HTTP request; a status from 200 to 399 is a success, as for the kubelet.

    `host` None means the container's own address. `headers` are (name, value) pairs in order. Only a step has another
    `method` than GET: one of METHODS_WITH_BODY, with an empty body.
    """

    port: int
    path: str = "/"
    scheme: str = "HTTP"
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "GET"


@dataclass(frozen=True)
class TcpSocket:
    """A TCP connection that must be accepted. `host` None means the container's own address."""

    port: int
    host: str | None = None


#: In the words of a command: the pid of the application in its container. It is not 1 if the launcher is the first
#: process.
PID_REFERENCE = "$(APP_PID)"
#: Among the names of variables: all.
EVERY = "*"


@dataclass(frozen=True)
class Exec:
    """A command run in the container; exit status 0 is a success.

    `written` is the command for messages: with references to variables, whose values can be secret, in place of them.
    """

    command: tuple[str, ...]
    written: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Grpc:
    """A call of grpc.health.v1.Health/Check; the status SERVING is a success."""

    port: int
    service: str = ""


@dataclass(frozen=True)
class Signal:
    """A signal to the application. `name` is SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH or SIGCONT."""

    name: str


Action = HttpGet | TcpSocket | Exec | Grpc


@dataclass(frozen=True)
class Probe:
    """When a container counts as started or ready; the defaults are those of Kubernetes."""

    action: Action
    initial_delay_s: int = 0
    period_s: int = 10
    timeout_s: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True)
class Settled:
    """The sign of readiness of a container without a probe: it runs, and has nothing left to do.

    Attributes:
        quiet_s: seconds for which it must use next to no processor time, and keep its listening TCP ports.
        timeout_s: seconds from its start until the build gives up.
        ports: TCP ports that a restored container must listen on: those of the build. None before it.
    """

    quiet_s: float = 5
    timeout_s: int = 300
    ports: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Step:
    """A step of the warm-up, before the checkpoint or after a restore: an action, done `repeat` times.

    `concurrency` actions run at once, and `timeout_s` bounds each. With `steady_limit_s`, batches of `repeat` are done
    until the application gets no faster, or for about that many seconds.
    """

    action: HttpGet | Exec
    repeat: int = 1
    concurrency: int = 1
    timeout_s: float = 30.0
    steady_limit_s: int | None = None


@dataclass(frozen=True)
class Port:
    """A port that the container listens on. `protocol` is TCP, UDP or SCTP."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True)
class Resources:
    """Limits and requests, in the units CRI uses: bytes and thousandths of a core. None means not set."""

    memory_limit_bytes: int | None = None
    cpu_limit_millis: int | None = None
    memory_request_bytes: int | None = None
    cpu_request_millis: int | None = None


@dataclass(frozen=True)
class SecurityContext:
    """User and privileges of the container. None means the default of the image or the runtime.

    `run_as_non_root` forbids to start the container if its user, given here or by the image, is 0.
    `unconfined` switches seccomp and AppArmor off; no recipe can ask for it.
    """

    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool = True
    run_as_non_root: bool = False
    unconfined: bool = False


@dataclass(frozen=True)
class Mount:
    """A directory of the machine in a container.

    Attributes:
        path: where the container sees it.
        directory: where the engine sees it.
        read_only: whether the container may not write to it.
    """

    path: str
    directory: Path
    read_only: bool = False


@dataclass(frozen=True)
class VolumeFile:
    """A file of a volume: its path in the volume, its content, and its permissions."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Volume:
    """A volume of the pod, as a build makes it.

    Attributes:
        name: its name in the pod.
        kind: how it is made. ConfigMap, Secret, projected and downwardAPI are FILES; PVC and ephemeral are LASTING.
        files: of FILES: its files, with the stand-ins of the build in them.
        in_memory: of EMPTY_DIR: whether its medium is memory.
        size_limit_bytes: of EMPTY_DIR in memory: its limit; None for none.
    """

    name: str
    kind: VolumeKind
    files: tuple[VolumeFile, ...] = ()
    in_memory: bool = False
    size_limit_bytes: int | None = None


@dataclass(frozen=True)
class VolumeMount:
    """A mount of a volume: the container's path, and the part of the volume if not all of it."""

    volume: Volume
    path: str
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True)
class Container:
    """The container to checkpoint.

    No recipe can ask for `mounts`; the engine adds them. `fs_group` is the pod's. Empty `command` and `args` mean
    the image's own Entrypoint and Cmd, as in Kubernetes. References `$(NAME)` have been replaced, and `$$` is `$`,
    in `command`, `args`, `env` and every Exec: double each `$` again for a pod's manifest. `settled` takes the place of
    the probes if there is none.
    """

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    ports: tuple[Port, ...] = ()
    resources: Resources = Resources()
    security_context: SecurityContext = SecurityContext()
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    settled: Settled | None = None
    mounts: tuple[Mount, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    fs_group: int | None = None

    def run_by_image(self) -> Container:
        """Return it with the Entrypoint and Cmd of its image, which an image that restores itself needs."""
        return replace(self, command=(), args=())


@dataclass(frozen=True)
class Service:
    """A container that runs beside the one to checkpoint: for the build, at the verification, for measurements.

    `aliases` are the names, besides `name`, that its address is found by. `container` has at least one probe.
    """

    name: str
    container: Container
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitContainer:
    """A container that runs to its end before the one to checkpoint starts."""

    name: str
    container: Container


# Keys of Secrets whose values are no secrets (servicebinding.io, "Well-known Secret Entries"), and may be words that
# stand elsewhere too.
_OPEN = frozenset({"type", "provider", "host", "port", "username", "user", "database", "dbname"})


@dataclass(frozen=True)
class Secret:
    """A value that must not be published, and its name, such as `shop-db.password`.

    `given`: whether the user gave it; otherwise it was made up at random.
    """

    name: str
    value: bytes
    given: bool = False

    @property
    def is_open(self) -> bool:
        """Whether its key tells that its value is no secret, such as the name of a user."""
        return self.name.rpartition(".")[2].lower() in _OPEN

    @property
    def is_hidden(self) -> bool:
        """Whether the value must be kept out of what everybody reads: one that is not empty, and no open one."""
        return bool(self.value) and not self.is_open


@dataclass(frozen=True)
class AllowedSecret:
    """A secret that may be in the image, and why.

    Attributes:
        kind: its kind, as a search reports it; `*` and `?` stand for any characters here and below.
        reason: for those who read the recipe.
        name: the name of a value of the build, or of the rule.
        place: its place, as a search reports it, such as `file /app/*`.
    """

    kind: str
    reason: str
    name: str = "*"
    place: str = "*"


@dataclass(frozen=True)
class SecretSearch:
    """The search for secrets in the image.

    Attributes:
        on_found: the answer to a secret that is not allowed.
        real: values that open something, so that they must not be in the image.
        allowed: the secrets that may be in it.
    """

    on_found: OnSecret = OnSecret.AUTO
    real: tuple[Secret, ...] = ()
    allowed: tuple[AllowedSecret, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    `image` is the name of the image to make. `close_tcp`: whether connections that are open at the
    checkpoint are closed in the restored container, instead of failing the build. `services` and `init` run
    beside and before the container, in this order. `late` names the variables that the application reads again after a
    restore; all other variables of `container.env` are frozen. `hooks` are the runtimes that must have
    hooks, or whether to look for some. `cold_removed` are the paths that a cold start removes. `secrets` are the
    values of the build's secrets, and `secret_search` says which may be in the image. `source` is the file it was read
    from, if any; relative paths in the recipe start at its directory. `document` is the recipe as JSON, with all
    overrides, complete in itself, and without the values of secrets. `restore_is_default`: whether the recipe does not
    name its restorers, so that a build may go on with one of them. `needs_self`: whether that must be the image
    itself. `warnings` are for the user of a build. `max_age`: age at which the image expires; None if it never does.
    """

    name: str
    container: Container
    image: Reference
    warmup: tuple[Step, ...] = ()
    before_checkpoint: tuple[Step, ...] = ()
    prepare: Prepare = Prepare.NONE
    restore: tuple[Restorer, ...] = (Restorer.RUNTIME,)
    restore_is_default: bool = False
    needs_self: bool = False
    mapped: Mapped = Mapped.AUTO
    compression: Compression = Compression.FAST
    lazy: Lazy = Lazy.NONE
    close_tcp: bool = False
    services: tuple[Service, ...] = ()
    init: tuple[InitContainer, ...] = ()
    late: tuple[str, ...] = ()
    on_difference: OnDifference = OnDifference.COLD
    cold_removed: tuple[str, ...] = ()
    after_restore: tuple[Step | Signal, ...] = ()
    hooks: Hooks | tuple[Runtime, ...] = DEFAULT_HOOKS
    secrets: tuple[Secret, ...] = ()
    secret_search: SecretSearch = SecretSearch()
    source: Path | None = None
    document: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    max_age: timedelta | None = None

    @property
    def companions(self) -> tuple[Service | InitContainer, ...]:
        """The containers that a build runs in addition: services and init containers."""
        return (*self.services, *self.init)


def is_late(name: str, late: Collection[str]) -> bool:
    """Tell whether a variable is among the late ones."""
    return name in late or EVERY in late


def is_own(name: str) -> bool:
    """Tell whether a variable is for warmstart: nobody compares it with that of the build."""
    return name.startswith("WARMSTART")
