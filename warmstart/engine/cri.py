"""Run containers through CRI, the kubelet's own API to a runtime; written for CRI-O.

API: k8s.io/cri-api, runtime/v1.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

from warmstart.core.errors import CheckpointError, EngineError
from warmstart.core.network import add_address_in, connect_in
from warmstart.core.undo import undoing
from warmstart.dump.criu.log import find_errors
from warmstart.engine.activity import read_activity
from warmstart.engine.connections import close_connections
from warmstart.engine.cri_messages import Host, container_config, join_log, pod_config
from warmstart.engine.target import Activity, ExecResult, State
from warmstart.engine.volumes import MemoryMounts, PodVolumes, open_volumes
from warmstart.node.cgroup import freeze_for_a_moment
from warmstart.recipe.model import Container, Mount

CALL_S = 60.0
CREATE_S = 240.0
EXEC_TIMED_OUT = b"command timed out"
MESSAGE_LINES = 20
# More than the most lines that anybody asks for; as much as of a cluster.
LOG_LIMIT_BYTES = 4 << 20
# An application that has added more lines to its /etc/hosts finds hosts where they were.
HOSTS_LIMIT_BYTES = 1 << 20
# Of a pod, by CNI.
INTERFACE = "eth0"
_LOGGED = re.compile(r'time="[^"]*" level=\w+ msg="((?:[^"\\]|\\.)*)"')


class CriEngine:
    """A connection to a CRI runtime.

    Args:
        endpoint: the socket, such as `unix:///run/crio/crio.sock`.
        proc: a /proc with the process numbers that the runtime reports.
        network: the network namespace that its pods are reached from; that of this process if None.
        scratch: directory for logs, mounts and archives, at the same path for the runtime and this process.
        name_servers: DNS servers of its pods; those of this machine if empty.
        memory: mounts the volumes in memory; None to make ordinary directories in their place.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        proc: Path,
        network: Path | None,
        scratch: Path,
        name_servers: Sequence[str] = (),
        memory: MemoryMounts | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.proc = proc
        self.network = network
        self.scratch = scratch
        self.name_servers = name_servers
        self.memory = memory
        self._channel = grpc.insecure_channel(endpoint)
        self.runtime = RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.images = ImageServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> CriEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def version(self) -> str:
        """Return the runtime's name and version, such as `cri-o 1.36.3`."""
        answer = _call("ask the runtime for its version", self.runtime.Version, cri.VersionRequest(), CALL_S)
        return f"{answer.runtime_name} {answer.runtime_version}"

    def image_directory(self) -> Path:
        """Return the directory of the runtime's images, as it reports it."""
        answer = _call("ask for the image store", self.images.ImageFsInfo, cri.ImageFsInfoRequest(), CALL_S)
        return Path(answer.image_filesystems[0].fs_id.mountpoint)

    def list_images(self) -> list[str]:
        """Return the names of all images that the runtime knows."""
        answer = _call("list the images", self.images.ListImages, cri.ListImagesRequest(), CALL_S)
        return [name for image in answer.images for name in image.repo_tags or (image.id,)]

    def remove_image(self, name: str) -> None:
        """Remove an image from the store; an unknown one is not an error.

        Raises:
            EngineError: it is still there.
        """
        request = cri.RemoveImageRequest(image=cri.ImageSpec(image=name))
        try:
            _call(f"remove the image {name}", self.images.RemoveImage, request, CALL_S)
        except EngineError:
            # Once the image is gone, containers/storage wants to remove its layers, and knows none of those that are
            # in additional stores (`DeleteImage` in store.go): "layer not known".
            if name in self.list_images():
                raise

    def open_volumes(self) -> contextlib.AbstractContextManager[PodVolumes]:
        """Open volumes for the containers of one pod; see `warmstart.engine.volumes.open_volumes`."""
        return open_volumes(self.scratch / f"volumes-{uuid.uuid4()}", self.memory)

    @contextlib.contextmanager
    def start(
        self,
        container: Container,
        image: str,
        name: str,
        *,
        hosts: Sequence[Host] = (),
        volumes: PodVolumes | None = None,
        on_created: OnCreated = lambda _: None,
    ) -> Iterator[CriContainer]:
        """Run a container in a pod of its own for the length of a `with` block; a checkpoint image is restored.

        Args:
            container: the recipe's container.
            image: name of the image in the runtime's store.
            name: name of the pod and the container.
            hosts: other hosts that it knows by name.
            volumes: the pod's volumes if it has them already; new ones if None.
            on_created: called with the container before its command starts.

        Raises:
            EngineError: the runtime refused, or a volume cannot be made.
        """
        with contextlib.ExitStack() as ended:
            mounts = (volumes or ended.enter_context(self.open_volumes())).mount(container)
            privileged = container.security_context.privileged
            pod = ended.enter_context(self.open_pod(name, privileged=privileged))
            yield pod.start(container, image, hosts=hosts, volumes=mounts, on_created=on_created)

    @contextlib.contextmanager
    def open_pod(self, name: str, *, privileged: bool = False) -> Iterator[CriPod]:
        """Make a pod without containers, for the length of a `with` block.

        Args:
            name: its name.
            privileged: whether it may have privileged containers.

        Raises:
            EngineError: the runtime refused.
        """
        pod = pod_config(name, self.scratch, privileged=privileged)
        pod.dns_config.servers.extend(self.name_servers)
        requested_at = time.monotonic()
        # The pod exists even if the answer is lost, for example by an interruption.
        with undoing(lambda: self._remove_pod(pod.metadata.uid)):
            request = cri.RunPodSandboxRequest(config=pod)
            sandbox = _call("start a pod sandbox", self.runtime.RunPodSandbox, request, CREATE_S).pod_sandbox_id
            status = _call(
                "ask for the pod's address",
                self.runtime.PodSandboxStatus,
                cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox),
                CALL_S,
            ).status
            yield CriPod(self, pod, sandbox, status.network.ip, requested_at)

    def _remove_pod(self, uid: str) -> None:
        answer = _call("list the pods", self.runtime.ListPodSandbox, cri.ListPodSandboxRequest(), CALL_S)
        for sandbox in (pod.id for pod in answer.items if pod.metadata.uid == uid):
            with undoing(partial(self._remove_sandbox, sandbox)), undoing(partial(self._stop_sandbox, sandbox)):
                self._kill_containers(sandbox)

    def _kill_containers(self, sandbox: str) -> None:
        """Kill the containers of a sandbox.

        StopPodSandbox alone would wait for the whole time limit of the call after SIGTERM (`stopTimeoutFromContext` in
        CRI-O's server/utils.go). Many first processes ignore that signal, and a frozen one does not receive it.
        """
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=sandbox))
        answer = _call("list the pod's containers", self.runtime.ListContainers, request, CALL_S)
        for container in answer.containers:
            self.kill_container(container.id)

    def kill_container(self, container_id: str) -> None:
        """Kill the processes of a container, and keep its files."""
        stop = cri.StopContainerRequest(container_id=container_id, timeout=0)
        _call("stop the container", self.runtime.StopContainer, stop, CALL_S)

    def _stop_sandbox(self, sandbox: str) -> None:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox)
        _call("stop the pod sandbox", self.runtime.StopPodSandbox, request, CALL_S)

    def _remove_sandbox(self, sandbox: str) -> None:
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        _call("remove the pod sandbox", self.runtime.RemovePodSandbox, request, CALL_S)


