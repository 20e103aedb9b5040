"""Container runtimes without support for checkpoints. Each runs one image as a pod under the *restricted* standard.

That means: not root, no capabilities, no_new_privs, the runtime's default seccomp profile, and a read-only root
filesystem. See https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cri_api.v1 import api_pb2 as cri
from launcher.bundle import Setup, configure, like_docker, resolve_profile
from support.containerd import make_pause_image, run_containerd

from warmstart.core.network import connect_in
from warmstart.engine.cri import CriContainer, CriEngine
from warmstart.engine.cri_messages import container_config, log_message
from warmstart.image.skopeo import copy_image
from warmstart.node.crio import PAUSE_IMAGE, run_crio
from warmstart.node.session import Session
from warmstart.node.tree import PAUSE_LAYOUT
from warmstart.recipe.model import Container, SecurityContext

IMAGE = "localhost/tests/self:1"
RESTRICTED = SecurityContext(
    capabilities_drop=("ALL",),
    read_only_root_filesystem=True,
    allow_privilege_escalation=False,
    run_as_non_root=True,
)
CONTAINER = Container(image=IMAGE, security_context=RESTRICTED)
PROFILE = "/usr/share/containers/seccomp.json"
CALL_S = 60.0
END_S = 60.0
READY_S = 60.0
LAUNCHER = Path("/.warmstart/launcher")
SUBNETS = {"containerd": "10.71.0.0/24", "crio": "10.72.0.0/24"}


class Started(Protocol):
    """A running container."""

    @property
    def pid(self) -> int:
        """PID of its first process in the runtime's `proc`."""
        ...

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        """Open a TCP connection to the container."""
        ...

    def log(self) -> str:
        """Return its output since it was started or restarted."""
        ...

    def stop(self) -> int:
        """Let the runtime stop it with SIGTERM, and return its exit status."""
        ...

    def restart(self) -> None:
        """Kill it, and let the runtime start it again."""
        ...


class Runtime(Protocol):
    """A runtime with the image in its store."""

    @property
    def proc(self) -> Path:
        """The /proc directory that shows its processes with its own PIDs."""
        ...

    def start(self, **env: str) -> contextlib.AbstractContextManager[Started]:
        """Run the image with these environment variables during the block."""
        ...


