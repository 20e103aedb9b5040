"""Run containers on a CRI runtime of this machine, and import images into its store with skopeo."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import HostError, ImageError, WarmstartError
from warmstart.core.reference import Source, Transport
from warmstart.core.undo import call_to_the_end, undoing
from warmstart.engine.cri import CriEngine
from warmstart.image.registry.credentials import Credentials, RegistryAccess
from warmstart.image.skopeo import SkopeoAccess, copy_image
from warmstart.node.crio import PAUSE_IMAGE, find_store, run_crio
from warmstart.node.doctor import Check
from warmstart.node.keeper import Bind
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT

DOCKER_SOCKET = "/var/run/docker.sock"
RUNROOT = Path("/run/containers/storage")
MOUNT_S = 30.0
LOCAL_STORAGE = ("/var/lib/containers/storage", str(RUNROOT))


@dataclass(frozen=True)
class LocalEngine:
    """A runtime and its image store.

    Attributes:
        cri: the runtime.
        session: session that runs skopeo and buildah.
        root: the store's directory.
        runroot: the store's directory for what does not outlive a boot.
        shared: whether the store is not ours alone.
        stores: additional image stores, read-only.
        runtime: name of its OCI runtime.
    """

    cri: CriEngine
    session: Session
    root: Path
    runroot: Path
    shared: bool = False
    stores: tuple[Path, ...] = ()
    runtime: str = "runc"

    @contextlib.contextmanager
    def configured_criu(self, options: Sequence[str]) -> Iterator[None]:
        """Give options to CRIU, for the length of a `with` block.

        runc and crun have CRIU read them from /etc/criu/RUNTIME.conf.

        Args:
            options: of criu(8), without the dashes.
        """
        if not options:
            yield
            return
        path = self.session.root / "etc/criu" / f"{self.runtime}.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{option}\n" for option in options))
        with undoing(path.unlink):
            yield

    @property
    def proc(self) -> Path:
        """A /proc with the runtime's process numbers."""
        return self.cri.proc

    def import_image(self, layout: Path, name: str, on_line: Callable[[str], object] = lambda _: None) -> None:
        """Import an image from an OCI layout, which must be visible in the session, under a name.

        Raises:
            ImageError: the image could not be read.
        """
        store = f"{find_store(self.root, self.runroot, self.stores)}{name}"
        if not self.shared:
            copy_image(self.session, f"oci:{layout}", store, own_layout=True, on_line=on_line)
            return
        # An interrupted copy can leave an image in the store that breaks listing its images for everyone.
        call_to_the_end(lambda: copy_image(self.session, f"oci:{layout}", store, own_layout=True))


@dataclass(frozen=True)
class SessionMounts:
    """Mounts file systems in memory in a session: a `MemoryMounts` for a CRI-O that runs in it."""

    session: Session

    @property
    def root(self) -> Path:
        """See `MemoryMounts.root`."""
        return self.session.root

    def mount(self, directory: Path, size_bytes: int | None) -> None:
        """See `MemoryMounts.mount`."""
        options = [] if size_bytes is None else ["-o", f"size={size_bytes}"]
        self.session.run(["mount", "-t", "tmpfs", *options, "tmpfs", directory], timeout_s=MOUNT_S)

    def unmount(self, directory: Path) -> None:
        """See `MemoryMounts.unmount`."""
        self.session.run(["umount", "--lazy", directory], timeout_s=MOUNT_S)


@contextlib.contextmanager
def start_engine(
    session: Session,
    name: str,
    *,
    subnet: str,
    runtime: str = "runc",
    restore: bool = True,
    stores: Sequence[Path] = (),
) -> Iterator[LocalEngine]:
    """Start a CRI-O with an empty store, for the length of a `with` block; arguments as for `run_crio`."""
    with (
        run_crio(session, name, subnet=subnet, runtime=runtime, restore=restore, stores=stores) as crio,
        CriEngine(
            crio.endpoint,
            proc=session.proc,
            network=session.network,
            scratch=crio.state / "pods",
            name_servers=session.name_servers,
            memory=SessionMounts(session),
        ) as cri,
    ):
        root, runroot = crio.state / "storage", crio.state / "runroot"
        engine = LocalEngine(cri, session, root, runroot, stores=crio.stores, runtime=runtime)
        # Another engine's store among `stores` has it.
        if PAUSE_IMAGE not in cri.list_images():
            engine.import_image(Path(PAUSE_LAYOUT), PAUSE_IMAGE)
        yield engine