@dataclass(frozen=True)
class CriPod:
    """A pod.

    Attributes:
        engine: its engine.
        config: its configuration.
        sandbox_id: the runtime's id.
        address: its IP address.
        requested_at: `time.monotonic()` before the request for its sandbox.
    """

    engine: CriEngine
    config: cri.PodSandboxConfig
    sandbox_id: str
    address: str
    requested_at: float

    def start(
        self,
        container: Container,
        image: str,
        *,
        hosts: Sequence[Host] = (),
        volumes: Sequence[Mount] = (),
        on_created: OnCreated = lambda _: None,
    ) -> CriContainer:
        """Start the container of the pod, which ends with it; arguments as for `container_config`.

        `on_created` is called with the container before its command starts.

        Raises:
            EngineError: the runtime refused.
        """
        runtime, directory = self.engine.runtime, Path(self.config.log_directory)
        name = self.config.metadata.name
        config = container_config(container, image, name, self.address, directory, hosts=hosts, volumes=volumes)
        requested_at = time.monotonic()
        create = cri.CreateContainerRequest(pod_sandbox_id=self.sandbox_id, config=config, sandbox_config=self.config)
        container_id = _call("create the container", runtime.CreateContainer, create, CREATE_S).container_id
        created_at = time.monotonic()
        log_file = directory / config.log_path
        created = CriContainer(
            self.engine, container_id, self.address, log_file, self.requested_at, requested_at, created_at, created_at
        )
        on_created(created)
        start = cri.StartContainerRequest(container_id=container_id)
        _call("start the container", runtime.StartContainer, start, CREATE_S)
        return replace(created, started_at=time.monotonic())