def find_application(proc: Path, first_pid: int) -> int:
    """Return the application's first process: the container's own or, after a restore, the child of the launcher."""
    if (proc / str(first_pid) / "exe").readlink() != LAUNCHER:
        return first_pid
    children = (proc / str(first_pid) / "task" / str(first_pid) / "children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def wait_for_line(started: Started, line: str) -> str:
    """Wait until the output contains a line that matches completely, and return it."""
    deadline = time.monotonic() + READY_S
    while not (found := re.search(rf"^{line}$", log := started.log(), re.MULTILINE)):
        assert time.monotonic() < deadline, f"no {line!r} in {log!r}"
        time.sleep(0.05)
    return found[0]


# Podman ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Podman:
    """Podman with an OCI runtime and additional options for `podman run`."""

    session: Session
    directory: Path
    oci_runtime: str
    options: tuple[str, ...] = ()
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def proc(self) -> Path:
        return self.session.proc

    def call(self, *arguments: str | Path, check: bool = True) -> str:
        """Run podman, and return its standard output."""
        paths = ["--root", self.directory / "root", "--runroot", self.directory / "run"]
        paths += ["--tmpdir", self.directory / "tmp", "--network-config-dir", self.directory / "networks"]
        # Debian's podman 5.8 warns about cgroup v1.
        command = ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", "podman", *paths, "--cgroup-manager=cgroupfs"]
        command += ["--events-backend=file", f"--runtime={self.oci_runtime}", *arguments]
        return self.session.run(command, timeout_s=CALL_S, check=check).stdout

    def with_options(self, *options: str) -> Podman:
        """Return a copy with additional options for containers."""
        return replace(self, options=self.options + options)

    @contextlib.contextmanager
    def start(self, **env: str) -> Iterator[Started]:
        name = f"container-{next(self.numbers)}"
        command = ["run", "--detach", "--name", name, "--read-only", "--cap-drop=ALL"]
        command += ["--security-opt=no-new-privileges", "--log-driver=k8s-file"]
        command += [f"--env={key}={value}" for key, value in env.items()]
        try:
            self.call(*command, *self.options, IMAGE)
            yield PodmanContainer(self, name)
        finally:
            self.call("rm", "--force", "--ignore", "--time=0", name)


@dataclass
class PodmanContainer:
    """A container in Podman."""

    podman: Podman
    name: str
    seen: int = 0

    @property
    def pid(self) -> int:
        return int(self._inspect("{{.State.Pid}}"))

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        address = host or self._inspect("{{.NetworkSettings.IPAddress}}")
        return connect_in(self.podman.session.network, (address, port), timeout_s)

    def log(self) -> str:
        return self._whole_log()[self.seen :]

    def stop(self) -> int:
        self.podman.call("stop", f"--time={END_S:.0f}", self.name)
        return int(self.podman.call("wait", self.name))

    def restart(self) -> None:
        self.podman.call("kill", self.name)
        self.podman.call("wait", self.name)
        self.seen = len(self._whole_log())
        self.podman.call("start", self.name)

    def _whole_log(self) -> str:
        path = self._inspect("{{.HostConfig.LogConfig.Path}}")
        return _read_cri_log(Path(path))

    def _inspect(self, template: str) -> str:
        return self.podman.call("inspect", "--format", template, self.name).strip()


@contextlib.contextmanager
def open_podman(session: Session, archive: Path, oci_runtime: str) -> Iterator[Podman]:
    """Set up Podman with the image of an OCI archive that the session can see."""
    podman = Podman(session, session.workspace / f"podman-{oci_runtime}", oci_runtime)
    found = podman.call("pull", "--quiet", f"oci-archive:{archive}").strip()
    podman.call("tag", found, IMAGE)
    yield podman


# CRI -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CriRuntime:
    """A runtime that is used through CRI, as by the kubelet."""

    engine: CriEngine
    container: Container = CONTAINER
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def proc(self) -> Path:
        return self.engine.proc

    @contextlib.contextmanager
    def start(self, **env: str) -> Iterator[Started]:
        container = replace(self.container, env=(*self.container.env, *env.items()))
        with self.engine.start(container, IMAGE, f"pod-{next(self.numbers)}") as running:
            yield CriStarted(container, running)


@dataclass
class CriStarted:
    """A container in its own pod."""

    container: Container
    running: CriContainer
    attempt: int = 0

    @property
    def pid(self) -> int:
        return self.running.pid

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        return self.running.connect(port, host, timeout_s)

    def log(self) -> str:
        return _read_cri_log(self.running.log_file)

    def stop(self) -> int:
        return self._stop(END_S)

    def restart(self) -> None:
        """Create a new container in the same pod, as the kubelet does."""
        self._stop(0)
        runtime, old = self.running.engine.runtime, self.running.container_id
        pod = (
            runtime.ListContainers(cri.ListContainersRequest(filter=cri.ContainerFilter(id=old)), timeout=CALL_S)
            .containers[0]
            .pod_sandbox_id
        )
        status = runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod), timeout=CALL_S).status
        directory = self.running.log_file.parent
        self.attempt += 1
        config = container_config(self.container, IMAGE, status.metadata.name, self.running.address, directory)
        config.metadata.attempt = self.attempt
        config.log_path = f"container-{self.attempt}.log"
        sandbox = cri.PodSandboxConfig(metadata=status.metadata, log_directory=str(directory))
        sandbox.linux.security_context.namespace_options.CopyFrom(status.linux.namespaces.options)
        create = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        new = runtime.CreateContainer(create, timeout=CALL_S).container_id
        runtime.StartContainer(cri.StartContainerRequest(container_id=new), timeout=CALL_S)
        self.running = replace(self.running, container_id=new, log_file=directory / config.log_path)

    def _stop(self, grace_s: float) -> int:
        request = cri.StopContainerRequest(container_id=self.running.container_id, timeout=int(grace_s))
        self.running.engine.runtime.StopContainer(request, timeout=CALL_S)
        exit_code = self.running.state().exit_code
        assert exit_code is not None
        return exit_code


@contextlib.contextmanager
def open_crio(session: Session, archive: Path, container: Container = CONTAINER) -> Iterator[CriRuntime]:
    """Run CRI-O without support for checkpoints, with the image of an OCI archive."""
    with (
        run_crio(session, "crio", subnet=SUBNETS["crio"], restore=False) as crio,
        CriEngine(crio.endpoint, proc=session.proc, network=session.network, scratch=crio.state / "pods") as engine,
    ):
        copy_image(session, f"oci:{PAUSE_LAYOUT}", crio.store + PAUSE_IMAGE)
        copy_image(session, f"oci-archive:{archive}", crio.store + IMAGE)
        yield CriRuntime(engine, container)