@dataclass(frozen=True)
class HostRuntime:
    """A CRI-O of the host.

    Attributes:
        endpoint: its socket, as a gRPC target.
        root: directory of its image store.
        version: its name and version.
    """

    endpoint: str
    root: Path
    version: str

    @property
    def binds(self) -> list[Bind]:
        """Paths of the host that a session needs for importing images."""
        return [Bind(str(path), writable=True) for path in (self.root, RUNROOT)]


def find_host_runtime(endpoint: str) -> HostRuntime:
    """Query a CRI-O of the host.

    Raises:
        EngineError: no runtime answers at the endpoint.
        HostError: the runtime is not CRI-O.
    """
    with CriEngine(endpoint, proc=Path("/proc"), network=None, scratch=Path("/nonexistent")) as cri:
        version = cri.version()
        if not version.startswith("cri-o "):
            hint = "leave out --runtime-endpoint to build on the embedded CRI-O; the image runs on any CRI-O"
            raise HostError(f"{endpoint}: {version} cannot be built on, only CRI-O can", hint=hint)
        # CRI-O answers with ROOT/overlay-images (server/image_fs_info.go).
        return HostRuntime(endpoint, cri.image_directory().parent, version)


def examine_runtime(endpoint: str) -> Check:
    """Check that a build could use the CRI-O at an endpoint."""
    try:
        return Check("container runtime", True, find_host_runtime(endpoint).version)
    except WarmstartError as error:
        fix = error.hint or "start it, or leave out --runtime-endpoint to build on the embedded CRI-O"
        return Check("container runtime", False, error.brief, fix)


@contextlib.contextmanager
def connect_engine(session: Session, host: HostRuntime) -> Iterator[LocalEngine]:
    """Connect to the host's own CRI-O for the length of a `with` block; the session must have `host.binds`."""
    scratch = session.workspace / "pods"
    with CriEngine(host.endpoint, proc=Path("/proc"), network=None, scratch=scratch) as cri:
        yield LocalEngine(cri, session, host.root, RUNROOT, shared=True)


def find_binds(source: Source) -> list[Bind]:
    """Return the paths of the host that a session needs for reading an image from `source`.

    Raises:
        ImageError: the file or directory does not exist.
    """
    if source.path is not None:
        if not source.path.exists():
            raise ImageError(f"{source}: there is no such file or directory")
        return [Bind(str(source.path.absolute()))]
    if source.kind is Transport.CONTAINERS_STORAGE:
        # Reading takes the store's locks, which needs write access.
        return [Bind(path, writable=True) for path in LOCAL_STORAGE if Path(path).is_dir()]
    if source.kind is Transport.DOCKER_DAEMON:
        return [Bind(DOCKER_SOCKET, writable=True)]
    return []


def find_access(session: Session, source: Source, registries: RegistryAccess) -> SkopeoAccess:
    """Return the options for skopeo, in the session, to access the registry of an image.

    `find_credentials` finds the credentials, and skopeo gets them in a file, because the credential helpers of docker
    and podman exist only outside the session.

    Raises:
        RegistryError: a credentials file is broken, or a helper failed.
    """
    if source.kind is not Transport.REGISTRY or source.reference is None:
        return SkopeoAccess()
    registry = source.reference.registry
    access = SkopeoAccess(plain_http=registries.uses_plain_http(source.reference))
    credentials = registries.find_credentials(source.reference)
    if credentials is None:
        return access
    path = session.workspace / "auth.json"
    _write_auth_file(path, registry, credentials)
    return replace(access, auth_file=path)


def _write_auth_file(path: Path, registry: str, credentials: Credentials) -> None:
    """Write credentials in skopeo's format; see containers-auth.json(5)."""
    if credentials.identity_token:
        entry = {"identitytoken": credentials.identity_token}
    else:
        pair = f"{credentials.username}:{credentials.password}"
        entry = {"auth": base64.b64encode(pair.encode()).decode()}
    path.touch(mode=0o600)
    path.write_text(json.dumps({"auths": {registry: entry}}))