@dataclass(frozen=True)
class Root:
    """A container's root filesystem: where the runtime has mounted it, and the mount points in it."""

    path: str
    mount_points: tuple[str, ...]


@dataclass(frozen=True)
class CriContainer:
    """A running container; a `Target` for probes and warm-up.

    Attributes:
        engine: its engine.
        container_id: the runtime's id.
        address: the pod's IP address.
        log_file: the log that the runtime was asked for, in CRI's format.
        pod_requested_at: `time.monotonic()` before the request for the pod's sandbox.
        requested_at: the same before the request to create the container.
        created_at: the same when the container had been created.
        started_at: the same when the runtime reported it as started.
        watch: called with each `state`; raises an error for what the container cannot do without.
        network: network namespace to connect from; the engine's if None.
    """

    engine: CriEngine
    container_id: str
    address: str
    log_file: Path
    pod_requested_at: float
    requested_at: float
    created_at: float
    started_at: float
    watch: Callable[[], object] = lambda: None
    network: Path | None = None

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """See `Target.connect`."""
        target, network = (host or self.address, port), self.network or self.engine.network
        return connect_in(network, target, timeout_s) if network else socket.create_connection(target, timeout_s)

    def from_inside(self) -> CriContainer:
        """See `Target.from_inside`."""
        return replace(self, address="localhost", network=self.engine.proc / str(self.pid) / "ns/net")

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        """See `Target.exec`."""
        # CRI counts whole seconds, and 0 means no limit.
        limit = max(1, round(timeout_s))
        request = cri.ExecSyncRequest(container_id=self.container_id, cmd=list(command), timeout=limit)
        try:
            answer = self.engine.runtime.ExecSync(request, timeout=limit + CALL_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"{command[0]} had not ended after {limit} s") from error
            raise _engine_error(f"run {command[0]} in the container", error) from error
        # CRI-O ends the command itself and returns this instead of its result (internal/oci/runtime_oci.go).
        if answer.exit_code == -1 and answer.stderr == EXEC_TIMED_OUT:
            raise TimeoutError(f"{command[0]} had not ended after {limit} s")
        return ExecResult(
            answer.exit_code, answer.stdout.decode(errors="replace"), answer.stderr.decode(errors="replace")
        )

    def state(self) -> State:
        """See `Target.state`."""
        self.watch()
        status = self._status(verbose=False).status
        if status.state == cri.CONTAINER_EXITED:
            return State(status.exit_code, status.reason)
        return State()

    def activity(self) -> Activity:
        """See `Target.activity`."""
        return read_activity(self.engine.proc, self.pid)

    def interrupt(self, pause_s: float = 0.0) -> None:
        """See `Target.interrupt`; without effect on the host's own runtime.

        There, a container would stay frozen if this process were killed, and nothing could end it with cgroup v1.
        """
        if self.engine.network is None:
            return
        try:
            freeze_for_a_moment(self.engine.proc / str(self.pid), pause_s)
        except OSError as error:
            raise EngineError(f"cannot freeze the container: {error}") from error

    def close_connections(self) -> int:
        """See `Target.close_connections`; without effect on the host's own runtime, like `interrupt`."""
        if self.engine.network is None:
            return 0
        try:
            return close_connections(self.engine.proc, self.pid)
        except OSError as error:
            raise EngineError(f"cannot close the container's connections: {error}") from error

    def move_host(self, old: str, new: str) -> None:
        """See `Target.move_host`."""
        # The container can write to the file. It is mounted: it stays the same, and is never empty.
        with self.log_file.with_name("hosts").open("r+b") as file:
            lines = file.read(HOSTS_LIMIT_BYTES + 1)
            if len(lines) <= HOSTS_LIMIT_BYTES:
                moved = re.sub(rb"(?m)^" + re.escape(old.encode()) + rb"(?=\t)", new.encode(), lines)
                file.seek(0)
                file.write(moved)
                file.truncate()

    def add_address(self, address: str) -> None:
        """Give its pod another IPv4 address, unless it has it.

        Raises:
            EngineError: the container has ended.
        """
        try:
            add_address_in(self.engine.proc / str(self.pid) / "ns/net", INTERFACE, address)
        except OSError as error:
            raise EngineError(f"cannot add the address {address} to the pod: {error}") from error

    def log_tail(self, lines: int) -> list[str]:
        """See `Target.log_tail`."""
        # CRI-O restores a container without the name of its log, and calls the file as it does then
        # (`CRImportCheckpoint` in server/container_restore.go).
        restored = self.log_file.with_name(f"{self.container_id}.log")
        try:
            text = _read_end(restored if restored.exists() else self.log_file).decode(errors="replace")
        except FileNotFoundError:
            return []
        # Not `splitlines`, which also splits at other characters of the container's output.
        return join_log(line for line in text.rstrip("\n").split("\n") if line)[-lines:]

    @property
    def pid(self) -> int:
        """PID of its first process in the engine's `proc`."""
        return int(self._info()["pid"])

    @property
    def restored(self) -> bool:
        """Tell whether the runtime reports it as restored from a checkpoint."""
        return bool(self._info().get("restored"))

    @property
    def root(self) -> Root:
        """Its root filesystem, as its monitor sees it."""
        spec = self._info()["runtimeSpec"]
        return Root(spec["root"]["path"], tuple(mount["destination"] for mount in spec.get("mounts", ())))

    def checkpoint(self, archive: Path, timeout_s: float) -> None:
        """Write a checkpoint to `archive`, a path that is the same for the runtime.

        Raises:
            CheckpointError: CRIU or the runtime failed; the message has the errors from CRIU's log.
        """
        # The runtime opens an existing file without truncating it.
        archive.unlink(missing_ok=True)
        request = cri.CheckpointContainerRequest(
            container_id=self.container_id, location=str(archive), timeout=round(timeout_s)
        )
        try:
            self.engine.runtime.CheckpointContainer(request, timeout=timeout_s)
        except grpc.RpcError as error:
            archive.unlink(missing_ok=True)
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                hint = "give it longer with --checkpoint-timeout"
                raise CheckpointError(f"the checkpoint took longer than {timeout_s:g} s", hint=hint) from error
            raise checkpoint_error(str(error.details())) from error

    def _status(self, *, verbose: bool) -> cri.ContainerStatusResponse:
        request = cri.ContainerStatusRequest(container_id=self.container_id, verbose=verbose)
        answer: cri.ContainerStatusResponse = _call(
            "ask for the container's state", self.engine.runtime.ContainerStatus, request, CALL_S
        )
        return answer

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self._status(verbose=True).info["info"])
        return info