@contextlib.contextmanager
def open_containerd(session: Session, archive: Path, program: Path) -> Iterator[CriRuntime]:
    """Run a containerd with the image of an OCI archive. The archive must contain the name IMAGE."""
    state = session.workspace / "containerd"
    pause = make_pause_image(session, state / "pause", PAUSE_IMAGE)
    with run_containerd(session, program, state, subnet=SUBNETS["containerd"], pause=PAUSE_IMAGE) as endpoint:
        for image in (pause, archive):
            ctr = [program.with_name("ctr"), "--address", endpoint, "--namespace=k8s.io"]
            session.run([*ctr, "images", "import", image], timeout_s=CALL_S)
        with CriEngine(
            f"unix://{endpoint}", proc=session.proc, network=session.network, scratch=state / "pods"
        ) as engine:
            yield CriRuntime(engine)


# runc ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runc:
    """runc alone, with a seccomp filter as strict as Docker's. Podman only unpacks the image."""

    podman: Podman
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def proc(self) -> Path:
        return self.podman.proc

    @contextlib.contextmanager
    def start(self, **env: str) -> Iterator[Started]:
        name = f"runc-{next(self.numbers)}"
        self.podman.call("create", "--name", name, IMAGE)
        try:
            root = Path(self.podman.call("mount", name).strip())
            with RuncContainer(self.podman, name, self._configure(root, env)) as container:
                yield container
        finally:
            self.podman.call("rm", "--force", name)

    def _configure(self, root: Path, env: Mapping[str, str]) -> str:
        image = json.loads(self.podman.call("image", "inspect", "--format", "{{json .Config}}", IMAGE))
        command = [*image["Entrypoint"], *(image.get("Cmd") or [])]
        profile = json.loads((self.podman.session.root / PROFILE.lstrip("/")).read_text())
        user, group = map(int, image["User"].split(":"))
        setup = Setup(
            user=user,
            group=group,
            seccomp=like_docker(resolve_profile(profile, (), platform.machine())),
            namespaces=("pid", "ipc", "uts", "mount", "network"),
            environment=(*image["Env"], *(f"{key}={value}" for key, value in env.items())),
        )
        return configure(root, command, setup)


class RuncContainer:
    """A container that runs until the end of the block."""

    def __init__(self, podman: Podman, name: str, configuration: str) -> None:
        self._session = podman.session
        self._name = name
        self._bundle = podman.session.workspace / name
        self._bundle.mkdir()
        (self._bundle / "config.json").write_text(configuration)
        self._undo = contextlib.ExitStack()
        self._attempt = 0

    def __enter__(self) -> RuncContainer:
        self._run()
        return self

    def __exit__(self, *_: object) -> None:
        self._delete()
        self._undo.close()

    def _run(self) -> None:
        self._attempt += 1
        self._log = self._bundle / f"log-{self._attempt}"
        command = ["runc", "run", "--bundle", self._bundle, self._name]
        self._process = self._undo.enter_context(self._session.background(command, log_file=self._log))
        wait_for(lambda: bool(self._log.read_text()), self._process, self._log)

    def _delete(self) -> None:
        self._session.run(["runc", "delete", "--force", self._name], timeout_s=CALL_S, check=False)

    @property
    def pid(self) -> int:
        return int(json.loads(self._session.run(["runc", "state", self._name], timeout_s=CALL_S).stdout)["pid"])

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        network = self._session.proc / str(self.pid) / "ns/net"
        return connect_in(network, (host or "127.0.0.1", port), timeout_s)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        self._session.run(["runc", "kill", self._name, "TERM"], timeout_s=CALL_S)
        return self._process.wait(END_S)

    def restart(self) -> None:
        self._session.run(["runc", "kill", self._name, "KILL"], timeout_s=CALL_S)
        assert self._process.wait(END_S) == 128 + signal.SIGKILL
        self._delete()
        self._run()


# ------------------------------------------------------------------------------------------------------------------


def _read_cri_log(path: Path) -> str:
    return "".join(f"{log_message(line)}\n" for line in path.read_text(errors="replace").splitlines())


def wait_for(condition, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if condition():
            return
        assert running.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())