OnCreated = Callable[[CriContainer], object]


def _read_end(log: Path) -> bytes:
    """Return the last whole lines of a log, LOG_LIMIT_BYTES at most: a container can write as much as it likes."""
    with log.open("rb") as file:
        # The byte before them tells whether the first is whole.
        skipped = max(0, file.seek(0, os.SEEK_END) - LOG_LIMIT_BYTES - 1)
        file.seek(skipped)
        data = file.read(LOG_LIMIT_BYTES + 1)
    return data.partition(b"\n")[2] if skipped else data


def _call(task: str, method: Any, request: Any, timeout_s: float) -> Any:
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise _engine_error(task, error) from error


def checkpoint_error(message: str) -> CheckpointError:
    """Convert a runtime's message about a failed checkpoint, reduced to CRIU's own errors if it has any."""
    reasons = _find_reasons(message)
    if reasons:
        return CheckpointError(f"CRIU could not dump the container: {reasons[0]}", details=reasons[1:])
    first, *rest = _plain(message)
    return CheckpointError(f"the runtime could not checkpoint the container: {first}", details=rest)


def _engine_error(task: str, error: grpc.RpcError) -> EngineError:
    message = str(error.details())
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return EngineError(f"could not {task}: the runtime does not answer", details=[message])
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return EngineError(f"could not {task}: the runtime takes too long")
    first, *rest = _find_reasons(message) or _plain(message)
    return EngineError(f"could not {task}: {first}", details=rest)


def _find_reasons(message: str) -> list[str]:
    """Find CRIU's errors: runc quotes hundreds of lines of CRIU's log, crun only gives its path."""
    where = re.search(r"/\S+/(dump|restore)\.log", message)
    log = Path(where[0]) if where else None
    return find_errors(log.read_text(errors="replace") if log and log.is_file() else message)


def _plain(message: str) -> list[str]:
    """Return the lines of a message, at least one, without runc's log format `time="…" level=error msg="…"`."""
    unquoted = _LOGGED.sub(lambda match: match[1].replace('\\"', '"'), message)
    return unquoted.strip().splitlines()[:MESSAGE_LINES] or ["the runtime does not say why"]
